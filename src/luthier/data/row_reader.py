"""What the data room asks of a family: which tables it recognises, and how it reads a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from luthier.core.types import Record
from luthier.data.rows import Rejected, Rows
from luthier.data.spec import Data


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read and which is learned, and why.

    Args:
        task: the family that recognised the table.
        input: the columns that are read.
        target: the column that is learned; None where the rows are their own target.
        reason: one sentence for the person.
        time: the column by which rows are split, the last ones tested, where nobody named another; None splits by chance.
        normal: the target's value of the rows to be learned from, where only those are; empty where all are; None where the family knows no such thing.
    """

    task: str
    input: tuple[str, ...]
    target: str | None
    reason: str
    time: str | None = None
    normal: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.input, *([self.target] if self.target is not None else []))


@dataclass(frozen=True)
class RowKind:
    """What rows are like, as far as splits and checks need to know.

    Args:
        reads: texts or images.
        learns: one class a row, several classes, a number, an answer in words, the better of two answers, whether an answer is good, labelled parts of the text, or nothing that stands in a column.
        beside: further columns that are always read.
        names: what a person calls what is read and what is learned of a row, where an answer is learned.
        english_base: whether the base that is used where none is named reads English.
    """

    reads: Literal["text", "image"] = "text"
    learns: Literal["class", "classes", "number", "answer", "better answer", "judged answer", "spans", "nothing"] = "class"
    beside: tuple[str, ...] = ()
    names: tuple[str, str] = ("prompt", "answer")
    english_base: bool = True

    @property
    def classes(self) -> bool:
        """Whether each row has one class."""
        return self.learns == "class"

    @property
    def answers(self) -> bool:
        """Whether an answer in words is learned, a preference between two, or whether one is good."""
        return self.learns in ("answer", "better answer", "judged answer")

    @property
    def images(self) -> bool:
        """Whether the rows are images."""
        return self.reads == "image"


@dataclass(frozen=True)
class RowView:
    """A row as splits and checks see it.

    Args:
        text: what is read of it; of an image, its file's name.
        target: what is learned, as text; empty where nothing is.
        stratum: what the parts of a split should have in proportion; the same for all rows where nothing should.
    """

    text: str
    target: str
    stratum: str = ""


class RowReader(Protocol):
    """A family, as far as its rows are concerned."""

    @property
    def name(self) -> str:
        """As after `--task`."""
        ...

    @property
    def kind(self) -> RowKind:
        """What its rows are like."""
        ...

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """Why a row cannot be used; empty where it can."""
        ...

    def row_view(self, record: Record, data: Data) -> RowView:
        """A row as splits and checks see it."""
        ...

    def fit(self, parts: dict[str, list[Record]], columns: Columns, rejected: list[Rejected], path: str) -> tuple[str, ...]:
        """The classes that the rows have, where they have some; rows that cannot be learned from leave their parts."""
        ...

    def clusters(self, records: Sequence[Record], data: Data) -> Sequence[int]:
        """For each row the number of its cluster of near-duplicates."""
        ...

    def identity(self, record: Record, data: Data) -> str:
        """What copies of a row have in common."""
        ...


Recognise = Callable[[Rows, str, Data], tuple[RowReader, Columns]]
"""Rows, their path and what was asked for → who reads them, and which columns."""
