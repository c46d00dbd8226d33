"""CoNLL columns: one token a line with its label in the last column, an empty line between two sentences."""

from __future__ import annotations

from collections import Counter

from luthier.core.errors import DataError
from luthier.data.rows import Reading, Rejected, Rows
from luthier.data.spans import SPANS, TEXT, join_tokens, spans_of_words

DOCUMENT = "-DOCSTART-"
"""Stands at the beginning of a document in the sets of CoNLL 2003."""


def read_conll(reading: Reading) -> Rows:
    """Read a sentence a row: its text, the tokens joined by spaces, and its spans. A file of one column has no labels.

    Raises:
        DataError: its lines are no columns.
    """
    path = str(reading.path)
    sentences: list[tuple[int, list[tuple[int, list[str]]]]] = []
    fresh = True
    with reading.stream("\n") as stream:
        for number, line in enumerate(stream, 1):
            fields = line.split("\t") if "\t" in line else line.split()
            fields = [field.strip() for field in fields]
            if not any(fields) or fields[0] == DOCUMENT:
                fresh = True
                continue
            if fresh:
                sentences.append((number, []))
                fresh = False
            sentences[-1][1].append((number, fields))
    counts = Counter(len(fields) for _, lines in sentences for _, fields in lines if fields[0] != "#")
    width = counts.most_common(1)[0][0] if counts else 0
    found = reading.rows([TEXT] if width < 2 else [TEXT, SPANS])
    for first, lines in sentences:
        told = [(number, fields) for number, fields in lines if fields[0] != "#" or len(fields) == width]  # the others are comments
        short = next(((number, fields) for number, fields in told if len(fields) != width), None)
        if short is not None:
            number, fields = short
            reason = f"line {number} has {len(fields)} columns, and most have {width}: each token needs its label in the last column"
            found.rejected.append(Rejected(path, first, reason, "\n".join(" ".join(fields) for _, fields in lines)[:200]))
        elif told:
            text, places = join_tokens([fields[0] for _, fields in told])
            spans = spans_of_words(places, [fields[-1] for _, fields in told])
            found.add(first, {TEXT: text} if width < 2 else {TEXT: text, SPANS: [list(span) for span in spans]})
    if not found.values and not found.rejected:
        raise DataError(f"{path} holds no tokens", "give one token a line, and an empty line between two sentences")
    return found
