"""Text classification: one class a row, of a text or of two texts read together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.proof import ProofFunction
from luthier.core.types import Example
from luthier.data.infer import count_values, find_label, find_pair, find_text
from luthier.data.reading import Columns, RowKind
from luthier.data.rows import Rows
from luthier.data.spec import Data
from luthier.families import token_proofs
from luthier.families.class_family import ClassFamily, starts_where_it_must
from luthier.families.family import Choice
from luthier.families.multi_label import are_separated
from luthier.families.text_family import TextFamily
from luthier.objectives.classification import Classification

if TYPE_CHECKING:
    from luthier.core.cache import Cache
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base
    from luthier.models.pretrained import Classifier
    from luthier.models.spec import Model

PROBED_LR_SCALE = 0.3
"""Of the usual learning rate where the head begins as a linear probe: with 400 steps on 77 classes 0.854, with all of it 0.841, with a tenth 0.847."""
MANY_CLASSES, FEW_ROWS = 10, 30
"""From so many classes on, with fewer training rows each than this, the head begins as a linear probe; measured on 77 classes of 16 rows."""


class TextClassification(ClassFamily, TextFamily):
    """See the module."""

    name = "classification"
    gives = "classes"
    kind = RowKind("text", "class")
    Spec = Classification
    probes = True

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """A label that repeats, and a text."""
        why = []
        pair = () if asked.input else find_pair(rows, asked.target)
        target = asked.target
        if target is None:
            target = find_label(rows, path, asked.input or pair)
            why.append(count_values(rows, target))
            if are_separated(rows, target):
                why.append(
                    "some of its cells hold several labels, and each combination is a class of its own here: --task multi_label learns the labels one by one"
                )
        input = asked.input
        if not input:
            input, reason = find_text(rows, path, target, pair)
            why.append(reason)
        if asked.task is None and all(isinstance(row.get(target), list) for row in rows.values):
            return None
        return Columns(self.name, input, target, "; ".join(why) or "task and columns as given")

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """Many classes of few rows each: the head begins as a linear probe, for random weights would take most of the steps to become one."""
        chosen = super().defaults(dataset, base, metric)
        rows, classes = len(dataset.records["train"]), len(dataset.labels)
        new = base is None or base.bundle is None  # no base is the family's own; a bundle may bring a head that fits
        if classes >= MANY_CLASSES and rows < FEW_ROWS * classes and new and self.role(base) != "reader":
            adaptation = next(choice.value for choice in chosen if choice.path == "adaptation.kind")
            gentler = Choice("optimizer.lr", *self.learning_rate_for(base, adaptation, Classification(head="probe")))
            reason = f"{classes} classes of about {rows // classes} rows each: a head that begins as logistic regression needs a third of the steps (docs/defaults.md)"
            chosen = [gentler if choice.path == gentler.path else choice for choice in chosen]
            chosen.append(Choice("objective.head", "probe", reason))
        return chosen

    def learning_rate_for(self, base: Base | None, adaptation: str, spec: Any) -> tuple[float, str]:
        """Less of it where the head begins as a linear probe."""
        lr, why = self.learning_rate(base, adaptation)
        if spec.head != "probe":
            return lr, why
        return float(
            f"{lr * PROBED_LR_SCALE:.2g}"
        ), "a head that begins as a linear probe loses what it knows at the usual learning rate (docs/defaults.md)"

    # model and loss

    def start_head(
        self, model: Any, objective: Any, fingerprint: str, train: Sequence[Example], validation: Sequence[Example], cache: Cache
    ) -> bool:
        """As logistic regression on the untouched base, where the experiment says so."""
        if objective.spec.head != "probe":
            return False
        from luthier.families.head_start import start_as_linear_probe

        start_as_linear_probe(model, objective, fingerprint, train, validation, cache)
        return True

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> Classifier:
        """The base with a head for the classes."""
        return self.with_outputs(list(spec.labels), spec, model, base, seed)

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is read is what is served; a new head knows nothing."""
        return token_proofs.READ, (starts_where_it_must,)

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The most frequent class, and logistic regression on TF-IDF."""
        from luthier.evaluation import baselines

        arguments = train, validation, context.classes
        frequent = baselines.majority_baseline(*arguments)
        context.poll()
        return [frequent, baselines.tf_idf_baseline(*arguments, context.columns, context.most_rows)]

    # use

    def without_luthier(self) -> str:
        """A pipeline of transformers."""
        return 'from transformers import pipeline; pipeline("text-classification", "PATH")("your text")'


FAMILY = TextClassification()
