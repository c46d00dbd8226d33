"""Parity with a server that classifies or embeds: the probabilities of /classify, the vectors of /v1/embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from luthier.core.errors import DataError
from luthier.core.types import Record
from luthier.core.words import plural
from luthier.delivery.exports.exporter import LOG_PROBABILITIES, METRIC, RENDERED, TEXT, TOKENS, WEIGHTS, Say
from luthier.delivery.parity.openai_endpoint import OpenAiEndpoint
from luthier.delivery.parity.record import ParityRecord, StageResult
from luthier.delivery.parity.tolerances import tolerance_of
from luthier.delivery.parity.trainer import Trainer

UNSEEN = {
    RENDERED: "no template stands between",
    TOKENS: "the route does not tell the tokens that it read",
    WEIGHTS: "a server does not show its weights",
    TEXT: "nothing is written",
}


def check_rows(trainer: Trainer, endpoint: OpenAiEndpoint, records: Sequence[Record], precision: str, rows: str, say: Say) -> ParityRecord:
    """Compare a network that gives classes or vectors with a server.

    Args:
        trainer: opened.
        endpoint: with /classify or /v1/embeddings.
        records: rows of text.
        precision: that the server's weights are taken to be rounded to.
        rows: where they are from, for a person.
        say: told what is looked at.

    Raises:
        DataError: all rows are longer than the model reads.
    """
    say(LOG_PROBABILITIES)
    records = _keep_whole(trainer, records, say)
    columns = trainer.objective.input[:1] if trainer.family.gives == "vector" else trainer.objective.input  # a vector is of one text
    texts = [record.text(columns) for record in records]
    predictions = trainer.family.predict(trainer.model, trainer.objective, list(records), 1)
    result, right = _vectors(predictions, endpoint.embed(texts), records, precision) if trainer.family.gives == "vector" else _classes(trainer, predictions, endpoint.classify(texts), records, precision)  # fmt: skip
    metric = StageResult(METRIC, *right) if right is not None else StageResult(METRIC, "unseen", detail="the rows do not say what is right")
    results = (*(StageResult(name, "unseen", detail=why) for name, why in UNSEEN.items() if name != TEXT), result, metric)
    first = next((stage for stage in results if stage.state == "parts"), None)
    return ParityRecord(results, endpoint.about, precision, rows, result.evidence.get("reason", "") if first is not None else "")


def _keep_whole(trainer: Trainer, records: Sequence[Record], say: Say) -> list[Record]:
    """The rows that the model reads whole: servers refuse longer ones, or cut them elsewhere."""
    kept = [record for record, cuts in zip(records, trainer.objective.cuts(records), strict=True) if not cuts]
    if not kept:
        raise DataError("all rows are longer than the model reads, and servers refuse such", "give shorter ones: --rows FILE")
    if len(kept) < len(records):
        say(f"{plural(len(records) - len(kept), 'row')} left out: longer than the model reads, and servers refuse such")
    return kept


def _classes(
    trainer: Trainer, predictions: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]], records: Sequence[Record], precision: str
) -> Any:
    """The largest difference of a probability, and the share of right labels."""
    labels = list(trainer.objective.spec.labels)
    ours = np.array([[each["probabilities"][label] for label in labels] for each in predictions])
    theirs = np.array([each["probs"] for each in answers], dtype=float)
    tolerance = tolerance_of(precision)
    if theirs.shape != ours.shape:
        return StageResult(
            LOG_PROBABILITIES, "parts", len(predictions), detail=f"the trainer has {ours.shape[1]} classes, the server {theirs.shape[-1]}"
        ), None
    apart = np.abs(ours - theirs)
    answered = [str(each.get("label")) for each in answers]
    order = [labels[int(index)] for index in theirs.argmax(1)]
    reason = "its classes stand in another order" if answered != order and set(answered) <= set(labels) else ""
    parts = float(apart.max()) > tolerance.probability or bool(reason)
    worst = records[int(apart.max(1).argmax())].row
    result = StageResult(LOG_PROBABILITIES, "parts" if parts else "same", len(predictions), float(apart.max()), tolerance.probability, "of a probability", f"largest in row {worst}", {"reason": reason})  # fmt: skip
    target = trainer.objective.target
    targets = [str(record.values.get(target)) for record in records if target and record.values.get(target) is not None]
    if len(targets) != len(records):
        return result, None
    one, other = (
        float(np.mean([label == right for label, right in zip(side, targets, strict=True)]))
        for side in ([str(each["label"]) for each in predictions], answered)
    )
    leeway = 1.96 * float(np.sqrt(max(one * (1 - one), 1e-9) / len(targets)))
    detail = f"accuracy {one:.4g} ± {leeway:.2g} in the trainer, {other:.4g} on the server"
    return result, (
        "same" if abs(one - other) <= max(leeway, 1 / len(targets)) else "parts",
        len(targets),
        abs(one - other),
        None,
        "of accuracy",
        detail,
    )


def _vectors(predictions: Sequence[dict[str, Any]], answers: Sequence[Sequence[float]], records: Sequence[Record], precision: str) -> Any:
    """The largest difference between two vectors of length 1."""
    ours, theirs = (_of_length_one(np.array(side, dtype=float)) for side in ([each["vector"] for each in predictions], answers))
    if ours.shape != theirs.shape:
        return StageResult(
            LOG_PROBABILITIES,
            "parts",
            len(predictions),
            detail=f"the trainer's vectors have {ours.shape[1]} numbers, the server's {theirs.shape[1]}",
        ), None
    apart = np.linalg.norm(ours - theirs, axis=1)
    allowed = tolerance_of(precision).probability
    worst = records[int(apart.argmax())].row
    return StageResult(LOG_PROBABILITIES, "parts" if float(apart.max()) > allowed else "same", len(predictions), float(apart.max()), allowed, "of a vector's length", f"largest in row {worst}"), None  # fmt: skip


def _of_length_one(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
