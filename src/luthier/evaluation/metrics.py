"""Metrics, each a function of scores, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from luthier.core.errors import ExperimentError, nearest
from luthier.core.types import Scores
from luthier.evaluation import numbers, pairs, retrieval, spans
from luthier.evaluation.auc import anomaly_auc, anomaly_auc_of_resamples, auc, auc_of_resamples
from luthier.evaluation.bleu import bleu_counts, bleu_of
from luthier.evaluation.overlap import chrf_counts, chrf_of, rouge_l
from luthier.evaluation.resamples import sum_by_class
from luthier.evaluation.user_metric import call_function, higher_is_better, is_allowed, is_function

OverResamples = Callable[[Scores], Callable[[np.ndarray], np.ndarray]]
"""Scores → a function of how often each row was drawn, # (draws, rows) → (draws,)"""


@dataclass(frozen=True)
class Metric:
    """A number and which way is better.

    Args:
        value: scores and chosen rows (with repetition) → the number.
        higher: whether more is better.
        about: one line for a person.
        over: the same number for many resamples at once; None where each resample is measured by itself.
        answers: whether it reads generated answers.
        share: whether it is shown in percent.
    """

    value: Callable[[Scores, np.ndarray], float]
    higher: bool
    about: str
    over: OverResamples | None = None
    answers: bool = False
    share: bool = False


def accuracy(scores: Scores, rows: np.ndarray) -> float:
    """Share of rows whose likeliest class is the right one."""
    return float(_is_right(scores)[rows].mean())


def macro_f1(scores: Scores, rows: np.ndarray) -> float:
    """The F1 of each class that is there or was named, averaged with equal weight."""
    assert scores.target is not None and scores.probabilities is not None
    table = confusion(scores.target[rows], scores.probabilities.argmax(1)[rows], scores.probabilities.shape[1])
    met = table.sum(0) + table.sum(1)
    return float((2 * table.diagonal()[met > 0] / met[met > 0]).mean())


def balanced_accuracy(scores: Scores, rows: np.ndarray) -> float:
    """The share of rows that are right within each class that is there, averaged with equal weight."""
    return float(_balanced_accuracy_of(*_tallies(scores, rows)))


def mcc(scores: Scores, rows: np.ndarray) -> float:
    """Matthews' correlation between the true and the likeliest classes: 1 for all right, 0 for no better than chance (Gorodkin 2004)."""
    return float(_mcc_of(*_tallies(scores, rows)))


def loss(scores: Scores, rows: np.ndarray) -> float:
    """Mean negative log-likelihood of a row (or of a token)."""
    return float(scores.loss[rows].sum() / scores.count[rows].sum())


def bits_per_byte(scores: Scores, rows: np.ndarray) -> float:
    """Bits for each byte of the answers: comparable between tokenizers."""
    assert scores.bytes is not None
    return float(scores.loss[rows].sum() / np.log(2) / scores.bytes[rows].sum())


def calibration_error(scores: Scores, rows: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over 15 bins of equal size (adaptive ECE; Nguyen & O'Connor 2015)."""
    assert scores.probabilities is not None
    bins = calibration(scores, rows)
    return float(sum(part["n"] * abs(part["confidence"] - part["accuracy"]) for part in bins) / len(rows))


def chrf(scores: Scores, rows: np.ndarray) -> float:
    """Character n-gram F-score of the generated answers against the references, 0 to 100, as sacreBLEU's."""
    return float(chrf_of(_chrf_counts(scores)[rows].sum(0)))


def bleu(scores: Scores, rows: np.ndarray) -> float:
    """BLEU of the generated answers against the references, 0 to 100, as sacreBLEU's (13a words)."""
    return float(bleu_of(_bleu_counts(scores)[rows].sum(0)))


def mean_rouge_l(scores: Scores, rows: np.ndarray) -> float:
    """ROUGE-L of the generated answers against the references, averaged."""
    return float(_rouge_l_each(scores)[rows].mean())


def _ratio(above: Callable[[Scores], np.ndarray], below: Callable[[Scores], np.ndarray]) -> OverResamples:
    """A ratio of sums over the rows, for many resamples."""

    def over(scores: Scores) -> Callable[[np.ndarray], np.ndarray]:
        one, two = above(scores).astype(np.float64), below(scores).astype(np.float64)
        return lambda counts: counts @ one / np.maximum(counts @ two, 1e-300)

    return over


def _is_right(scores: Scores) -> np.ndarray:
    assert scores.target is not None and scores.probabilities is not None
    return scores.probabilities.argmax(1) == scores.target


def _count(scores: Scores) -> np.ndarray:
    return scores.count


def _ones(scores: Scores) -> np.ndarray:
    return np.ones(len(scores.loss))


def _of_tallies(formula: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> OverResamples:
    """A function of each class's rows that are right, named and there, for many resamples."""

    def over(scores: Scores) -> Callable[[np.ndarray], np.ndarray]:
        assert scores.target is not None and scores.probabilities is not None
        predicted, target, classes = scores.probabilities.argmax(1), scores.target, scores.probabilities.shape[1]
        rows, right = np.arange(len(target)), np.flatnonzero(predicted == target)
        return lambda counts: formula(
            sum_by_class(counts, right, target[right], classes),
            sum_by_class(counts, rows, predicted, classes),
            sum_by_class(counts, rows, target, classes),
        )

    return over


def _tallies(scores: Scores, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class, how many rows are right, named and there."""
    assert scores.target is not None and scores.probabilities is not None
    table = confusion(scores.target[rows], scores.probabilities.argmax(1)[rows], scores.probabilities.shape[1]).astype(np.float64)
    return table.diagonal(), table.sum(0), table.sum(1)


def _f1_each(right: np.ndarray, predicted: np.ndarray, there: np.ndarray) -> np.ndarray:
    return 2 * right / np.maximum(predicted + there, 1)


def _macro_f1_of(right: np.ndarray, predicted: np.ndarray, there: np.ndarray) -> np.ndarray:
    return _f1_each(right, predicted, there).sum(-1) / np.maximum((predicted + there > 0).sum(-1), 1)


def _balanced_accuracy_of(right: np.ndarray, predicted: np.ndarray, there: np.ndarray) -> np.ndarray:
    return (right / np.maximum(there, 1)).sum(-1) / np.maximum((there > 0).sum(-1), 1)


def _mcc_of(right: np.ndarray, predicted: np.ndarray, there: np.ndarray) -> np.ndarray:
    count = there.sum(-1)
    spread = (count**2 - (predicted**2).sum(-1)) * (count**2 - (there**2).sum(-1))
    return (right.sum(-1) * count - (predicted * there).sum(-1)) / np.sqrt(np.where(spread > 0, spread, np.inf))


def _calibration_of_resamples(scores: Scores) -> Callable[[np.ndarray], np.ndarray]:
    """As `calibration_error`, from the rows sorted once: a bin's sums are differences of running sums."""
    assert scores.probabilities is not None
    order = np.argsort(scores.probabilities.max(1), kind="stable")
    confidence, right = scores.probabilities.max(1)[order], _is_right(scores)[order].astype(np.float64)
    bins = min(15, max(1, len(order) // 10))
    sizes = np.array([len(part) for part in np.array_split(np.empty(len(order)), bins)])
    edges = np.concatenate([[0], np.cumsum(sizes)]).astype(np.float64)

    def error(counts: np.ndarray) -> np.ndarray:
        errors = np.empty(len(counts))
        for draw, weights in enumerate(counts.T[order].T):
            totals = np.concatenate([[0.0], np.cumsum(weights)])
            gap = np.interp(edges, totals, np.concatenate([[0.0], np.cumsum(weights * (confidence - right))]))
            errors[draw] = np.abs(np.diff(gap)).sum() / edges[-1]
        return errors

    return error


def _chrf_counts(scores: Scores) -> np.ndarray:
    assert scores.outputs is not None and scores.references is not None
    return np.stack(
        [chrf_counts(output or "", reference or "") for output, reference in zip(scores.outputs, scores.references, strict=True)]
    )


def _chrf_of_resamples(scores: Scores) -> Callable[[np.ndarray], np.ndarray]:
    row_counts = _chrf_counts(scores)
    return lambda counts: chrf_of(counts @ row_counts)


def _bleu_counts(scores: Scores) -> np.ndarray:
    assert scores.outputs is not None and scores.references is not None
    return np.stack(
        [bleu_counts(output or "", reference or "") for output, reference in zip(scores.outputs, scores.references, strict=True)]
    )


def _bleu_of_resamples(scores: Scores) -> Callable[[np.ndarray], np.ndarray]:
    row_counts = _bleu_counts(scores)
    return lambda counts: bleu_of(counts @ row_counts)


def _rouge_l_each(scores: Scores) -> np.ndarray:
    assert scores.outputs is not None and scores.references is not None
    return np.array([rouge_l(output or "", reference or "") for output, reference in zip(scores.outputs, scores.references, strict=True)])


def _bits(scores: Scores) -> np.ndarray:
    return scores.loss / np.log(2)


def _bytes(scores: Scores) -> np.ndarray:
    assert scores.bytes is not None
    return scores.bytes


class _Metrics(dict[str, Metric]):
    """The metrics with a fixed name; asked for another one, it makes `f1:LABEL` or `module:function`."""

    def __missing__(self, name: str) -> Metric:
        return _make_metric(name)


_MEAN_LOSS = _ratio(lambda scores: scores.loss, lambda scores: scores.count)
METRICS = _Metrics(
    {
        "accuracy": Metric(accuracy, True, "share of rows given the right class", _ratio(_is_right, _ones), share=True),
        "macro_f1": Metric(macro_f1, True, "F1 averaged over the classes", _of_tallies(_macro_f1_of), share=True),
        "balanced_accuracy": Metric(
            balanced_accuracy, True, "recall averaged over the classes", _of_tallies(_balanced_accuracy_of), share=True
        ),
        "auc": Metric(auc, True, "area under the ROC curve, averaged over the classes", auc_of_resamples),
        "mcc": Metric(mcc, True, "Matthews' correlation of true and predicted classes", _of_tallies(_mcc_of)),
        "loss": Metric(
            loss,
            False,
            "mean of what is minimised, per row (or token); of classes and tokens the negative log-likelihood, also called log loss",
            _MEAN_LOSS,
        ),
        "log_count_error": Metric(loss, False, "weighted squared error of the logarithm of a count", _MEAN_LOSS),
        "bits_per_byte": Metric(bits_per_byte, False, "bits for each byte of what is to be said", _ratio(_bits, _bytes)),
        "calibration_error": Metric(calibration_error, False, "gap between confidence and accuracy", _calibration_of_resamples, share=True),
        "chrf": Metric(chrf, True, "chrF of the generated answers, 0 to 100", _chrf_of_resamples, answers=True),
        "bleu": Metric(bleu, True, "BLEU of the generated answers, 0 to 100, as sacreBLEU's", _bleu_of_resamples, answers=True),
        "rouge_l": Metric(mean_rouge_l, True, "ROUGE-L of the generated answers", _ratio(_rouge_l_each, _ones), answers=True),
        "mae": Metric(numbers.mean_absolute_error, False, "mean absolute error, in the target's own unit"),
        "rmse": Metric(numbers.root_mean_squared_error, False, "root of the mean squared error, in the target's own unit"),
        "r2": Metric(numbers.r2, True, "share of the variance explained"),
        "spearman": Metric(numbers.spearman, True, "rank correlation of predicted and true numbers"),
        "micro_f1": Metric(numbers.micro_f1, True, "F1 over all labels of all rows together", share=True),
        "label_macro_f1": Metric(numbers.label_macro_f1, True, "F1 averaged over the labels", share=True),
        "exact_match": Metric(numbers.exact_match, True, "share of rows all of whose labels are right", share=True),
        "span_f1": Metric(spans.span_f1, True, "F1 over all spans of all rows together", _ratio(spans.twice_right, spans.said_and_there)),
        "token_accuracy": Metric(spans.token_accuracy, True, "share of words with the right label", _ratio(spans.right_words, _count)),
        "masked_accuracy": Metric(numbers.masked_accuracy, True, "share of hidden tokens that are guessed", share=True),
        "anomaly_auc": Metric(
            anomaly_auc, True, "area under the ROC curve of the anomaly score: abnormal rows against normal ones", anomaly_auc_of_resamples
        ),
        "perplexity": Metric(numbers.perplexity, False, "exponential of the mean loss of a token"),
        "mrr": Metric(retrieval.mrr, True, "mean reciprocal rank of the right text among all", _ratio(retrieval.reciprocal_ranks, _ones)),
        "recall_at_1": Metric(
            retrieval.recall_at_1, True, "share of rows whose right text is the nearest", _ratio(retrieval.is_first, _ones), share=True
        ),
        "recall_at_10": Metric(
            retrieval.recall_at_10,
            True,
            "share of rows whose right text is among the nearest ten",
            _ratio(retrieval.is_among_ten, _ones),
            share=True,
        ),
        "pair_accuracy": Metric(
            pairs.pair_accuracy,
            True,
            "share of pairs whose better answer gained more than the worse one",
            _ratio(pairs.right_pairs, _count),
            share=True,
        ),
        "length_normalised_accuracy": Metric(
            pairs.length_normalised_accuracy, True, "the same, a token of each answer", _ratio(pairs.right_per_token, _count), share=True
        ),
        "reward_margin": Metric(
            pairs.reward_margin,
            True,
            "reward of the better answer above the worse one's",
            _ratio(lambda scores: scores.more["reward"] * scores.count, _count),
        ),
        "drift": Metric(
            pairs.drift,
            False,
            "distance from the reference, in nats a token of the better answers",
            _ratio(lambda scores: scores.more["drift"], lambda scores: scores.more["chosen_tokens"]),
        ),
    }
)
"""A metric by its name; `name in METRICS` and iteration know the fixed names alone."""


def metric_of(name: str) -> Metric:
    """A metric by its name: one of `METRICS`, `f1:LABEL`, or a function of the user's.

    Raises:
        ExperimentError: there is none, or the function may not be imported.
    """
    return METRICS[name]


def _make_metric(name: str) -> Metric:
    if name.startswith("f1:"):
        return _f1_of(name.removeprefix("f1:"))
    if is_function(name):
        higher = not is_allowed(name) or higher_is_better(name)  # where it is not, measuring raises, and a page only wants its description
        return Metric(partial(call_function, name), higher, describe_metric(name))
    raise ExperimentError(f"there is no metric {name!r}", nearest(name, METRICS))


def describe_metric(name: str) -> str:
    """A metric in a few words, without importing a function of the user's."""
    if name in METRICS:
        return METRICS[name].about
    return f"F1 of the class {name.removeprefix('f1:')}" if name.startswith("f1:") else f"{name}, a function of your own"


def is_share(name: str) -> bool:
    """Whether a metric is shown in percent; a function of the user's never is, and is not imported to know."""
    return name.startswith("f1:") or (name in METRICS and METRICS[name].share)


def needs_answers(name: str, generates: bool) -> bool:
    """Whether a metric reads generated answers, which cost time; of a function of the user's it is so where the model answers in words."""
    return METRICS[name].answers if name in METRICS else generates


def _f1_of(label: str) -> Metric:
    """The F1 of one class, 0 where it is neither there nor named."""

    def place(scores: Scores) -> int:
        if label not in scores.labels:
            raise ExperimentError(f"there is no class {label!r} to take the F1 of", nearest(label, scores.labels))
        return scores.labels.index(label)

    def value(scores: Scores, rows: np.ndarray) -> float:
        return float(_f1_each(*_tallies(scores, rows))[place(scores)])

    def over(scores: Scores) -> Callable[[np.ndarray], np.ndarray]:
        index = place(scores)
        return _of_tallies(lambda right, predicted, there: _f1_each(right, predicted, there)[:, index])(scores)

    return Metric(value, True, describe_metric(f"f1:{label}"), over, share=True)


def measure(scores: Scores, names: Sequence[str]) -> dict[str, float]:
    """Several metrics over all rows (those with a generated answer, where a metric reads them)."""
    return {name: metric_of(name).value(scores, rows_of(name, scores)) for name in names}


def rows_of(name: str, scores: Scores) -> np.ndarray:
    """The rows that a metric is taken over: all, or those with a generated answer where it reads them."""
    reads_answers = METRICS[name].answers if name in METRICS else scores.probabilities is None
    if not reads_answers:
        return np.arange(len(scores.loss))
    if scores.outputs is None:
        raise ExperimentError(f"{name} reads generated answers, and there are none", "choose another metric: loss, bits_per_byte")
    return np.flatnonzero([output is not None for output in scores.outputs])


def confusion(target: np.ndarray, said: np.ndarray, classes: int) -> np.ndarray:
    """How often each class was taken for each, # (true class, said class)"""
    return np.bincount(target * classes + said, minlength=classes**2).reshape(classes, classes)


def calibration(scores: Scores, rows: np.ndarray | None = None, bins: int = 15) -> list[dict[str, float]]:
    """Confidence and accuracy in bins of equal size, least confident first."""
    assert scores.probabilities is not None
    rows = np.arange(len(scores.loss)) if rows is None else rows
    confidence, right = scores.probabilities.max(1)[rows], _is_right(scores)[rows]
    return [
        {"confidence": float(confidence[part].mean()), "accuracy": float(right[part].mean()), "n": len(part)}
        for part in calibration_bins(confidence, bins)
    ]


def calibration_bins(confidence: np.ndarray, bins: int = 15) -> list[np.ndarray]:
    """The rows of each bin of equal size, least confident first; fewer bins where there are fewer than ten rows for each.

    Args:
        confidence: of each row, # (rows,)
        bins: at most.
    """
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, max(1, len(confidence) // 10)))
    return [part for part in parts if len(part)]
