"""Preference pairs: a better and a worse answer to the same prompt. They can be checked; training on them is not built yet."""

from __future__ import annotations

from luthier.core.types import Record
from luthier.data.reading import Columns, RowKind
from luthier.data.rows import Rows
from luthier.data.spec import Data
from luthier.families.checked_only import CheckedOnly

PROMPTS = ("prompt", "question", "instruction")
"""Names of the column that holds the prompt."""


class Preference(CheckedOnly):
    """See the module."""

    name = "preference"
    kind = RowKind("text", "better answer")
    specificity = 2
    base = "smollm2-135m"
    base_kinds = ("decoder",)
    instead = "learn the chosen answers: --task chat --input prompt --target chosen"

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """The columns chosen and rejected."""
        if not {"chosen", "rejected"} <= set(rows.columns) or asked.target:
            return None
        names = asked.input or tuple(name for name in PROMPTS if name in rows.columns)[:1]
        return Columns(self.name, names, "chosen", "the columns chosen and rejected are preference pairs")

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """Both answers must say something, and differ."""
        better, worse = (str(record.values.get(name) or "").strip() for name in ("chosen", "rejected"))
        return (
            "chosen or rejected says nothing" if not better or not worse else "chosen and rejected are the same" if better == worse else ""
        )


FAMILY = Preference()
