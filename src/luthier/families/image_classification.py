"""Image classification: one class an image."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.core.types import Record
from luthier.data import pictures
from luthier.data.infer import count_values, find_label
from luthier.data.reading import Columns, RowKind, RowView
from luthier.data.rows import Rejected, Rows
from luthier.data.sources.images import ENDINGS, KEPT
from luthier.data.spec import Data
from luthier.data.usable import classes, reject_label, reject_reason
from luthier.families.checked_only import CheckedOnly


class ImageClassification(CheckedOnly):
    """See the module."""

    name = "image_classification"
    kind = RowKind("image", "class")
    specificity = 3

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """Rows that name images, which the reader has looked at, and a label."""
        if not {"pixels", "thumbnail"} <= set(rows.columns):
            return None
        named = [name for name in rows.columns if str(rows.values[0].get(name) or "").lower().endswith(ENDINGS)]
        column = asked.input or (named[0],)
        others = Rows(columns=[name for name in rows.columns if name not in (*column, *KEPT)], values=rows.values)
        target = asked.target or find_label(others, path, column)
        return Columns(self.name, column, target, f"{column[0]!r} names images; {count_values(rows, target)}")

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """Without an image or without a label a row teaches nothing."""
        return reject_reason(record, columns) or reject_label(record, columns)

    def view(self, record: Record, data: Data) -> RowView:
        """The classes are split in proportion."""
        seen = super().view(record, data)
        return RowView(seen.text, seen.target, seen.target)

    def fit(self, parts: dict[str, list[Record]], columns: Columns, rejected: list[Rejected], path: str) -> tuple[str, ...]:
        """The classes that have rows enough."""
        return classes(parts, columns, rejected, path)

    def clusters(self, records: Sequence[Record], data: Data) -> Sequence[int]:
        """By how the images look."""
        return pictures.clusters([record.values["thumbnail"] for record in records])

    def identity(self, record: Record, data: Data) -> str:
        """The hash of the pixels."""
        return record.values["pixels"]


FAMILY = ImageClassification()
