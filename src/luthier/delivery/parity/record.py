"""What parity found, as data and as lines for a person."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from luthier.core.words import plural

State = Literal["same", "parts", "unseen"]


@dataclass(frozen=True)
class StageResult:
    """One stage.

    Args:
        name: one of `exporter.STAGES`.
        state: same, parts, or unseen where nobody could look.
        rows: that were looked at.
        largest: difference that was found, in `unit`; None where there is no number.
        allowed: what rounding explains.
        unit: of both.
        detail: where it parts, with the row; or what else a person should know.
        evidence: what the reason is found by.
    """

    name: str
    state: State
    rows: int = 0
    largest: float | None = None
    allowed: float | None = None
    unit: str = ""
    detail: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ParityRecord:
    """The proof that an exported form says what the trainer says, or where it stops doing so.

    Args:
        stages: in their order.
        runtime: that was asked.
        precision: of the export's weights.
        rows: that were looked at, and where they are from.
        reason: why it parts, likely; empty where it does not.
        metric: its name, the trainer's value with its interval, and the export's; "rounded": the trainer's with its weights rounded as the export's are.
        rounding: what the rounding that was asked for does to the metric; empty where nothing is rounded, or a stage before the metric parts.
    """

    stages: tuple[StageResult, ...]
    runtime: str
    precision: str
    rows: str
    reason: str = ""
    metric: dict[str, Any] = field(default_factory=dict)
    rounding: str = ""

    @property
    def first(self) -> StageResult | None:
        """The first stage that parts."""
        return next((stage for stage in self.stages if stage.state == "parts"), None)

    @property
    def same(self) -> bool:
        """Whether no stage parts, and some stage was looked at."""
        return self.first is None and any(stage.state == "same" for stage in self.stages)

    @property
    def verdict(self) -> str:
        """In a sentence."""
        first = self.first
        if first is None:
            return "same" if self.same else "nothing was looked at"
        by = f" by {_number(first.largest)} {first.unit}".rstrip() if first.largest is not None else ""
        return f"parts at {first.name}{by}" + (f", likely because {self.reason}" if self.reason else "")

    def as_data(self) -> dict[str, Any]:
        """For JSON; what is not a finite number is a text."""
        stages = [{name: value for name, value in asdict(stage).items() if name != "evidence"} for stage in self.stages]
        data = {"same": self.same, "verdict": self.verdict, "stage": self.first.name if self.first else None, "reason": self.reason, "runtime": self.runtime,
                "precision": self.precision, "rows": self.rows, "stages": stages, "metric": self.metric,
                "rounding": self.rounding}  # fmt: skip
        return _name_infinities(data)

    def lines(self) -> list[str]:
        """The stages as a table, and the verdict."""
        return lines_of(self.as_data())


def lines_of(record: dict[str, Any]) -> list[str]:
    """The stages of a record as a table, and the verdict.

    Args:
        record: as `ParityRecord.as_data` gives it.
    """
    results = [f"{record['rows']}, trainer against {record['runtime']} ({record['precision']})"]
    for stage in record["stages"]:
        value, allowed = stage["largest"], stage["allowed"]
        apart = f"{_number(value)} of {_number(allowed)} {stage['unit']}" if value is not None and allowed is not None else _number(value) + f" {stage['unit']}" if value is not None else ""  # fmt: skip
        rows = plural(stage["rows"], "row") if stage["rows"] else ""
        results.append(f"  {stage['name']:<18} {stage['state']:<7} {rows:<10} {apart:<38} {stage['detail']}".rstrip())
    if record.get("rounding"):  # records of an earlier version have none
        results.append(f"rounding: {record['rounding']}")
    return [*results, f"verdict: {record['verdict']}"]


def _number(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _name_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _name_infinities(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_name_infinities(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
