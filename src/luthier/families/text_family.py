"""What families have in common that put a head on a base and say one thing of a text, or of two texts read together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.families import text_defaults
from luthier.families.by_size import row_for
from luthier.families.choice import Choice
from luthier.families.family import Family
from luthier.objectives.objective import fit_length

if TYPE_CHECKING:
    from luthier.core.cache import Cache
    from luthier.core.types import Example, Record
    from luthier.data.dataset import Dataset
    from luthier.families.head_start import HeadFit
    from luthier.models.base import Base
    from luthier.models.pretrained import Classifier
    from luthier.models.spec import Model

EPOCHS = (
    (500, 12, "few rows: more passes"),
    (2_000, 6, "a few thousand rows"),
    (5_000, 4, "a few thousand rows"),
    (1 << 62, 3, "many rows"),
)
"""Below this many training rows, epochs, and why."""
ROWS_A_CLASS = (200, 8.0, "fewer than 200 rows a class: more passes")
"""Below this many training rows a class, at least this many epochs."""
BATCHES = (32, 16, 8, 4)
"""Rows a step, the most first: 32 are as good as 16 where the steps suffice, in four fifths of the time (docs/log/2026-11.md#where-128-seconds-of-a-search-go)."""
STEPS = 100, 12
"""That a run should have, and so many more for each class: 20 classes lost 2 points in 200 steps of 32 rows against 400 of 16 (docs/log/2026-11.md#where-128-seconds-of-a-search-go)."""
MANY_LONG = 0.1
"""Share of long rows above which they are read in windows."""
CHARACTERS_A_TOKEN = 4.5
"""Of English prose, roughly."""
WIDE = 512
"""An encoder whose states are at least this wide is not a small one."""


def brings_head(base: Base | None) -> bool:
    """Whether a base is a bundle that may bring a head which fits; one that guesses hidden tokens brings none of this kind.

    Args:
        base: None where the network is the family's own.
    """
    from luthier.families import FAMILIES, family_of

    task = (base.bundle or {}).get("task", "") if base is not None else ""
    return task in FAMILIES and isinstance(family_of(task), TextFamily)


class TextFamily(Family):
    """A text and a new head."""

    base = "minilm-l6"
    base_kinds = ("encoder", "decoder", "vectors")
    pipeline_tag = "text-classification"
    probed_lr_scale: float = 1.0
    """Of the usual learning rate where the head begins as a linear probe."""

    # starting point

    def role(self, base: Base | None) -> str:
        """An encoder, small or not; a decoder that classifies is a reader, and word vectors are averaged."""
        if base is not None and base.kind == "vectors":
            return "vectors"
        if base is not None and base.kind == "decoder":
            return "reader"
        return "encoder" if base is not None and base.width >= WIDE else "small encoder"

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By rows, rows a class, and the base's role."""
        rows = len(dataset.records["train"])
        epochs, why = row_for(EPOCHS, rows)
        if dataset.labels and rows / len(dataset.labels) < ROWS_A_CLASS[0] and epochs < ROWS_A_CLASS[1]:
            epochs, why = ROWS_A_CLASS[1:]
        role = self.role(base)
        adaptation, adapted = text_defaults.adaptation_for(role, self.depth_kept(base) if base is not None else 0)
        probe = self.reason_for_probe(dataset) if not brings_head(base) and role != "reader" else ""
        spec = self.spec_class.model_validate({"head": "probe"} if probe else {})
        choices = [
            *(Choice(f"adaptation.{name}", value, adapted) for name, value in adaptation.items()),
            Choice("optimizer.lr", *self.learning_rate_for(base, adaptation["kind"], spec)),
            Choice("training.epochs", epochs, why),
            self.batch_size(dataset, epochs),
            *text_defaults.schedule(),
            *text_defaults.regularisation(dropout=0.1 if role.endswith("encoder") else 0.0, decay=0.01),
            *self.metric(dataset, metric),
        ]
        long = self._long_share(dataset, base) if len(dataset.spec.input) == 1 else 0.0
        if long > MANY_LONG:
            reason = f"about {long:.0%} of the rows are too long to be read at once: they are read in pieces"
            choices.append(Choice("objective.long_rows", "windows", reason))
        if probe:
            choices.append(Choice("objective.head", "probe", probe))
        return choices

    def reason_for_probe(self, dataset: Dataset) -> str:
        """Why the head should begin as a linear model of what the untouched base says of these rows; empty where it should not."""
        return ""

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """By what the base does and how it is adapted."""
        return text_defaults.learning_rate(self.role(base), base, adaptation)

    def learning_rate_for(self, base: Base | None, adaptation: str, spec: Any) -> tuple[float, str]:
        """Less of it where the head begins as a linear probe, in families that say so."""
        lr, why = self.learning_rate(base, adaptation)
        if self.probed_lr_scale == 1 or spec.head != "probe":
            return lr, why
        scaled = float(f"{lr * self.probed_lr_scale:.2g}")
        return scaled, "a head that begins as a linear probe loses what it knows at the usual learning rate (docs/defaults.md)"

    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """The most rows a step that leave a run as many steps as it should have."""
        return text_defaults.largest_batch(BATCHES, len(dataset.records["train"]) * epochs, STEPS[0] + STEPS[1] * len(dataset.labels))

    def depth_kept(self, base: Base) -> int:
        """A decoder that classifies does better with its lower half kept (docs/defaults.md)."""
        return base.blocks // 2 if base.blocks > 1 and self.role(base) == "reader" else 0

    def adaptations(self, base: Base | None) -> tuple[str, ...]:
        """Those whose learning rates are known."""
        return text_defaults.adaptations(self.role(base))

    def may_set_schedule(self, base: Base | None) -> bool:
        """The learning rate of a decoder with a new head has to fall all the way: one that stays for half of sixty steps costs two to six points (docs/log/2026-11.md#rates-that-stay-in-short-runs)."""
        return self.role(base) != "reader"

    def texts_read(self, record: Record, objective: Any) -> list[list[str]]:
        """Two columns are read together, more are joined."""
        return (
            [[str(record.values.get(name) or "") for name in objective.input]]
            if len(objective.input) == 2
            else super().texts_read(record, objective)
        )

    def _long_share(self, dataset: Dataset, base: Base | None) -> float:
        """About which share of the rows has more tokens than are read at once."""
        spec: Any = fit_length(self.spec_class(), base.positions if base is not None else 0)
        limit = spec.max_length * CHARACTERS_A_TOKEN
        texts = [str(record.values.get(dataset.spec.input[0]) or "") for record in dataset.records["train"]]
        return sum(len(text) > limit for text in texts) / len(texts)

    # model and loss

    def read_base(self, base: Base) -> Base:
        """Word vectors as an encoder that begins as their average; any other base as it is."""
        from luthier.models.vectors_as_encoder import as_encoder

        return as_encoder(base)

    def load_processor(self, base: Base | None, spec: Any, dataset: Dataset | None = None) -> Any:
        """The base's tokenizer; that of word vectors splits texts into words."""
        return super().load_processor(base if base is None else self.read_base(base), spec, dataset)

    def start_head(
        self, model: Any, objective: Any, fingerprint: str, train: Sequence[Example], validation: Sequence[Example], cache: Cache
    ) -> bool:
        """As a linear model on the untouched base, where the experiment says so."""
        fit = self.head_fit()
        if fit is None or objective.spec.head != "probe":
            return False
        from luthier.families.head_start import start_as_linear_probe

        start_as_linear_probe(model, objective, fingerprint, train, validation, cache, fit)
        return True

    def head_fit(self) -> HeadFit | None:
        """The linear model that a head can begin as (`objective.head`); None where there is none."""
        return None

    def with_outputs(
        self, names: list[str], spec: Any, model: Model, base: Base | None, seed: int, problem: str = "single_label_classification"
    ) -> Classifier:
        """The base with a head of so many outputs.

        Args:
            names: of the outputs, in order.
            spec: says what the head reads.
            model: dropout.
            base: from the store.
            seed: of the head.
            problem: what the outputs mean, as transformers calls it.
        """
        from luthier.models.pretrained import load_classifier

        assert base is not None
        pooling = spec.pooling
        if pooling == "auto":
            pooling = "last" if base.kind == "decoder" else "cls"
        return load_classifier(self.read_base(base), names, pooling, model.dropout, seed, problem)
