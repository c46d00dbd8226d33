"""What each check is given: the rows with their texts, labels and parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from luthier.core.finding import Finding, Severity
from luthier.core.randomness import permutation
from luthier.core.types import Record
from luthier.data.near_duplicates import clusters, normalise
from luthier.data.row_reader import RowKind
from luthier.data.sources.images import PIXELS_HASH, THUMBNAIL

SHOWN = 200
"""Rows that a finding carries with it; the count is of all."""
SAMPLED = 5_000
"""Rows at most that a check with a model looks at."""
SAMPLED_CHARACTERS = 450_000
"""What these rows may hold together, about 100,000 tokens: long rows cost more, so fewer are looked at (but no fewer than 1,000)."""
FEWEST_SAMPLED = 1_000
LONGEST_READ = 1_000
"""Characters of a row that count: no more of it is read."""


@dataclass(frozen=True)
class Sheet:
    """All rows of a data set, side by side.

    Args:
        records: as read.
        parts: train, validation or test for each.
        given: whether the parts came as files of their own.
        kind: what the rows are like.
        texts: what is read of each; of an image, its file's name.
        labels: what is learned of each: the class, or the answer.
        encode: texts → vectors of unit length, # (texts, width); None where no model is at hand.
        tokens: texts → how many tokens each has; None where no tokenizer is at hand.
        context: the most tokens the base reads; None where it is not known.
        control: the base's control tokens, as text.
        known_clusters: the clusters of near-duplicates, where they were found before.
        target: the column that is learned.
        others: the columns that are neither read nor learned.
        group: the column whose rows stay in one part, where one was named.
        by_time: whether the parts of one file were divided by time, which may tear copies apart.
    """

    records: Sequence[Record]
    parts: Sequence[str]
    given: bool
    kind: RowKind
    texts: list[str]
    labels: list[str]
    encode: Callable[[Sequence[str]], np.ndarray] | None = None
    tokens: Callable[[Sequence[str]], Sequence[int]] | None = None
    context: int | None = None
    control: tuple[str, ...] = ()
    known_clusters: Sequence[int] | None = None
    target: str | None = None
    others: tuple[str, ...] = ()
    group: str | None = None
    by_time: bool = False

    def __len__(self) -> int:
        return len(self.records)

    @property
    def classes(self) -> bool:
        """Whether each row has a class."""
        return self.kind.classes

    @property
    def images(self) -> bool:
        """Whether the rows are images."""
        return self.kind.images

    @cached_property
    def plain(self) -> list[str]:
        """The texts without what copies differ in; of an image, the hash of its pixels."""
        if self.images:
            return [record.values[PIXELS_HASH] for record in self.records]
        return [normalise(text) for text in self.texts]

    @cached_property
    def clusters(self) -> Sequence[int]:
        """For each row the first row of its cluster of near-duplicates."""
        return self.known_clusters if self.known_clusters is not None else clusters(self.texts)

    @cached_property
    def sample(self) -> list[int]:
        """The rows that a check with a model looks at."""
        order = permutation(len(self), "checked rows")[:SAMPLED]
        totals = np.cumsum([min(len(self.texts[row]), LONGEST_READ) for row in order])
        return sorted(order[: max(FEWEST_SAMPLED, int(np.searchsorted(totals, SAMPLED_CHARACTERS)))].tolist())

    @cached_property
    def features(self) -> np.ndarray:
        """The model's view of the sampled rows, # (sampled, width)"""
        assert self.encode is not None
        return self.encode([self.texts[row] for row in self.sample])

    def finding(
        self,
        check: str,
        severity: Severity,
        claim: str,
        remedy: str,
        rows: Iterable[int],
        drop: Iterable[int] = (),
        notes: Sequence[str] = (),
        **evidence: Any,
    ) -> Finding:
        """A finding with the rows behind it.

        Args:
            check: its name.
            severity: note, warning or stop.
            claim: one sentence.
            remedy: what to do.
            rows: the numbers of the rows, the clearest first.
            drop: the numbers of those that `--fix` takes out.
            notes: a remark for each row that is shown.
            evidence: the numbers behind the claim.
        """
        indices = list(rows)
        entries = [self.describe_row(row) for row in indices[:SHOWN]]
        for row, note in zip(entries, notes, strict=False):
            row["note"] = note
        dropped = [[self.records[row].source, self.records[row].row] for row in drop]
        more = {"drop": dropped} if dropped else {}
        return Finding(check=check, severity=severity, claim=claim, remedy=remedy,
                       evidence={**evidence, "count": len(indices), "rows": entries, **more})  # fmt: skip

    def describe_row(self, row: int) -> dict[str, Any]:
        """A row as a person can find it again."""
        record = self.records[row]
        return {
            "file": record.source,
            "line": record.row,
            "part": self.parts[row],
            "text": self.texts[row][:400],
            "label": self.labels[row][:200],
            **({"thumbnail": record.values[THUMBNAIL]} if self.images else {}),
        }
