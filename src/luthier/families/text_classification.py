"""Text classification: one class a row, of a text or of two texts read together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.proof import ProofFunction
from luthier.core.types import Example
from luthier.data.infer import count_values, find_label, find_pair, find_text
from luthier.data.row_reader import Columns, RowKind
from luthier.data.rows import Rows
from luthier.data.spec import Data
from luthier.data.written_numbers import REMEDY, describe_written_numbers
from luthier.families import token_proofs
from luthier.families.class_family import ClassFamily, starts_where_it_must
from luthier.families.multi_label import are_separated, say_commas
from luthier.families.text_family import TextFamily
from luthier.objectives.classification import Classification

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.families.head_start import HeadFit
    from luthier.models.base import Base
    from luthier.models.pretrained import Classifier
    from luthier.models.spec import Model

MANY_CLASSES, FEW_ROWS = 10, 30
"""From so many classes on, with fewer training rows each than this, the head begins as a linear probe; measured on 77 classes of 16 rows."""


class TextClassification(ClassFamily, TextFamily):
    """See the module."""

    name = "classification"
    gives = "classes"
    kind = RowKind("text", "class")
    Spec = Classification
    probed_lr_scale = 0.3  # with 400 steps on 77 classes 0.854, with all of it 0.841, with a tenth 0.847

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
        if asked.task is None and (commas := say_commas(rows, target)):
            why.append(f"{commas}; each combination is a class of its own here")
        if asked.task is None and (how := describe_written_numbers(rows, target)):
            why.append(f"the cells of {target!r} {how}, and each is a class of its own here: for numbers {REMEDY}")
        input = asked.input
        if not input:
            input, reason = find_text(rows, path, target, pair)
            why.append(reason)
        if asked.task is None and all(isinstance(row.get(target), list) for row in rows.values):
            return None
        return Columns(self.name, input, target, "; ".join(why) or "task and columns as given")

    # starting point

    def reason_for_probe(self, dataset: Dataset) -> str:
        """Many classes of few rows each: random weights would take most of the steps to become one."""
        rows, classes = len(dataset.records["train"]), len(dataset.labels)
        if classes < MANY_CLASSES or rows >= FEW_ROWS * classes:
            return ""
        return f"{classes} classes of about {rows // classes} rows each: a head that begins as logistic regression needs a third of the steps (docs/defaults.md)"

    # model and loss

    def head_fit(self) -> HeadFit:
        """Logistic regression over the classes."""
        from luthier.families.head_start import fit_classes

        return fit_classes

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
