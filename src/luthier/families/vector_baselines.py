"""What word vectors have to beat: how frequent words are, and the factorised matrix of counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.types import Example, Scores

if TYPE_CHECKING:
    from luthier.evaluation.baselines import Baseline, BaselineContext

COUNTED = 5_000_000
"""Training words that are counted at most."""
SCALES = (0.25, 0.5, 0.75, 1.0, 1.25)
"""What the factorised matrix is multiplied by; the validation rows choose."""


def frequencies(train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> Baseline:
    """A score that depends on how frequent the context is alone: the best there is without knowing the word."""
    offset = _offset(context.objective)
    nothing = np.ones((len(offset), 1))
    return _baseline("word frequencies", _scorer(context.objective, nothing, offset[:, None]), validation)


def fit_factorised_counts(train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> Baseline:
    """Positive pointwise mutual information of the training rows, factorised (SVD) to the same width, as a calibrated score.

    Source: Levy & Goldberg 2014, "Neural word embedding as implicit matrix factorization"; Levy, Goldberg & Dagan 2015 (both halves take the roots).
    """
    objective = context.objective
    one, two = factorise_counts(train, objective, objective.spec.width, context.poll)
    offset = _offset(objective)[:, None]
    ones = np.ones_like(offset)
    tried = []
    for scale in SCALES:
        context.poll()
        scorer = _scorer(objective, np.hstack([scale * one, ones]), np.hstack([two, offset]))
        tried.append(_baseline("PPMI with SVD", scorer, validation))
    return min(tried, key=lambda baseline: float(baseline.validation.loss.sum()))


def factorise_counts(
    train: Sequence[Example], objective: Any, width: int, poll: Callable[[], None] = lambda: None
) -> tuple[np.ndarray, np.ndarray]:
    """The two halves of the factorised matrix: words and contexts, # (vocabulary, width) each

    Args:
        train: the training rows.
        objective: of Word2Vec; it knows which words are left out at random, and the windows.
        width: of the halves.
        poll: called between the two parts of the work.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    from luthier.evaluation.cooccurrences import count_pairs

    reach, vocabulary = objective.spec.window, len(objective.tokenizer)
    weights = 1 - np.arange(reach) / reach  # a window of 1 to `reach` words holds a word at this distance so often
    first, second, counts = count_pairs(_most(train), vocabulary, weights, objective.kept)
    poll()
    total, alone = counts.sum(), np.bincount(first, counts, vocabulary)
    information = np.maximum(np.log(counts * total / np.maximum(alone[first] * alone[second], 1e-300)), 0)
    matrix = csr_matrix((information, (first, second)), shape=(vocabulary, vocabulary))
    width = min(width, vocabulary - 1)
    factors: Any = svds(matrix, k=width, v0=np.ones(vocabulary))
    left, values, right = factors
    roots = np.sqrt(values)
    return left * roots, right.T * roots


def _most(train: Sequence[Example]) -> Iterator[np.ndarray]:
    """The rows' words, evenly no more than are counted."""
    total = sum(len(example.tokens) for example in train)
    share = min(1.0, COUNTED / max(total, 1))
    for number, example in enumerate(train):
        if int((number + 1) * share) > int(number * share):
            yield np.asarray(example.tokens)


def _offset(objective: Any) -> np.ndarray:
    """The logit of a pair against its negatives where only the context's frequency is known, # (vocabulary,)"""
    counts = np.maximum(objective.tokenizer.counts, 1) * objective.kept
    noise = np.diff(objective.noise, prepend=0.0)
    return np.log(counts / counts.sum() / np.maximum(objective.spec.negatives * noise, 1e-300))


def _scorer(objective: Any, inputs: np.ndarray, outputs: np.ndarray) -> Callable[[Sequence[Example]], Scores]:
    """The same loss for two tables that were made otherwise."""
    import torch

    from luthier.evaluation.score import score
    from luthier.models.word_vectors import Tables, WordVectors

    model = WordVectors(Tables(len(inputs), inputs.shape[1], biases=False))
    with torch.no_grad():
        model.network.words.weight.copy_(torch.from_numpy(inputs.copy()))
        model.network.contexts.weight.copy_(torch.from_numpy(outputs.copy()))
    return lambda examples: score(model, objective, examples)


def _baseline(name: str, scorer: Callable[[Sequence[Example]], Scores], validation: Sequence[Example]) -> Baseline:
    from luthier.evaluation.baselines import Baseline

    return Baseline(name, scorer, scorer(validation))
