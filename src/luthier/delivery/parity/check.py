"""Parity: the exported form says what the trainer says, stage by stage, or the first stage that parts is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from luthier.core.errors import DataError
from luthier.core.types import Example, Record
from luthier.core.words import plural
from luthier.delivery.exports.exporter import METRIC, STAGES, TEXT, WEIGHTS, RoundsWeights, Runtime, Say
from luthier.delivery.parity.metric import Measured, describe_rounding
from luthier.delivery.parity.network_parity import NetworkParity
from luthier.delivery.parity.reasons import explain
from luthier.delivery.parity.record import ParityRecord, StageResult
from luthier.delivery.parity.tolerances import Tolerance, tolerance_of
from luthier.delivery.parity.trainer import Trainer, moves, open_trainer, round_weights
from luthier.models.base import Base

MOST_ROWS = {"text": 32, "sequence": 64, "gaps": 64, "picture": 128}
"""What a network gives → rows that are looked at if nobody says otherwise; writing takes long."""
ROWS = 200
"""Of all others."""
EXACT = ("float32", "text")
"""Precisions in which nothing is rounded that anybody would ask for."""


class Stages(Protocol):
    """What `check_parity` runs, one kind of network each."""

    def rendered_text(self) -> StageResult:
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

    def metric(self, decided: str | None) -> Measured:
        """The metric of both on the same rows, after the stages before it: the one that decided the verdict, or the family's first."""
        ...


def check_parity(
    bundle: Base, runtime: Runtime, records: Sequence[Record], *, folder: Path | None = None, metric: str | None = None, most: int | None = None,
    rows: str = "", say: Say = lambda line: None,
) -> ParityRecord:  # fmt: skip
    """Compare a bundle with an exported form of it. Where the export's weights are rounded, the trainer's are rounded alike first: what was asked for is no difference.

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
    part, rows = choose_rows(records, most or MOST_ROWS.get(trainer.family.gives, ROWS), rows)
    rounds = isinstance(runtime, RoundsWeights)
    tolerance = tolerance_of(runtime.computes if rounds else runtime.precision, runtime.about)
    stages = _stages(trainer, runtime, part, tolerance)
    if rounds and isinstance(stages, NetworkParity) and moves(trainer, runtime.round_weights(bundle.folder)):
        stages.keep_scores_as_trained()
        round_weights(trainer, runtime.round_weights(bundle.folder))
    results: list[StageResult] = []
    asks = (stages.rendered_text, stages.tokens, lambda: _weights(runtime, bundle.folder), stages.numbers, stages.text)
    for name, ask in zip(STAGES, asks, strict=False):
        say(name)
        why = runtime.unseen.get(name, "")
        if name == TEXT and any(each.state == "parts" for each in results):
            why = why or "not looked at, for a stage before it parts"
        stage = StageResult(name, "unseen", detail=why) if why else ask()
        if stage is not None:
            results.append(stage)
    say(METRIC)
    why = runtime.unseen.get(METRIC, "")
    result, measured = (StageResult(METRIC, "unseen", detail=why), {}) if why else stages.metric(metric)
    rounded = bool(measured) and runtime.precision not in EXACT and all(each.state != "parts" for each in results)
    rounding = describe_rounding(measured, runtime.precision) if rounded else ""
    results.append(result)
    first = next((each for each in results if each.state == "parts"), None)
    reason = explain(first, trainer, folder) if first is not None else ""
    return ParityRecord(tuple(results), runtime.about, runtime.precision, rows, reason, measured, rounding)


def choose_rows(records: Sequence[Record], most: int, rows: str) -> tuple[list[Record], str]:
    """The rows that are compared, evenly over all, and how many of which they are, for a person.

    Args:
        records: all.
        most: how many are compared at most.
        rows: where all are from, with their number; empty where that is not known.
    """
    count = min(most, len(records))
    part = [records[number * len(records) // count] for number in range(count)]
    return part, f"{count:,} of {rows}" if rows and count < len(records) else rows or plural(count, "row")


def _stages(trainer: Trainer, runtime: Any, records: Sequence[Record], tolerance: Tolerance) -> Stages:
    """The stages of this kind of network."""
    gives = trainer.family.gives
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
