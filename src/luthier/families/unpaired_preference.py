"""Unpaired preference: from single answers that were called good or bad a decoder learns to give such as the good ones (KTO, APO-zero)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.core.finding import Finding
from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Record, Scores
from luthier.core.words import plural
from luthier.data.chat import prompt
from luthier.data.judged_answers import (
    ANSWERS,
    LABELS,
    PROMPTS,
    find_conversations,
    find_judged,
    other_values,
    parse_judged_answer,
    prompt_of,
    tells_two,
)
from luthier.data.near_duplicates import normalise
from luthier.data.row_reader import Columns, RowKind, RowView
from luthier.data.rows import Rejected, Rows
from luthier.data.spec import Data
from luthier.families import token_proofs, unpaired_preference_proofs
from luthier.families.choice import Choice
from luthier.families.preference import PreferenceFamily
from luthier.families.preference_findings import answer_findings
from luthier.families.unpaired_preference_report import describe_answers, trivial_models
from luthier.objectives.unpaired_preference import KINDS, RATIO, UnpairedPreference, class_weights

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base

AS_PAIRS = "as for pairs (docs/preference.md); one learning rate was tried with single answers"
FEWEST_STRAY = 3
"""Rows with the same third value of a label from which on the column is refused; fewer are set aside."""


class UnpairedFamily(PreferenceFamily):
    """See the module."""

    name = "unpaired_preference"
    kind = RowKind("text", "judged answer")
    specificity = 3
    known_as = ("kto",)
    Spec = UnpairedPreference
    metrics = ("auc", "accuracy", "balanced_accuracy", "loss")
    decides = "a good answer gained more than a bad one: the border between them moves while it learns"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """A prompt, one answer, and whether it was good; by well-known names alone, or where a person insists."""
        if asked.task != self.name:
            judged = find_judged(rows) if asked.task is None and not asked.input and asked.target is None else None
            return None if judged is None else Columns(self.name, *judged, _reason(*judged))
        input = asked.input or _find_input(rows, path)
        if len(input) == 1 and not any(isinstance(row.get(input[0]), list) for row in rows.values):
            raise DataError(
                f"{path}: {input[0]!r} holds no conversations, and an answer is judged together with its prompt",
                "name the prompt and then the answer: --input prompt,completion",
            )
        target = asked.target or _find_label(rows, path, input)
        if target in input:
            raise DataError(f"{path}: {target!r} is to be read and to be learned", "leave it out of --input")
        stray = other_values(rows, target)
        if stray and sum(str(row.get(target)).strip() == stray[0] for row in rows.values) >= FEWEST_STRAY:
            raise DataError(
                f"{path}: the column {target!r} says {', '.join(repr(value) for value in stray[:3])}, which is neither good nor bad",
                "write good or bad (also true or false, 1 or 0, yes or no, up or down), and leave other rows out; several classes are --task classification",
            )
        return Columns(self.name, input, target, _reason(input, target))

    def read_row(self, values: Any, input: tuple[str, ...], target: str) -> Any:
        """A prompt, an answer and whether it was good; nothing can be learned without one of them."""
        return parse_judged_answer(values, input, target)

    def row_view(self, record: Record, data: Data) -> RowView:
        """The prompt, and the answer; good and bad ones are split in proportion."""
        row = parse_judged_answer(record.values, data.input, data.target or "")
        return RowView("\n\n".join(turn["content"] for turn in row.prompt), row.answer, KINDS[row.good])

    def fit(self, parts: dict[str, list[Record]], columns: Columns, rejected: list[Rejected], path: str) -> tuple[str, ...]:
        """Answers that are called both good and bad leave their parts; some of either kind have to be left.

        Raises:
            DataError: all that are left are good, or all are bad.
        """
        rows = {
            id(record): parse_judged_answer(record.values, columns.input, columns.target or "")
            for part in parts.values()
            for record in part
        }
        texts = {key: (normalise("\n".join(turn["content"] for turn in row.prompt)), normalise(row.answer)) for key, row in rows.items()}
        kinds = {(texts[key], row.good) for key, row in rows.items()}
        for name, part in parts.items():
            both = [record for record in part if (texts[id(record)], not rows[id(record)].good) in kinds]
            for record in both:
                reason = f"another row calls the same answer to the same prompt {KINDS[not rows[id(record)].good]}"
                rejected.append(Rejected(record.source, record.row, reason, dict(record.values)))
            gone = {id(record) for record in both}
            parts[name] = [record for record in part if id(record) not in gone]
        left = {rows[id(record)].good for record in parts["train"]}
        if len(left) == 1:
            kind = KINDS[left.pop()]
            raise DataError(
                f"{path}: all {plural(len(parts['train']), 'answer')} that can be used are {kind}: there is nothing to tell apart",
                f"give rows whose answer is {'bad' if kind == 'good' else 'good'} too; good answers alone are --task chat",
            )
        return ()

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """As for pairs, and what a good and a bad answer count."""
        good, bad = _counts(dataset)
        weights = zip(("desirable_weight", "undesirable_weight"), class_weights(good, bad), strict=True)
        why = f"{good:,} good and {bad:,} bad answers: together the good ones weigh {RATIO[0]:g} to {RATIO[1]:.2f} times what the bad ones do (KTO, section 4.2)"
        return [*super().defaults(dataset, base, metric), *(Choice(f"objective.{name}", weight, why) for name, weight in weights)]

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """That of pairs."""
        return super().learning_rate(base, adaptation)[0], AS_PAIRS

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """The weights of both kinds, where nobody set one."""
        if spec.desirable_weight is not None or spec.undesirable_weight is not None:
            return spec
        desirable, undesirable = class_weights(*_counts(dataset))
        return spec.model_copy(update={"desirable_weight": desirable, "undesirable_weight": undesirable})

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """The answer and its end are learned and nothing else, as good as its row says; the loss begins where it must, and its gradient goes the right way."""
        read = (
            unpaired_preference_proofs.answers_can_be_learned,
            token_proofs.trained_is_served,
            unpaired_preference_proofs.the_answer_is_judged_and_nothing_else,
            unpaired_preference_proofs.the_end_is_learned,
            unpaired_preference_proofs.mismatched_answers_are_of_other_prompts,
        )
        ask = (
            unpaired_preference_proofs.starts_as_the_reference,
            unpaired_preference_proofs.log_probabilities_are_exact,
            unpaired_preference_proofs.good_answers_become_likelier_and_bad_ones_less,
        )
        return read, ask

    def serving_inputs(self, record: Record, objective: Any) -> Any:
        """The turns that wait for an answer."""
        return {"tokens": prompt(objective.tokenizer, prompt_of(record.values, objective.input))[0]}

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """Always the more frequent kind; the longer answer is good; the answer that the reference finds likelier is good."""
        return trivial_models(train, validation, context.objective)

    def target_text(self, example: Example) -> str:
        """Good or bad."""
        return KINDS[example.target]

    def predicted_text(self, scores: Scores, position: int) -> str:
        """Which of the two, how sure, and how much likelier the answer became."""
        assert scores.probabilities is not None
        kind = int(scores.probabilities[position].argmax())
        return f"{KINDS[kind]} ({scores.probabilities[position, kind]:.2f}; {scores.more['gained'][position]:+.1f} nats)"

    def details(self, scores: Scores, spec: Any) -> dict[str, Any]:
        """How far it went from the reference, what became of good and bad answers, and whether it is length that it learned."""
        return describe_answers(scores)

    def findings(self, scores: Scores, spec: Any) -> list[Finding]:
        """Whether length alone tells what it prefers, and a drift that is far."""
        return answer_findings(scores)

    # use

    def optional_columns(self, columns: Sequence[str]) -> tuple[str, ...]:
        """The answer, where it stands in a column of its own: the model gives one."""
        return tuple(columns[1:][-1:])


def _reason(input: tuple[str, ...], target: str) -> str:
    """One sentence for the person."""
    what = f"{' + '.join(input[:-1])} → {input[-1]}" if input[1:] else input[0]
    return f"the columns {what} hold answers, and {target} says which were good"


def _find_input(rows: Rows, path: str) -> tuple[str, ...]:
    """The columns of prompt and answer, where a person insists and names none.

    Raises:
        DataError: one of them is not there.
    """
    whole = find_conversations(rows)
    answer = next((name for name in ANSWERS if name in rows.columns), None)
    prompt_columns = next((names for names in PROMPTS if set(names) <= set(rows.columns)), None)
    if answer is not None and prompt_columns is not None:
        return (*prompt_columns, answer)
    if whole is not None:
        return (whole,)
    what = "the answers" if answer is None else "their prompts"
    raise DataError(
        f"{path}: none of the columns {', '.join(rows.columns)} is known to hold {what}",
        "name the prompt and then the answer: --input prompt,completion",
    )


def _find_label(rows: Rows, path: str, input: tuple[str, ...]) -> str:
    """The column that says whether an answer was good: a well-known name, or one that says nothing else.

    Raises:
        DataError: there is none.
    """
    others = [name for name in rows.columns if name not in input]
    column = next((name for name in (*LABELS, *others) if name in others and (name in LABELS or tells_two(rows, name))), None)
    if column is None:
        raise DataError(
            f"{path}: none of the columns {', '.join(others) or '(there is no other)'} says which answers were good",
            "name it: --target COLUMN, with values such as good and bad, true and false, or 1 and 0",
        )
    return column


def _counts(dataset: Dataset) -> tuple[int, int]:
    """Good and bad training answers."""
    data = dataset.spec
    counts = Counter(parse_judged_answer(record.values, data.input, data.target or "").good for record in dataset.records["train"])
    return max(counts[True], 1), max(counts[False], 1)


FAMILY = UnpairedFamily()
