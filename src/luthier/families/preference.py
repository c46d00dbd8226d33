"""Preference: of two answers to the same prompt a decoder learns to give such as the better one (DPO, IPO)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.core.finding import Finding
from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Record, Scores
from luthier.data.near_duplicates import normalise
from luthier.data.pairs import SIDES, pair_of
from luthier.data.row_reader import Columns, RowKind, RowView
from luthier.data.rows import Rejected, Rows
from luthier.data.spec import Data
from luthier.families import preference_proofs, token_proofs
from luthier.families.chat import ChatFamily
from luthier.families.preference_findings import pair_findings
from luthier.families.preference_report import describe_pairs, trivial_models
from luthier.objectives.preference import Preference

if TYPE_CHECKING:
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base
    from luthier.models.referenced import Referenced
    from luthier.models.spec import Model

OTHER_NAMES = (("better", "worse"), ("good", "bad"), ("preferred", "dispreferred"), ("accepted", "rejected"), ("winner", "loser"))
"""What else people call the better and the worse answer: such a table is not taken by itself, and the message says how it would be."""
PROMPTS = (("prompt",), ("question",), ("instruction", "input"), ("instruction",), ("conversations",), ("messages",))
"""Columns that hold the prompt, as well-known data sets name them."""
EPOCHS = ((5_000, 2, "few rows"), (1 << 62, 1, "one pass: Tülu 3 and Zephyr took one to three"))
"""Below this many training pairs, epochs, and why."""
BATCHES = (16, 8)
"""Pairs a step."""
RATES = {
    "full": (2e-6, "decoders learn preferences at a fiftieth of the rate of fine-tuning (SmolLM2's own recipe: 1e-6)"),
    "lora": (
        2e-4,
        "below that of fine-tuning with adapters; 27 steps on 212 pairs: 0.92 of sealed ones told right (1e-4, like pairs: 0.75)",
    ),
}
"""Adaptation → learning rate and where it comes from; what is not named is as full tuning."""


class PreferenceFamily(ChatFamily):
    """See the module."""

    name = "preference"
    kind = RowKind("text", "better answer", SIDES[1:])
    specificity = 2
    Spec = Preference
    known_as = ("dpo", "ipo")
    metrics = ("pair_accuracy", "loss", "length_normalised_accuracy", "reward_margin")
    gives = "text"
    compares_untouched = False
    has_reference = True
    moves = ("lora", "adapters leave the base as it is, and it is the reference")
    epochs = EPOCHS
    batches = BATCHES
    decides = "pairs whose better answer gained more than the worse one"  # the loss depends on beta and on how far the model has moved

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """The columns chosen and rejected, and the prompt before them."""
        if asked.target not in (None, SIDES[0]) or (asked.target and asked.task is None):
            return None
        missing = [name for name in SIDES if name not in rows.columns]
        if missing:
            if asked.task is None:
                if not asked.input:
                    _refuse_half_pair(rows, path, missing)
                return None
            raise DataError(f"{path} has no column {missing[0]!r}: a pair is a better and a worse answer to the same prompt", f"name the columns prompt, chosen and rejected; it has {', '.join(rows.columns)}")  # fmt: skip
        names = asked.input or next((names for names in PROMPTS if set(names) <= set(rows.columns)), ())
        if not names and any(isinstance(row.get(SIDES[0]), list) for row in rows.values):
            names = SIDES[:1]  # the answers are whole conversations, and hold their prompt
        if not names:
            raise DataError(
                f"{path}: the columns chosen and rejected are preference pairs, and no column holds their prompt", "name it: --input COLUMN"
            )
        return Columns(self.name, names, SIDES[0], "the columns chosen and rejected are preference pairs")

    def read_row(self, values: Any, input: tuple[str, ...], target: str) -> Any:
        """A prompt and two answers; no pair where an answer says nothing, both are the same, or the turns do not fit."""
        return pair_of(values, input)

    def row_view(self, record: Record, data: Data) -> RowView:
        """The prompt, and the better answer."""
        pair = pair_of(record.values, data.input)
        return RowView("\n\n".join(turn["content"] for turn in pair.prompt), pair.answers[0])

    def fit(self, parts: dict[str, list[Record]], columns: Columns, rejected: list[Rejected], path: str) -> tuple[str, ...]:
        """Pairs that are there in both orders leave their parts: nobody can learn from them which answer is better."""
        every = [record for rows in parts.values() for record in rows]
        ways = {(record.source, record.row): _as_text(record, columns.input) for record in every}
        there = set(ways.values())
        for name, rows in parts.items():
            both = [record for record in rows if _swap_answers(ways[record.source, record.row]) in there]
            for record in both:
                reason = "another row prefers the answers the other way round"
                rejected.append(Rejected(record.source, record.row, reason, dict(record.values)))
            parts[name] = [record for record in rows if record not in both]
        return ()

    # starting point

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """Far below that of fine-tuning: what is learned is a difference, and the rest should stay."""
        return RATES.get(adaptation, RATES["full"])

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> Referenced:
        """The base with its own head; a bundle of this family knows what it was trained from."""
        from luthier.models.referenced import load_referenced

        assert base is not None
        trained = base.bundle is not None and base.bundle["task"] == self.name
        return load_referenced(base, model.dropout, trained)

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """Both answers and their ends are compared and nothing else; the loss begins where it must, and its gradient favours the better answer."""
        read = (
            preference_proofs.pairs_can_be_learned,
            token_proofs.trained_is_served,
            preference_proofs.both_answers_are_compared_and_nothing_else,
            preference_proofs.both_ends_are_learned,
        )
        ask = (
            preference_proofs.starts_as_the_reference,
            preference_proofs.log_probabilities_are_exact,
            preference_proofs.the_better_answer_is_preferred,
        )
        return read, ask

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The longer answer is better; the answer that the reference finds likelier is better."""
        return trivial_models(train, validation, context.objective)

    def details(self, scores: Scores, spec: Any) -> dict[str, Any]:
        """How far it went from the reference, what became of both answers, and whether it is length that it learned."""
        return describe_pairs(scores)

    def findings(self, scores: Scores, spec: Any) -> list[Finding]:
        """Whether length alone tells what it prefers, and a drift that is far."""
        return pair_findings(scores)


def _as_text(record: Record, input: tuple[str, ...]) -> tuple[str, str, str]:
    """A pair as prompt, better and worse answer, without case, spaces and punctuation."""
    pair = pair_of(record.values, input)
    return normalise("\n".join(turn["content"] for turn in pair.prompt)), normalise(pair.answers[0]), normalise(pair.answers[1])


def _swap_answers(pair: tuple[str, str, str]) -> tuple[str, str, str]:
    return pair[0], pair[2], pair[1]


def _refuse_half_pair(rows: Rows, path: str, missing: list[str]) -> None:
    """Refuse a table that seems to be meant as pairs of answers, unless another family reads it.

    Args:
        rows: of the table.
        path: for the message.
        missing: of the columns chosen and rejected.

    Raises:
        DataError: one of the two is there; or a prompt, and two answers under other names.
    """
    if len(missing) == 1:
        there = next(name for name in SIDES if name not in missing)
        alone = f"; good answers alone are --task chat --input COLUMN --target {there}" if there == SIDES[0] else ""
        raise DataError(
            f"{path} has a column {there!r} and none called {missing[0]!r}: a preference pair is a better and a worse answer to the same prompt",
            f"add {missing[0]!r} (it has {', '.join(rows.columns)}){alone}",
        )
    by_name = {name.lower(): name for name in rows.columns}
    pair = next((pair for pair in OTHER_NAMES if set(pair) <= set(by_name)), None)
    if pair is not None and any(set(names) <= set(rows.columns) for names in PROMPTS):
        better, worse = (by_name[name] for name in pair)
        raise DataError(
            f"{path}: the columns {better!r} and {worse!r} look like a better and a worse answer to the same prompt",
            f"rename {better} to chosen and {worse} to rejected: preference pairs are recognised by these names",
        )


FAMILY = PreferenceFamily()
