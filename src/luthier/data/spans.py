"""Labelled spans of a text: how cells hold them, what is wrong with them, and how they are told from the labels of words (BIO)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from luthier.data.rows import Rejected, Rows

WORD = re.compile(
    r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+|[^\w\s]"
)
"""A word, a sign of a script that is written without spaces, or a punctuation mark: what gets one label."""
OUTSIDE = "O"
PREFIXED = re.compile(r"([BIESLU])[-_](.+)", re.DOTALL)
"""BIO and its relatives (IOB1, BIOES, BILOU): how a label says where in its span a word stands."""
OUT = ("", "O", "_", "-X-")
"""Labels of words outside of every span."""
TOKEN_COLUMNS = ("tokens", "words")
LABEL_COLUMNS = ("ner_tags", "labels", "tags", "ner", "chunk_tags", "pos_tags")
"""Columns with a label for each token, the first found taken first."""
TEXT, SPANS = "text", "spans"
"""Columns that are made of tokens and their labels."""


class Span(NamedTuple):
    """A labelled part of a text.

    Args:
        start: its first character, from 0.
        end: the character behind its last.
        label: its kind.
    """

    start: int
    end: int
    label: str

    def describe(self, text: str) -> str:
        """The span for a person.

        >>> Span(0, 5, "person").said("Maria left")
        'person: Maria'
        """
        return f"{self.label}: {text[self.start : self.end]}"


def words_in(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end.

    >>> words_in("I'm in Rome.")
    [(0, 1), (1, 2), (2, 3), (4, 6), (7, 11), (11, 12)]
    """
    return [match.span() for match in WORD.finditer(text)]


def spans_of(cell: Any) -> list[Span] | None:
    """The spans of a cell, by their start; None where the cell says nothing, which is not the same as an empty list.

    >>> spans_of([{"start": 4, "end": 8, "label": "place"}, [0, 3, "person"]])
    [Span(start=0, end=3, label='person'), Span(start=4, end=8, label='place')]

    Raises:
        ValueError: it holds something that is no span.
    """
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            raise ValueError("is no list of spans in JSON") from None
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    if not isinstance(cell, list | tuple):
        raise ValueError(f"holds a {type(cell).__name__}, not a list of spans")
    return sorted(_span(item) for item in cell)


def _span(item: Any) -> Span:
    """One span of a cell.

    Raises:
        ValueError: it is none.
    """
    fields = [item.get(name) for name in ("start", "end", "label")] if isinstance(item, dict) else item
    if not isinstance(fields, list | tuple) or len(fields) != 3:
        raise ValueError(
            f'holds {str(item)[:60]!r}, which is no span: write {{"start": 0, "end": 5, "label": "person"}} or [0, 5, "person"]'
        )
    start, end, label = fields
    if not isinstance(start, int) or not isinstance(end, int) or isinstance(start, bool) or isinstance(end, bool):
        raise ValueError(f"holds a span whose start and end are {start!r} and {end!r}: give whole numbers, counted in characters from 0")
    if isinstance(label, int | float) and not isinstance(label, bool):
        raise ValueError(f"holds a span from {start} to {end} whose label is the number {label}: write the name of its kind")
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"holds a span from {start} to {end} without a label: name its kind")
    return Span(start, end, label.strip())


def wrong_spans(spans: Sequence[Span], text: str) -> str:
    """What is wrong with the spans of a text, with the remedy; empty where nothing is.

    Args:
        spans: by their start.
        text: they are parts of.
    """
    before: Span | None = None
    for span in spans:
        where = f"the span {span.start} to {span.end} ({span.label})"
        if span.start >= span.end:
            return f"{where} is empty: end is the character behind its last one"
        if span.start < 0 or span.end > len(text):
            return f"{where} lies outside of the text, which has {len(text)} characters: count characters from 0, not bytes or words"
        if not text[span.start : span.end].strip():
            return f"{where} holds nothing but spaces: move it to the words that are meant"
        if before is not None and span.start < before.end:
            return f"{where} overlaps the one from {before.start} to {before.end} ({before.label}): a word has one label, so keep one of them, or learn the kinds in two runs"
        before = span
    return ""


def trim_span(span: Span, text: str) -> Span:
    """The span without spaces at its ends."""
    inner = text[span.start : span.end]
    start = span.start + len(inner) - len(inner.lstrip())
    return Span(start, start + len(inner.strip()), span.label)


def spans_of_words(words: Sequence[tuple[int, int]], labels: Sequence[str]) -> list[Span]:
    """The spans that the labels of words say. A label without a prefix labels its one word, so parts of speech are spans of a word each.

    >>> spans_of_words([(0, 3), (4, 8), (9, 11)], ["B-place", "I-place", "O"]), spans_of_words([(0, 3), (4, 8)], ["DET", "NOUN"])
    ([Span(start=0, end=8, label='place')], [Span(start=0, end=3, label='DET'), Span(start=4, end=8, label='NOUN')])

    Args:
        words: where each begins and ends.
        labels: of each, as in BIO, IOB1, BIOES or BILOU, or plain.
    """
    spans: list[Span] = []
    open_kind = ""
    for (start, end), label in zip(words, labels, strict=True):
        prefixed = PREFIXED.fullmatch(label)
        prefix, kind = (prefixed[1], prefixed[2]) if prefixed else ("U", label)
        if label in OUT:
            open_kind = ""
        elif prefix in "IEL" and open_kind == kind:  # one that goes on where none was begun, begins one
            spans[-1] = Span(spans[-1].start, end, kind)
            open_kind = kind if prefix == "I" else ""
        else:
            spans.append(Span(start, end, kind))
            open_kind = kind if prefix in "BI" else ""
    return spans


def tags_of(kinds: Sequence[str]) -> list[str]:
    """The labels that a word can have: outside, and for each kind of span its beginning and its inside.

    >>> tags_of(["place"])
    ['O', 'B-place', 'I-place']
    """
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI")]


def join_tokens(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Tokens as a text, a space between two of them, and where each begins and ends in it."""
    places, at = [], 0
    for token in tokens:
        places.append((at, at + len(token)))
        at += len(token) + 1
    return " ".join(tokens), places


def _are_texts(cell: Any) -> bool:
    return isinstance(cell, list | tuple) and bool(cell) and all(isinstance(item, str) for item in cell)


def has_tokens(rows: Rows) -> bool:
    """Whether a column of a table holds lists of tokens: it is read, and names no labels."""
    return any(name in rows.columns and all(_are_texts(row.get(name)) for row in rows.values) for name in TOKEN_COLUMNS)


def describe_tokens(rows: Rows, path: str) -> Rows:
    """Give a table that holds lists of tokens a text column, and where there are labels of the tokens, one of spans; other tables stay as they are.

    Args:
        rows: as read.
        path: of the file.
    """
    tokens = next((name for name in TOKEN_COLUMNS if name in rows.columns and all(_are_texts(row.get(name)) for row in rows.values)), None)
    if tokens is None or TEXT in rows.columns or not rows.values:
        return rows
    labels = [name for name in LABEL_COLUMNS if name in rows.columns and any(_are_texts(row.get(name)) for row in rows.values)]
    columns = {name: SPANS if not index else f"{name}_{SPANS}" for index, name in enumerate(labels)}
    table = Rows(columns=[*rows.columns, TEXT, *columns.values()], header=rows.header, rejected=rows.rejected, notes=rows.notes)
    for line, row in zip(rows.lines, rows.values, strict=True):
        text, places = join_tokens(row[tokens])
        more: dict[str, Any] = {TEXT: text}
        reason = ""
        for name, spans in columns.items():
            tags = row.get(name)
            if tags is not None and (not isinstance(tags, list | tuple) or not all(isinstance(label, str) for label in tags)):
                reason = f"{name} holds something that is no list of names: write each label's name, such as B-person or O"
            elif tags is not None and len(tags) != len(places):
                reason = f"{len(places)} {tokens} and {len(tags)} {name}: each token needs one label, O where it is in no span"
            else:
                more[spans] = None if tags is None else [list(span) for span in spans_of_words(places, tags)]
        if reason:
            table.rejected.append(Rejected(path, line, reason, dict(row)))
        else:
            table.add(line, {**row, **more})
    table.met = rows.met
    return table
