"""Parity of networks that say something of a row: classes, labels, a number, a vector, labels of words, hidden tokens, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.core.types import Batch, Example, Scores
from luthier.delivery.exports.exporter import LOG_PROBABILITIES, METRIC, RENDERED, TEXT, TOKENS, Encoded, Reader
from luthier.delivery.parity.metric import Measured
from luthier.delivery.parity.network_parity import NetworkParity, compare_probe
from luthier.delivery.parity.record import StageResult
from luthier.delivery.parity.tolerances import Tolerance
from luthier.delivery.parity.trainer import Trainer, outputs_of
from luthier.evaluation.label_thresholds import HALF
from luthier.evaluation.score import score
from luthier.models.exported_network import ExportedNetwork
from luthier.models.pooling import segment_lengths

UNITS = {
    "classes": "of a probability", "labels": "of a probability", "tags": "of a probability", "gaps": "of a probability",
    "number": "standard deviations", "vector": "of a vector of length 1", "picture": "of a pixel from -1 to 1",
    "rebuilt": "standard deviations of a vector's numbers",
}  # fmt: skip
"""What a network gives → what its differences are counted in."""
LIKE_ROWS = ("classes", "labels", "number", "rebuilt")
"""Networks that give one line of numbers a row."""


class ReaderParity(NetworkParity[Reader]):
    """The stages of the export of a network that says something of a row."""

    def __init__(self, trainer: Trainer, runtime: Reader, examples: Sequence[Example], tolerance: Tolerance) -> None:
        super().__init__(trainer, runtime, examples, tolerance)
        self.gives = trainer.family.gives
        self.read: list[list[Encoded]] = [self._encode(example) for example in self.examples]

    @cached_property
    def ours(self) -> list[np.ndarray]:
        """What the trainer gives for each row, after its weights were rounded where they are."""
        return [_shares(self.gives, each) for each in outputs_of(self.trainer, self.examples)]

    @cached_property
    def theirs(self) -> list[np.ndarray]:
        """What the export gives for each row, on the trainer's tokens."""
        return [_shares(self.gives, self._outputs(_pieces(self.trainer, example))) for example in self.examples]

    def _outputs(self, pieces: Sequence[Encoded]) -> np.ndarray:
        results = self.runtime.outputs(pieces)
        return results[0] if self.gives in (*LIKE_ROWS, "picture") else np.concatenate(results)

    def _encode(self, example: Example) -> list[Encoded]:
        if "text" in example.facts and "at" not in example.facts:
            return [self.runtime.encode([example.facts["text"]])]
        row_texts = self.trainer.family.texts_read(example.record, self.trainer.objective)
        if "pixels" in example.inputs and not Path(row_texts[0][0]).is_file():
            return [
                Encoded(pixels=example.inputs["pixels"])
            ]  # in an archive of arrays, which nobody else reads: the pixels are given as they are
        return [self.runtime.encode(texts) for texts in row_texts]

    def rendered_text(self) -> StageResult:
        """The text is the row's own; of an image the pixels are looked at."""
        if not self.trainer.family.kind.images:
            return StageResult(RENDERED, "same", len(self.examples), detail="the text is the row's own: no template stands between")
        apart = [_pixels_apart(example.inputs["pixels"], read[0].pixels) for example, read in zip(self.examples, self.read, strict=True)]
        worst = int(np.argmax(apart))
        state = "parts" if apart[worst] > 0 else "same"
        detail = f"row {self.examples[worst].record.row}: the runtime decodes the image otherwise" if apart[worst] > 0 else "pixels"
        return StageResult(RENDERED, state, len(apart), float(apart[worst]), 0.0, "levels of a pixel", detail)

    def tokens(self) -> StageResult:
        """The token ids of each row."""
        if self.trainer.family.kind.images:
            return StageResult(TOKENS, "same", 0, detail="an image has none")
        for example, read in zip(self.examples, self.read, strict=True):
            if example.facts.get("at"):
                continue  # a later piece of a long text, which whoever uses the network has to cut
            pieces = _pieces(self.trainer, replace_hidden(example))
            for ours, theirs in zip(pieces, read, strict=False):
                segments = ours.segments is not None and list(ours.segments) != list(theirs.segments or [0] * len(theirs.tokens))
                if list(ours.tokens) != list(theirs.tokens) or segments:
                    if self.gives == "tags" and len(pieces) > 1 and list(theirs.tokens[:8]) == list(ours.tokens[:8]):
                        break  # a long text is read in windows, which whoever uses the network has to cut
                    texts = self.trainer.family.texts_read(example.record, self.trainer.objective)[0]
                    return self.tokens_differ(example.record.row, ours.tokens, theirs.tokens, texts=texts)
        return compare_probe(self.trainer.tokenizer, self.runtime) or StageResult(TOKENS, "same", len(self.examples))

    def numbers(self) -> StageResult:
        """What the network gives, on the trainer's tokens."""
        apart = [float(np.abs(ours - theirs).max()) if ours.size else 0.0 for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        apart = [value if np.isfinite(value) else float("inf") for value in apart]
        worst = int(np.argmax(apart))
        allowed = self.tolerance.probability
        state = "parts" if apart[worst] > allowed else "same"
        numbers = sum(ours.size for ours in self.ours)
        mean = sum(float(np.abs(ours - theirs).sum()) for ours, theirs in zip(self.ours, self.theirs, strict=True)) / max(numbers, 1)
        detail = f"largest in row {self.examples[worst].record.row}; {mean:.2g} in the mean of {numbers:,} numbers"
        evidence: dict[str, Any] = {"ours": self.ours, "theirs": self.theirs, "gives": self.gives}
        return StageResult(LOG_PROBABILITIES, state, len(apart), apart[worst], allowed, UNITS[self.gives], detail, evidence)

    def text(self) -> StageResult | None:
        """What is said in words: the class, the labels, each word's label, the token for each gap; None of a number, a vector or a picture."""
        if self.gives not in ("classes", "labels", "tags", "gaps"):
            return None
        names = self._names()
        ties = 0
        for example, ours, theirs in zip(self.examples, self.ours, self.theirs, strict=True):
            for one, other in zip(np.atleast_2d(ours), np.atleast_2d(theirs), strict=True):
                answer, other_answer, near = self._answers(one, other, names)
                if answer == other_answer:
                    continue
                if near:
                    ties += 1
                    continue
                detail = f"row {example.record.row}: the trainer says {answer}, the export {other_answer}"
                return StageResult(TEXT, "parts", len(self.examples), detail=detail, evidence={"names": names})
        return StageResult(TEXT, "same", len(self.examples), detail=f"{ties:,} within rounding of a tie" if ties else "")

    def _names(self) -> tuple[list[str], list[str]]:
        """The outputs by name, as the trainer and as the export has them."""
        objective = self.trainer.objective
        ours: list[str] = list(objective.tags) if self.gives == "tags" else list(getattr(objective.spec, "labels", ()))
        theirs: list[str] = list(self.runtime.labels)
        return ours, theirs or ours

    def _answers(self, one: np.ndarray, other: np.ndarray, names: tuple[list[str], list[str]]) -> tuple[str, str, bool]:
        """What both say of a row or word, and whether rounding explains a difference."""
        leeway = 2 * max(self.tolerance.probability, 1e-4)
        if self.gives == "gaps":
            indices = int(one.argmax()), int(other.argmax())
            return str(indices[0]), str(indices[1]), bool(one[indices[0]] - one[indices[1]] <= leeway)
        if self.gives == "labels":
            least = np.array(self.trainer.objective.spec.fitted_thresholds or [HALF] * len(one))
            answer, other_answer = (
                "; ".join(names[side][index] for index in np.flatnonzero(values >= least)) for side, values in enumerate((one, other))
            )
            apart = np.abs(one - least)[(one >= least) != (other >= least)]
            return answer, other_answer, bool(apart.max(initial=0) <= leeway) and names[0] == names[1]
        answer, other_answer = names[0][int(one.argmax())], names[1][int(other.argmax())]
        known = names[0].index(other_answer) if other_answer in names[0] else -1
        return answer, other_answer, known >= 0 and names[0] == names[1] and bool(one.max() - one[known] <= leeway)

    def metric(self, decided: str | None) -> Measured:
        """By the trainer's objective, of the trainer's network and of the exported one on the rows as the runtime reads them."""
        ours = self.scores_of_trainer()
        if ours is None:
            return StageResult(METRIC, "unseen", detail="the rows do not say what is right"), {}
        self.compute_as_used()
        model, objective = self.trainer.model, self.trainer.objective
        rows = [row for row, example in zip(self._rows_read(), self.examples, strict=True) if example.units]
        network = getattr(model, "network", None) if self.gives in ("picture", "rebuilt") else None
        exported = ExportedNetwork(self._ask, self.gives, objective.spec, order=self._order(), network=network, hidden_only=True)
        return self.judge(decided, ours, score(exported, objective, rows, answers=0))

    def scores_of_trainer(self) -> Scores | None:
        """By its objective, of the rows that say what is right."""
        rows = [example for example in self.examples if example.units]
        return score(self.trainer.model, self.trainer.objective, rows, answers=0) if rows else None

    def _ask(self, batch: Batch, is_hidden: Tensor | None) -> list[np.ndarray]:
        """What the runtime gives for each row, window or image of a batch."""
        if "pixels" in batch.each:
            return self.runtime.outputs([Encoded(pixels=each.permute(1, 2, 0).numpy()) for each in batch.each["pixels"]])
        lengths = segment_lengths(batch).tolist()
        segments = batch.flat["segments"].split(lengths) if "segments" in batch.flat else [None] * len(lengths)
        keeps = [None] * len(lengths) if is_hidden is None else [each.nonzero()[:, 0].tolist() for each in is_hidden.split(lengths)]
        rows = [
            Encoded(tokens.tolist(), None if segment is None else segment.tolist(), keep=keep)
            for tokens, segment, keep in zip(batch.flat["tokens"].split(lengths), segments, keeps, strict=True)
        ]
        return self.runtime.outputs(rows)

    def _rows_read(self) -> list[Example]:
        """The rows as the runtime reads them."""
        rows = self.examples
        if self.gives in LIKE_ROWS and not self.trainer.family.kind.images:
            rows = [replace(example, inputs=_inputs(read[0], example)) for example, read in zip(rows, self.read, strict=True)]
            rows = [replace(example, size=len(example.tokens)) for example in rows]
        return rows

    def _order(self) -> list[int] | None:
        """Where the export has each of the trainer's outputs, by name; None where that cannot be said."""
        ours, theirs = self._names()
        return [theirs.index(name) for name in ours] if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours) and ours else None


def replace_hidden(example: Example) -> Example:
    """A row as it is read before anything of it is hidden."""
    return replace(example, facts={**example.facts, "as_read": True})


def _pieces(trainer: Trainer, example: Example) -> list[Encoded]:
    """A row as the network reads it: in one piece, or one for each of its texts or windows."""
    if "pixels" in example.inputs:
        return [Encoded(pixels=example.inputs["pixels"])]
    tokens, keep = list(example.tokens), None
    if trainer.family.gives == "gaps" and not example.facts.get("as_read"):
        masked, hidden = trainer.objective.hide(example)
        tokens, keep = masked.tolist(), np.flatnonzero(hidden >= 0).tolist()
    elif trainer.family.gives == "tags":
        keep = [position for position, tag in enumerate(example.target) if tag >= 0]
    starts = [position for position, within in enumerate(example.inputs["place"]) if within == 0] if "place" in example.inputs else [0]
    results = []
    for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
        segments = example.inputs["segments"][start:stop] if "segments" in example.inputs else None
        offsets = None if keep is None else [position - start for position in keep if start <= position < stop]
        results.append(Encoded([int(token) for token in tokens[start:stop]], segments, keep=offsets))
    return results


def _inputs(read: Encoded, example: Example) -> dict[str, Any]:
    segments = {"segments": list(read.segments or [0] * len(read.tokens))} if "segments" in example.inputs else {}
    return {"tokens": list(read.tokens), **segments}


def _shares(gives: str, values: np.ndarray) -> np.ndarray:
    """Outputs as probabilities where they are such."""
    if gives in ("classes", "tags", "gaps") and values.size:
        return torch.from_numpy(values.copy()).double().softmax(-1).numpy()
    return torch.from_numpy(values.copy()).double().sigmoid().numpy() if gives == "labels" else values.astype(np.float64)


def _pixels_apart(ours: np.ndarray, theirs: np.ndarray | None) -> float:
    if theirs is None or ours.shape != theirs.shape:
        return 255.0
    return float(np.abs(ours.astype(int) - theirs.astype(int)).max())
