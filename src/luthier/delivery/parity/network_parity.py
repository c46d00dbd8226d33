"""What the comparisons of all kinds of networks share: whom they compare, and how a difference of token ids is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from luthier.core.types import Example, Scores
from luthier.delivery.exports.exporter import TOKENS, ComputesAsUsed, Runtime, Translator, Writer
from luthier.delivery.parity.metric import Measured, choose_metric, compare_metric
from luthier.delivery.parity.record import StageResult
from luthier.delivery.parity.tolerances import Tolerance
from luthier.delivery.parity.trainer import Trainer

PROBE = "The QUICK brown Fox, 3.50 × 12 — Ärger über Straßen?  Café\tNº7"
"""A text with what tokenizers treat in different ways: case, accents, digits, signs, several spaces."""
RuntimeT = TypeVar("RuntimeT", bound=Runtime)


class NetworkParity(Generic[RuntimeT]):
    """The stages of one export.

    Args:
        trainer: opened.
        runtime: of the export.
        examples: rows, prepared by the trainer's objective.
        tolerance: what rounding explains.
    """

    def __init__(self, trainer: Trainer, runtime: RuntimeT, examples: Sequence[Example], tolerance: Tolerance) -> None:
        self.trainer, self.runtime, self.examples, self.tolerance = trainer, runtime, list(examples), tolerance
        self.trained: Scores | None = None
        """The trainer's scores before its weights were rounded as the export's are; None where they are not."""

    def scores_of_trainer(self) -> Scores | None:
        """The trainer's scores of the rows; None where they do not say what is right."""
        raise NotImplementedError

    def keep_scores_as_trained(self) -> None:
        """Note what the metric is before the trainer's weights are rounded."""
        self.trained = self.scores_of_trainer()

    def compute_as_used(self) -> bool:
        """From now on the export computes as for whoever uses it; whether that is another way."""
        return isinstance(self.runtime, ComputesAsUsed) and self.runtime.compute_as_used()

    def judge(self, decided: str | None, ours: Scores, theirs: Scores) -> Measured:
        """The metric of the trainer as it was trained, and of the export.

        Args:
            decided: the metric that decided the run, where it is known.
            ours: the trainer's scores, after its weights were rounded where they are.
            theirs: the export's, as it is used.
        """
        name = choose_metric(decided, self.trainer, ours)
        return compare_metric(ours, theirs, name) if self.trained is None else compare_metric(self.trained, theirs, name, ours)

    def tokens_differ(self, row: int, ours: Sequence[int], theirs: Sequence[int], **evidence: Any) -> StageResult:
        """The stage of token ids, parted at a row.

        Args:
            row: its number.
            ours: the trainer's token ids.
            theirs: the export's.
            evidence: more by which the reason is found.
        """
        detail = describe_tokens(row, ours, theirs, self.trainer.tokenizer)
        both = {"ours": [int(token) for token in ours], "theirs": [int(token) for token in theirs]}
        return StageResult(TOKENS, "parts", len(self.examples), detail=detail, evidence={**both, **evidence})


def compare_end(trainer: Trainer, runtime: Writer | Translator, end: int, rows: int) -> StageResult | None:
    """The stage of token ids, parted, where an export does not stop at the token that ends a text.

    Args:
        trainer: opened.
        runtime: of the export.
        end: the token.
        rows: that were looked at.
    """
    if end in runtime.ends:
        return None
    stops = ", ".join(str(token) for token in runtime.ends) or "none"
    detail = f"the token that ends a text, {end} ({trainer.tokenizer.decode([end])!r}), is not one at which the export stops ({stops})"
    return StageResult(TOKENS, "parts", rows, detail=detail, evidence={"end": end})


def compare_probe(tokenizer: Any, runtime: Runtime) -> StageResult | None:
    """The tokens of a text that tells tokenizers apart, where they differ: the rows may not hold what one of them treats in another way.

    Args:
        tokenizer: the trainer's.
        runtime: of the export.
    """
    ours, theirs = [int(token) for token in tokenizer(PROBE)["input_ids"]], [int(token) for token in runtime.encode([PROBE]).tokens]
    shortest = min(len(ours), len(theirs)) if len(theirs) < len(ours) and theirs[:-1] == ours[: len(theirs) - 1] else len(ours)
    if ours[: shortest - 1] == theirs[: shortest - 1] and (shortest < len(ours) or ours == theirs):
        return None  # a short limit may cut it
    detail = describe_tokens(0, ours, theirs, tokenizer).replace("row 0", f"the text {PROBE!r}")
    return StageResult(TOKENS, "parts", 1, detail=detail, evidence={"ours": ours, "theirs": theirs, "texts": [PROBE]})


def first_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> int:
    """The index of the first item in which two sequences differ; the length of the shorter where one begins with the other."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(ours), len(theirs)))


def describe_tokens(row: int, ours: Sequence[int], theirs: Sequence[int], tokenizer: Any, other_side: str = "export") -> str:
    """Where two rows of tokens part, for a person.

    Args:
        row: its number.
        ours: the trainer's.
        theirs: the other's.
        tokenizer: the trainer's, by which they are written out.
        other_side: what is compared with the trainer.
    """
    position = first_difference(ours, theirs)

    def around(tokens: Sequence[int]) -> str:
        return " ".join(repr(tokenizer.decode([int(token)])) for token in tokens[max(0, position - 1) : position + 3]) or "nothing more"

    return f"row {row}, token {position + 1}: the trainer reads {around(ours)} ({len(ours)} tokens), the {other_side} {around(theirs)} ({len(theirs)})"
