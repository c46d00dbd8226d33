"""Parity: the exported form says what the trainer says, stage by stage, or the first stage that parts is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from luthier.core.errors import DataError
from luthier.core.types import Example, Record, Scores
from luthier.delivery.exports.exporter import METRIC, STAGES, TEXT, WEIGHTS, Runtime, Say
from luthier.delivery.parity.reasons import explain
from luthier.delivery.parity.record import ParityRecord, StageResult
from luthier.delivery.parity.tolerances import tolerance_of
from luthier.delivery.parity.trainer import Trainer, open_trainer
from luthier.evaluation.compare import interval, paired_interval
from luthier.evaluation.metrics import METRICS, measure
from luthier.evaluation.score import score
from luthier.models.base import Base

MOST_ROWS = {"text": 32, "sequence": 64, "gaps": 64, "picture": 128}
"""What a network gives → rows that are looked at if nobody says otherwise; writing takes long."""
ROWS = 200
"""Of all others."""


class Stages(Protocol):
    """What `check_parity` runs, one kind of network each."""

    def rendered(self) -> StageResult:
        """Rendered text."""
        ...

    def tokens(self) -> StageResult:
        """Token ids."""
        ...

    def numbers(self) -> StageResult:
        """Log-probabilities, or what else the network gives."""
        ...

    def text(self) -> StageResult | None:
        """Decoded text; None of a network that says nothing in words."""
        ...


def check_parity(
    bundle: Base, runtime: Runtime, records: Sequence[Record], *, folder: Path | None = None, metric: str | None = None, most: int | None = None,
    rows: str = "", say: Say = lambda line: None,
) -> ParityRecord:  # fmt: skip
    """Compare a bundle with an exported form of it.

    Args:
        bundle: resolved.
        runtime: the exported form, opened; it stays open.
        records: rows, with what is learned of them where there is a metric to be measured.
        folder: of the export, whose settings are compared for the reason.
        metric: that decided the verdict; None: the family's first.
        most: rows that are looked at; evenly over all.
        rows: where they are from, for a person.
        say: told what is looked at.

    Raises:
        DataError: there are no rows.
    """
    trainer = open_trainer(bundle)
    if not records and trainer.family.gives != "words":
        raise DataError("there are no rows to compare the export on", "give some: --rows FILE")
    most = min(most or MOST_ROWS.get(trainer.family.gives, ROWS), len(records))
    part = [records[number * len(records) // most] for number in range(most)]
    rows = f"{len(part):,} of {rows}" if rows and len(part) < len(records) else rows or f"{len(part):,} rows"
    stages = _stages(trainer, runtime, part)
    results: list[StageResult] = []
    asks = (stages.rendered, stages.tokens, lambda: _weights(runtime, bundle.folder), stages.numbers, stages.text)
    for name, ask in zip(STAGES, asks, strict=False):
        say(name)
        why = runtime.unseen.get(name, "")
        if name == TEXT and any(each.state == "parts" for each in results):
            why = why or "not looked at, for a stage before it parts"
        stage = StageResult(name, "unseen", detail=why) if why else ask()
        if stage is not None:
            results.append(stage)
    say(METRIC)
    result, measured = (
        _metric(trainer, stages, metric)
        if METRIC not in runtime.unseen
        else (StageResult(METRIC, "unseen", detail=runtime.unseen[METRIC]), {})
    )
    results.append(result)
    first = next((each for each in results if each.state == "parts"), None)
    reason = explain(first, trainer, folder) if first is not None else ""
    return ParityRecord(tuple(results), runtime.about, runtime.precision, rows, reason, measured)


def _stages(trainer: Trainer, runtime: Any, records: Sequence[Record]) -> Any:
    """The stages of this kind of network."""
    tolerance, gives = tolerance_of(runtime.precision, runtime.about), trainer.family.gives
    if gives == "words":
        from luthier.delivery.parity.word_tables import WordParity

        return WordParity(trainer, runtime, tolerance)
    examples: Sequence[Example] = list(trainer.objective.prepare(records))
    if gives == "text":
        from luthier.delivery.parity.writers import WriterParity

        return WriterParity(trainer, runtime, examples, tolerance)
    if gives == "sequence":
        from luthier.delivery.parity.writers import TranslatorParity

        return TranslatorParity(trainer, runtime, examples, tolerance)
    from luthier.delivery.parity.readers import ReaderParity

    return ReaderParity(trainer, runtime, examples, tolerance)


def _weights(runtime: Runtime, bundle: Path) -> StageResult:
    """The weights as the runtime holds them."""
    differences = runtime.compare_weights(bundle)
    if not differences:
        return StageResult(WEIGHTS, "same", detail="every tensor is the bundle's, rounded once")
    worst = differences[0]
    more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
    what = "is missing or has another shape" if worst.largest == float("inf") else "is not the bundle's, rounded once"
    evidence = {"tensors": differences}
    return StageResult(WEIGHTS, "parts", 0, worst.largest, worst.allowed, "of a weight", f"{worst.name} {what}{more}", evidence)


def _metric(trainer: Trainer, stages: Any, metric: str | None) -> tuple[StageResult, dict[str, Any]]:
    """The metric of both on the same rows; the export's has to lie in the trainer's interval.

    Args:
        trainer: opened.
        stages: that have been through.
        metric: that decided the verdict.
    """
    if not hasattr(stages, "scored"):
        return stages.metric(), {}
    if hasattr(stages, "runtime") and hasattr(stages, "read"):
        network, rows = stages.scored()
        keep = [index for index, example in enumerate(stages.examples) if example.units]
        if not keep:
            return StageResult(METRIC, "unseen", detail="the rows do not say what is right"), {}
        ours = score(trainer.model, trainer.objective, [stages.examples[index] for index in keep], answers=0)
        theirs = score(network, trainer.objective, [rows[index] for index in keep], answers=0)
    else:
        ours, theirs = stages.scored()
    return compare_metric(ours, theirs, choose_metric(metric, trainer, ours))


def choose_metric(asked: str | None, trainer: Trainer, scores: Scores) -> str:
    """The metric that decided, where these scores can say it, else the first of the family's that they can.

    Args:
        asked: that decided the verdict.
        trainer: whose family it is.
        scores: of the trainer.
    """
    for name in (asked, *trainer.objective.metrics, *trainer.family.metrics):
        if name is None or name not in METRICS or METRICS[name].answers:
            continue
        try:
            if np.isfinite(measure(scores, (name,))[name]):
                return name
        except (AssertionError, KeyError, ValueError, DataError):
            continue
    return "loss"


def compare_metric(ours: Scores, theirs: Scores, name: str) -> tuple[StageResult, dict[str, Any]]:
    """A metric of the trainer and of the export on the same rows.

    Args:
        ours: the trainer's scores.
        theirs: the export's.
        name: of the metric.
    """
    value, other = measure(ours, (name,))[name], measure(theirs, (name,))[name]
    low, high = interval(name, ours)
    apart = paired_interval(name, theirs, ours)
    leeway = 1e-6 + 1e-4 * abs(value)
    inside = min(low, value) - leeway <= other <= max(high, value) + leeway
    measured = {"name": name, "trainer": value, "low": low, "high": high, "export": other, "difference": {"value": apart[0], "low": apart[1], "high": apart[2]}}  # fmt: skip
    detail = f"{name} {value:.4g} [{low:.4g}, {high:.4g}] in the trainer, {other:.4g} in the export"
    return StageResult(METRIC, "same" if inside else "parts", len(ours.loss), abs(value - other), None, f"of {name}", detail), measured
