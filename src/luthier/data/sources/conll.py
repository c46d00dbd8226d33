"""CoNLL columns: one token a line with its label in the last column, an empty line between two sentences."""

from __future__ import annotations

import re
from collections import Counter

from luthier.core.errors import DataError
from luthier.data.row_files import FileOfRows
from luthier.data.rows import Rejected, Rows
from luthier.data.spans import SPANS, TEXT, join_tokens, spans_of_words

COMMENT = re.compile(r"# ?\w+ = ")
"""As in CoNLL-U: `# sent_id = 3`; a line that begins with a number sign may also be a token."""
DOCUMENT = "-DOCSTART-"
"""Stands at the beginning of a document in the sets of CoNLL 2003."""


def read_conll(source: FileOfRows) -> Rows:
    """Read a sentence a row: its text, the tokens joined by spaces, and its spans. A file of one column has no labels.

    Raises:
        DataError: its lines are no columns.
    """
    path = str(source.path)
    sentences: list[tuple[int, list[tuple[int, list[str]]]]] = []
    fresh = True
    with source.stream("\n") as stream:
        for number, line in enumerate(stream, 1):
            fields = [field.strip() for field in line.split("\t")] if "\t" in line else line.split()
            if COMMENT.match(line):
                continue
            if not any(fields) or fields[0] == DOCUMENT:
                fresh = True
                continue
            if fresh:
                sentences.append((number, []))
                fresh = False
            sentences[-1][1].append((number, fields))
    counts = Counter(len(fields) for _, lines in sentences for _, fields in lines)
    width = counts.most_common(1)[0][0] if counts else 0
    rows = source.rows([TEXT] if width < 2 else [TEXT, SPANS])
    for first, lines in sentences:
        short = next(((number, fields) for number, fields in lines if len(fields) != width), None)
        if short is not None:
            number, fields = short
            reason = f"line {number} has {len(fields)} columns, and most have {width}: each token needs its label in the last column"
            rows.rejected.append(Rejected(path, first, reason, "\n".join(" ".join(fields) for _, fields in lines)[:200]))
        else:
            text, places = join_tokens([fields[0] for _, fields in lines])
            spans = spans_of_words(places, [fields[-1] for _, fields in lines])
            rows.add(first, {TEXT: text} if width < 2 else {TEXT: text, SPANS: [list(span) for span in spans]})
    if not rows.values and not rows.rejected:
        raise DataError(f"{path} holds no tokens", "give one token a line, and an empty line between two sentences")
    return rows
