"""Chat and instruction tuning: a decoder learns to answer as the assistant does in the rows, and nothing else of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Record
from luthier.data.chat import conversation, prompt
from luthier.data.chat import prompt_turns as asked_turns
from luthier.data.infer import find_conversation
from luthier.data.judged_answers import say_one_kind
from luthier.data.row_reader import Columns, RowKind, RowView
from luthier.data.rows import Rows
from luthier.data.spec import Data
from luthier.evaluation.metric_choice import AUTO
from luthier.families import chat_proofs, text_defaults, token_proofs
from luthier.families.by_size import row_for
from luthier.families.choice import Choice
from luthier.families.family import Family
from luthier.objectives.chat import Chat

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base
    from luthier.models.pretrained import Generator
    from luthier.models.spec import Model

EPOCHS = ((500, 2, "few rows"), (1 << 62, 1, "one pass; more overfits small decoders"))
"""Below this many training rows, epochs, and why."""
BATCHES = (8,)
"""Rows a step."""
STEPS = 100
"""That a run should have."""
ANSWERED_TOGETHER = 8


class ChatFamily(Family):
    """See the module."""

    name = "chat"
    kind = RowKind("text", "answer")
    specificity = 1
    Spec = Chat
    base = "smollm2-135m"
    base_kinds = ("decoder",)
    known_as = ("sft",)
    metrics = ("loss", "bits_per_byte", "chrf", "rouge_l")
    compares_untouched = True
    generates = True
    converses = True
    pipeline_tag = "text-generation"
    gives = "text"
    moves = text_defaults.WHOLE
    """The adaptation that a run begins with, and why."""
    epochs: tuple[tuple[int, float, str], ...] = EPOCHS
    batches: tuple[int, ...] = BATCHES
    decides = "the answers' mean negative log-likelihood"
    """Why the first of its metrics decides which checkpoint is kept."""

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """Columns of a well-known conversation; any others where a person insists and names them."""
        if asked.task is None and asked.input and asked.target:
            return None
        recognised = (
            find_conversation(rows, asked.input, asked.target, asked.task == self.name) if not (asked.input and asked.target) else None
        )
        if recognised is not None:
            names, learned = recognised
            columns = learned if names == (learned,) else f"{' + '.join(names)} → {learned}"
            one_kind = say_one_kind(rows, (*names, learned))
            return Columns(self.name, names, learned, "; ".join(filter(None, (f"the columns {columns} are a conversation", one_kind))))
        if asked.task is None:
            return None
        if asked.input and asked.target:
            return Columns(self.name, asked.input, asked.target, f"task and columns as given: {' + '.join(asked.input)} → {asked.target}")
        raise DataError(
            f"{path}: no conversation found among the columns {', '.join(rows.columns)}", "name them: --input question --target answer"
        )

    def read_row(self, values: Any, input: tuple[str, ...], target: str) -> Any:
        """What a row says: turns of which the last is an answer.

        Args:
            values: its columns.
            input: the columns that are read.
            target: the column to be learned.

        Raises:
            ValueError: why nothing can be learned from it.
        """
        return conversation(values, input, target)

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """Why nothing can be learned from a row; empty where something can."""
        try:
            self.read_row(record.values, columns.input, columns.target or "")
        except ValueError as problem:
            return str(problem)
        return ""

    def row_view(self, record: Record, data: Data) -> RowView:
        """All turns but the last, and the last."""
        messages = conversation(record.values, data.input, data.target or "")
        return RowView("\n\n".join(turn["content"] for turn in messages[:-1]), messages[-1]["content"])

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """One or two epochs."""
        rows = len(dataset.records["train"])
        epochs, why = row_for(self.epochs, rows)
        return [
            Choice("adaptation.kind", *self.moves),
            Choice("optimizer.lr", *self.learning_rate(base, self.moves[0])),
            Choice("training.epochs", epochs, why),
            self.batch_size(dataset, epochs),
            *text_defaults.schedule(),
            *text_defaults.regularisation(dropout=0.0, decay=0.0),
            *self.metric(dataset, metric),
        ]

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """That of decoders."""
        return text_defaults.learning_rate("decoder", base, adaptation)

    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """The most rows a step that leave a run as many steps as it should have; few, for answers are long."""
        return text_defaults.largest_batch(self.batches, len(dataset.records["train"]) * epochs, STEPS)

    def metric(self, dataset: Dataset, asked: str) -> list[Choice]:
        """The first of its metrics, where none is asked for."""
        return [Choice("training.metric", self.metrics[0] if asked == AUTO else asked, self.decides)]

    def adaptations(self, base: Base | None) -> tuple[str, ...]:
        """Those whose learning rates are known."""
        return text_defaults.adaptations("decoder")

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> Generator:
        """The base with its own head."""
        from luthier.models.pretrained import load_generator

        assert base is not None
        return load_generator(base, model.dropout)

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """The answer and its end are learned and nothing else; padding changes nothing."""
        read = (
            chat_proofs.something_is_learned,
            token_proofs.trained_is_served,
            chat_proofs.the_answer_is_learned_and_nothing_else,
            chat_proofs.the_end_is_learned,
            chat_proofs.control_tokens_stand_once,
        )
        return read, (chat_proofs.starts_where_it_must, chat_proofs.padding_changes_nothing)

    def serving_inputs(self, record: Record, objective: Any) -> Any:
        """The turns that wait for an answer."""
        return {"tokens": prompt(objective.tokenizer, asked_turns(record.values, objective.input))[0]}

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """Word frequencies that copy from the prompt."""
        from luthier.evaluation.baselines import cache_lm_baseline

        return [cache_lm_baseline(context.objective, train, validation, len(context.processor))]

    def target_text(self, example: Example) -> str:
        """The last answer."""
        return example.facts["messages"][-1]["content"]

    # use

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """The likeliest answer to each."""
        from luthier.models.generate import generate_answers

        prompts = [self.serving_inputs(record, objective)["tokens"] for record in records]
        answers: list[str] = []
        for start in range(0, len(prompts), ANSWERED_TOGETHER):
            answers += generate_answers(model, objective.tokenizer, prompts[start : start + ANSWERED_TOGETHER], limit)
        return [{"text": text} for text in answers]

    def usage(self, bundle: str) -> str:
        """A conversation."""
        return f"luthier chat {bundle}"

    def without_luthier(self) -> str:
        """A pipeline of transformers."""
        return 'from transformers import pipeline; pipeline("text-generation", "PATH")([{"role": "user", "content": "…"}])'

    def serve_elsewhere(self, bundle: str, dtype: str) -> str:
        """VLLM, with the bundle's own chat template and settings for generation."""
        return text_defaults.vllm_command(bundle, dtype)


FAMILY = ChatFamily()
