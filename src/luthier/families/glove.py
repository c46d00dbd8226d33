"""GloVe: vectors of words from counts of how often words stand near each other in texts without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.proof import Proof, ProofContext, ProofFunction
from luthier.core.types import Example, Scores
from luthier.families.by_size import row_for
from luthier.families.choice import Choice
from luthier.families.vector_family import VectorFamily, estimate_words
from luthier.objectives.glove import CELLS, Glove

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base

EPOCHS = (
    (1_000_000, 25, "few counts: passes until the validation counts say stop"),
    (30_000_000, 15, "as the authors for small vectors"),
    (1 << 62, 10, "many counts"),
)
"""Below this many training words, epochs, and why."""
RATES = (
    (1_000_000, 0.1, "AdaGrad: twice the authors' 0.05, for many counts move a vector together"),
    (1 << 62, 0.3, "AdaGrad: of 0.1 and 0.3 the lower held-out loss on ten novels, in steps of 65,536 counts (docs/word-vectors.md)"),
)
"""Below this many training words, the learning rate, and where it comes from."""
STEP_CELLS = (65_536, 16_384, 4_096)
"""Counts of a step, the most first."""
AT_ONCE = 1 << 17
"""Counts that go through the model at once."""
STEPS = 500
"""That a run should have."""
CELLS_A_WORD = 4.0
"""Counts that a word of the training rows brings, about, in some million words."""
SMALL = 20_000
"""Words below which a word may be rarer."""
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""What the factorised matrix is multiplied by; the validation counts choose. 0 leaves the frequencies alone."""
ROUNDS = 20
"""In which the numbers of words are fitted by turns."""


class GloveFamily(VectorFamily):
    """See the module."""

    name = "glove"
    Spec = Glove
    metrics = ("log_count_error", "loss")
    biases = True

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By the number of words."""
        words, _ = estimate_words(dataset)
        epochs, why = row_for(EPOCHS, words)
        return [
            Choice("adaptation.kind", "full", "all vectors move"),
            Choice("optimizer.kind", "adagrad", "as the authors: a word's own learning rate"),
            Choice("optimizer.lr", *row_for(RATES, words)),
            Choice("optimizer.clip", 0.0, "AdaGrad does not depend on the size of gradients"),
            Choice("optimizer.weight_decay", 0.0, "only rows that were read move"),
            Choice("schedule.kind", "linear", "straight to zero"),
            Choice("schedule.warmup", 0.0, "vectors begin near zero"),
            Choice("model.dropout", 0.0, "there is nothing to drop"),
            Choice("training.dtype", "float32", "a vector moves by less than bfloat16 can tell"),
            Choice("training.epochs", epochs, why),
            Choice("training.micro_batch_tokens", AT_ONCE, "a count takes next to no memory: a step goes through at once"),
            Choice("training.evaluations_per_epoch", 1.0, "one look an epoch"),
            self.batch_size(dataset, epochs),
            Choice(
                "objective.least_count",
                2 if words < SMALL else 5,
                "few words" if words < SMALL else "as the authors: rarer words learn little",
            ),
            *self.metric(dataset, metric),
        ]

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """That of a few hundred thousand words, which is never too high."""
        return RATES[0][1:]

    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """Examples of some thousand counts each."""
        cells = CELLS_A_WORD * estimate_words(dataset)[0] * epochs
        step = next((step for step in STEP_CELLS if cells >= step * STEPS), STEP_CELLS[-1])
        return Choice(
            "training.batch_size",
            max(1, step // CELLS),
            f"{step:,} counts a step, {CELLS:,} an example: the most that leave some {STEPS} steps",
        )

    def adaptations(self, base: Base | None) -> tuple[str, ...]:
        """There are no blocks to freeze."""
        return ("full",)

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """Counts are those of the rows, and the loss is what it must be where nothing is known."""
        return (counts_are_symmetric,), (knowing_nothing_costs_what_it_must,)

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """How frequent words are, and a matrix of counts that is factorised."""
        return fit_factorised(train, validation, context)

    def target_text(self, example: Example) -> str:
        """What an example holds."""
        return f"{len(example.tokens):,} counts"


def fit_factorised(train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
    """A number for each word, fitted by turns; and the same with the factorised matrix of what pairs have in common beyond it (PPMI, SVD)."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    from luthier.evaluation.baselines import Baseline

    vocabulary, width = len(context.processor), min(context.objective.spec.width, len(context.processor) - 1)
    first, second, logs, weights = (
        np.concatenate([example.inputs[name] for example in train]) for name in ("tokens", "others", "logarithms", "weights")
    )
    numbers = fit_numbers(first, second, logs.astype(float), weights.astype(float), vocabulary)
    context.poll()
    counts = np.exp(logs.astype(float))
    alone = np.bincount(first, counts, vocabulary)
    information = np.maximum(logs + math.log(counts.sum()) - np.log(alone[first]) - np.log(alone[second]), 0)
    matrix = csr_matrix((information, (first, second)), shape=(vocabulary, vocabulary))
    factors: Any = svds(matrix, k=width, v0=np.ones(vocabulary))
    left, values, right = factors
    roots = np.sqrt(values)
    tried = []
    for scale in SCALES:
        context.poll()
        scorer = _scorer(context.objective, scale * left * roots, right.T * roots, numbers)
        tried.append(Baseline("PPMI with SVD" if scale else "word frequencies", scorer, scorer(validation)))
    return [min(tried[1:], key=lambda baseline: float(baseline.validation.loss.sum())), tried[0]]


def fit_numbers(first: np.ndarray, second: np.ndarray, logs: np.ndarray, weights: np.ndarray, vocabulary: int) -> np.ndarray:
    """A number for each word whose sums come nearest to the logarithms, # (vocabulary,)"""
    numbers, totals = np.zeros(vocabulary), np.bincount(first, weights, vocabulary)
    for _ in range(ROUNDS):
        targets = np.bincount(first, weights * (logs - numbers[second]), vocabulary) / np.maximum(totals, 1e-9)
        numbers = 0.5 * numbers + 0.5 * targets  # the matrix is symmetric: a whole step would swing
    return numbers


def _scorer(objective: Any, one: np.ndarray, two: np.ndarray, numbers: np.ndarray) -> Callable[[Sequence[Example]], Scores]:
    """The same loss for tables that were made otherwise."""
    import torch

    from luthier.evaluation.score import score
    from luthier.models.word_vectors import Tables, WordVectors

    model = WordVectors(Tables(len(one), one.shape[1], biases=True))
    made = {"words": one, "contexts": two, "word_biases": numbers[:, None], "context_biases": numbers[:, None]}
    with torch.no_grad():
        for name, values in made.items():
            getattr(model.network, name).weight.copy_(torch.from_numpy(values.copy()))
    return lambda examples: score(model, objective, examples)


def counts_are_symmetric(context: ProofContext) -> Proof:
    """A word stands near another as often as the other near it, and no pair is counted twice."""
    train: Any = context.train
    first, second, logs = (train.columns[name] for name in ("tokens", "others", "logarithms"))
    vocabulary = len(context.tokenizer)
    order = np.argsort(first.astype(np.int64) * vocabulary + second, kind="stable")
    turned = np.argsort(second.astype(np.int64) * vocabulary + first, kind="stable")
    keys = first.astype(np.int64)[order] * vocabulary + second[order]
    once = bool((np.diff(keys) > 0).all())
    same = bool((first[order] == second[turned]).all() and np.allclose(logs[order], logs[turned], atol=1e-4))
    return Proof(held=once and same and len(first) > 0, claim=f"{len(first):,} counts of {vocabulary:,} words, each pair once in either order" if once and same else "the counts are not symmetric, or a pair is there twice",
                 evidence={"counts": len(first)})  # fmt: skip


def knowing_nothing_costs_what_it_must(context: ProofContext) -> Proof:
    """Tables of zeros lose the weighted mean of the squared logarithms."""
    import torch

    from luthier.models.modes import eval_mode

    model: Any = context.model
    rows = context.rows
    logs, weights = (np.concatenate([example.inputs[name] for example in rows]).astype(float) for name in ("logarithms", "weights"))
    expected = float((weights * logs**2).sum() / weights.sum())
    saved = {name: parameter.detach().clone() for name, parameter in model.network.named_parameters()}
    try:
        with torch.no_grad(), eval_mode(model):
            for parameter in model.network.parameters():
                parameter.zero_()
            loss = context.objective.loss(model, context.batch(rows))
            value = float(loss.total) / max(loss.count, 1e-9)
    finally:
        with torch.no_grad():
            for name, parameter in model.network.named_parameters():
                parameter.copy_(saved[name])
    return Proof(held=abs(value - expected) < 1e-3 * max(expected, 1e-3), claim=f"tables of zeros lose {value:.4f} for a weighted count; it must be {expected:.4f}",
                 evidence={"found": value, "expected": expected})  # fmt: skip


FAMILY = GloveFamily()
