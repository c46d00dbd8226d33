"""The baselines: logistic regression on the base as it is, and the trivial models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from luthier.core.interfaces import Objective
from luthier.core.types import Example, Scores
from luthier.evaluation.generated_answers import references_of

REGULARISATION = (0.1, 1.0, 10.0)
LENGTH = 4.0
"""Of a row's vector, about, so that the same strengths of regularisation suit every base."""
MOST = 50_000
"""Training rows, at most, that a baseline on the base is fitted on, and one of each class; more would tell it little and take much memory."""
HALF_A_STEP = 2.0**-9
"""Of a number, the most that rounding to bfloat16 moves it."""
MOST_ERROR = 0.25
"""How far rounding to bfloat16 may move a logit of a head that begins as a linear model, about: a probability by 6 points at most."""
MOST_TRIES = 8
"""Times that regularisation is made ten times as strong where rounding moves an output too far; then hardly any weight is left."""
RULED_OUT = 1e-9
"""The probability of a class that no training row had."""
TOGETHER = 8192
"""Rows whose vectors are in memory at the same time."""


Fitted = TypeVar("Fitted")
FeatureFunction = Callable[[Sequence[Example]], np.ndarray]
"""Rows → what is known of each, # (examples, features)"""


@dataclass(frozen=True)
class Baseline:
    """A model to be measured against.

    Args:
        name: for a person.
        score: held-out examples → their scores.
        validation: its scores on the validation rows.
    """

    name: str
    score: Callable[[Sequence[Example]], Scores]
    validation: Scores


@dataclass(frozen=True)
class BaselineContext:
    """What a family fits its trivial models with.

    Args:
        columns: that are read.
        classes: how many there are; 0 where there are none.
        processor: the base's tokenizer, or what else makes numbers of a row.
        objective: as the run opened it.
        most_rows: training rows that the dear ones are fitted on, about.
        poll: called between fits; it may raise to stop.
        untouched: the name of the base, and what it makes of rows while nothing has moved; None where there is none, or where the family asks for nothing.
    """

    columns: Sequence[str]
    classes: int
    processor: Any
    objective: Any
    most_rows: int = 1 << 40
    poll: Callable[[], None] = lambda: None
    untouched: tuple[str, FeatureFunction] | None = None


def input_text(example: Example, columns: Sequence[str]) -> str:
    """What is read of a row."""
    return "\n".join(str(example.record.values.get(name) or "") for name in columns)


def majority_baseline(train: Sequence[Example], validation: Sequence[Example], classes: int) -> Baseline:
    """Always the most frequent class, with the training shares as probabilities."""
    counts = Counter(example.target for example in train)
    shares = np.array([(counts[index] + 1) / (len(train) + classes) for index in range(classes)])

    def score(examples: Sequence[Example]) -> Scores:
        return scores_of(np.tile(shares, (len(examples), 1)), examples)

    return Baseline("majority class", score, score(validation))


def tf_idf_baseline(
    train: Sequence[Example], validation: Sequence[Example], classes: int, columns: Sequence[str], most_rows: int = 1 << 40
) -> Baseline:
    """Logistic regression on TF-IDF of words and word pairs.

    Args:
        train: rows to fit on; of more than `most_rows` a part.
        validation: rows that choose the regularisation.
        classes: how many there are.
        columns: that are read.
        most_rows: training rows to fit on, about, and one of each class at least.
    """
    every, train = len(train), _subsample(train, most_rows)
    features = tf_idf(train, columns)
    model, scores = _fit_logistic_regression(features(train), features(validation), train, validation, classes, (1.0, 10.0, 100.0))
    name = f"TF-IDF + logistic regression{share_of_rows(len(train), every)}"
    return Baseline(name, lambda rows: scores_of(_all_classes(model, features(rows), classes), rows), scores)


def tf_idf(train: Sequence[Example], columns: Sequence[str]) -> Callable[[Sequence[Example]], Any]:
    """TF-IDF of words and word pairs: rows → a sparse matrix, # (examples, features)

    Args:
        train: rows that say which words there are, and how rare.
        columns: that are read.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    vectorizer.fit([input_text(example, columns) or "empty" for example in [*train]] + ["empty"])
    return lambda examples: vectorizer.transform([input_text(example, columns) for example in examples])


def share_of_rows(fitted: int, every: int) -> str:
    """What follows a baseline's name where it was fitted on a part of the training rows.

    Args:
        fitted: rows that it was fitted on.
        every: training rows.
    """
    return f" (on {fitted:,} of {every:,} rows)" if fitted < every else ""


@dataclass(frozen=True)
class Probe:
    """Logistic regression on features, as one matrix on the features as they are.

    Args:
        weight: # (classes, features), fp64
        bias: # (classes,), fp64
        rows: that it was fitted on.
        validation: its scores on the validation rows.
    """

    weight: np.ndarray
    bias: np.ndarray
    rows: int
    validation: Scores


def fit_probe(
    features: Callable[[Sequence[Example]], np.ndarray],
    train: Sequence[Example],
    validation: Sequence[Example],
    classes: int,
    most_rows: int = MOST,
    most_error: float = np.inf,
) -> Probe:
    """Fit logistic regression on features of equal spread; the validation rows choose its regularisation.

    Args:
        features: rows → what the untouched base makes of them, # (examples, features)
        train: rows to fit on; of more than `most_rows` a part.
        validation: rows that choose the regularisation.
        classes: how many there are.
        most_rows: training rows to fit on, about, and one of each class at least.
        most_error: how far rounding to bfloat16 may move an output, as `within_rounding` reckons it; what exceeds it is regularised more. Infinite for
            a model that is computed in fp64.
    """
    some = _subsample(train, most_rows)
    train_features, validation_features = features(some), features(validation)
    centre, scale = standardizer(train_features)
    suits = within_rounding(most_error, train_features)
    model, _ = _fit_logistic_regression(
        (train_features - centre) * scale, (validation_features - centre) * scale, some, validation, classes, REGULARISATION,
        lambda one: suits(*_fold_standardizer(one, centre, scale, classes)),
    )  # fmt: skip
    weight, bias = _fold_standardizer(model, centre, scale, classes)
    return Probe(weight, bias, len(some), scores_of(_softmax(validation_features @ weight.T + bias), validation))


def within_rounding(most_error: float, rows: np.ndarray) -> Callable[[np.ndarray, np.ndarray], bool]:
    """A function of a linear model's weight, # (outputs, features), and bias, # (outputs,): whether rounding to bfloat16 moves no output farther, about.

    Columns that lie far from 0 and hardly vary need large weights, whose products with the columns' means the bias takes off again: what is left is the
    difference of large numbers.

    Args:
        most_error: that is allowed; infinite where nothing is rounded.
        rows: features as they are, # (rows, features)
    """
    if np.isinf(most_error):
        return lambda weight, bias: True
    squares = np.einsum("ij,ij->j", rows, rows, dtype=np.float64) / len(rows)
    return lambda weight, bias: float(HALF_A_STEP * np.sqrt(np.square(weight) @ squares + np.square(bias)).max()) <= most_error


def fit_each_strength(
    fit: Callable[[float], Fitted], strengths: Sequence[float], more: float, suits: Callable[[Fitted], bool]
) -> list[Fitted]:
    """The fits that suit; where none does, the first one that does with ever more regularisation.

    Args:
        fit: strength of regularisation → a fit.
        strengths: to try.
        more: what a strength is multiplied by to regularise more: above 1, or below where strengths are inverse.
        suits: whether a fit may be taken.
    """
    found = [fit(strength) for strength in strengths]
    strength, tries = (max if more > 1 else min)(strengths), 0
    while not (suited := [one for one in found if suits(one)]) and tries < MOST_TRIES:
        strength, tries = strength * more, tries + 1
        found = [fit(strength)]
    return suited or found


def linear_probe_baseline(
    name: str, features: Callable[[Sequence[Example]], np.ndarray], train: Sequence[Example], validation: Sequence[Example], classes: int,
    most_rows: int = MOST,
) -> Baseline:  # fmt: skip
    """Logistic regression on what the untouched base makes of a row.

    Args:
        name: of the base.
        features: rows → what it makes of them, # (examples, features)
        train: rows to fit on; of very many a part.
        validation: rows that choose the regularisation.
        classes: how many there are.
        most_rows: training rows to fit on, about, and one of each class at least.
    """
    probe = fit_probe(features, train, validation, classes, most_rows)

    def score(examples: Sequence[Example]) -> Scores:
        parts = [examples[start : start + TOGETHER] for start in range(0, len(examples), TOGETHER)]
        return scores_of(_softmax(np.concatenate([features(part) @ probe.weight.T + probe.bias for part in parts])), examples)

    return Baseline(f"{name}, frozen + logistic regression", score, probe.validation)


def _fold_standardizer(model: Any, centre: np.ndarray, scale: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A logistic regression on features of equal spread as one matrix and bias for the features themselves; a class that no row had is all but ruled out."""
    weight, bias = np.zeros((classes, len(centre))), np.full(classes, np.log(RULED_OUT))
    if not hasattr(model, "coef_"):  # all rows are of one class
        bias[model.classes_] = 0.0
        return weight, bias
    slopes, start = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    if len(model.classes_) == 2:  # scikit-learn keeps the second class's logit alone
        slopes, start = np.concatenate([0 * slopes, slopes]), np.concatenate([0 * start, start])
    slopes = slopes * scale
    weight[model.classes_], bias[model.classes_] = slopes, start - slopes @ centre
    return weight, bias


def _softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def _subsample(train: Sequence[Example], most_rows: int) -> Sequence[Example]:
    """All rows, or about so many of each class as it has among all, one at least."""
    share = most_rows / max(len(train), 1)
    if share >= 1:
        return train
    counts: Counter[Any] = Counter()
    sample = []
    for example in train:
        before = counts[example.target]
        if not before or int(before * share) > int((before - 1) * share):
            sample.append(example)
        counts[example.target] += 1
    return sample


def standardizer(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What to take off every column, and what to multiply it by then, so that all have the same spread in these rows, and rows a length of about `LENGTH`."""
    centre, spread = rows.mean(0, dtype=np.float64), rows.std(0, dtype=np.float64)
    scale = LENGTH / np.sqrt(rows.shape[1]) / np.maximum(spread, 1e-6 + 1e-3 * spread.mean())
    return centre.astype(np.float32), scale.astype(np.float32)


def _fit_logistic_regression(
    train_features: Any,
    validation_features: Any,
    train: Sequence[Example],
    validation: Sequence[Example],
    classes: int,
    strengths: Sequence[float],
    suits: Callable[[Any], bool] = lambda model: True,
) -> tuple[Any, Scores]:
    """A logistic regression, its regularisation chosen on the validation rows; and its scores on them."""
    from sklearn.dummy import DummyClassifier

    target = np.array([example.target for example in train])
    if (target == target[0]).all():
        only = DummyClassifier().fit(train_features, target)
        return only, scores_of(_all_classes(only, validation_features, classes), validation)
    models = fit_each_strength(lambda strength: logistic_regression(train_features, target, strength), strengths, 0.1, suits)
    scored = [(model, scores_of(_all_classes(model, validation_features, classes), validation)) for model in models]
    return min(scored, key=lambda one: float(one[1].loss.mean()))


def logistic_regression(features: Any, target: np.ndarray, strength: float) -> Any:
    """scikit-learn's logistic regression; where it does not converge in 300 iterations, as far as it came.

    Args:
        features: dense or sparse, # (rows, features)
        target: at least two classes, # (rows,)
        strength: inverse regularisation.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=300).fit(features, target)


def _all_classes(model: Any, features: Any, classes: int) -> np.ndarray:
    """Probabilities with a column for every class, also those that no training row had."""
    probabilities = np.full((features.shape[0], classes), RULED_OUT)
    probabilities[:, model.classes_] = model.predict_proba(features)
    return probabilities / probabilities.sum(1, keepdims=True)


def scores_of(probabilities: np.ndarray, examples: Sequence[Example]) -> Scores:
    """Probabilities as scores against the examples' targets."""
    target = np.array([example.target for example in examples])
    right = np.take_along_axis(probabilities, np.maximum(target, 0)[:, None], 1)[:, 0]
    labels = examples[0].facts.get("labels", ()) if len(examples) else ()
    return Scores(-np.log(np.maximum(right, 1e-12)), np.ones(len(examples)), target, probabilities, labels=labels)


def copy_prompts(objective: Objective, examples: Sequence[Example]) -> np.ndarray:
    """The question again, of the rows that the models of a verdict answer: what a model says that only copies, # (examples,)"""
    prompts = np.full(len(examples), None, dtype=object)
    for row in objective.rows_to_answer(examples, objective.answered_at_verdict):
        prompts[row] = objective.prompt_text(examples[row])
    return prompts


def cache_lm_baseline(objective: Objective, train: Sequence[Example], validation: Sequence[Example], vocabulary: int) -> Baseline:
    """Each token from the training answers' frequencies, mixed with the row's own prompt (a cache model).

    Args:
        objective: knows what is asked in a row.
        train: rows to count in.
        validation: rows that choose the share of the prompt.
        vocabulary: tokens that there are.

    Source: Kuhn & De Mori 1990; the share of the prompt is chosen on the validation rows.
    """
    counts = np.full(vocabulary, 0.1)
    for example in train:
        for token, learned in zip(example.tokens, example.target, strict=True):
            counts[token] += learned
    common = counts / counts.sum()

    def score(examples: Sequence[Example], share: float) -> Scores:
        losses, sizes = [], []
        for example in examples:
            tokens, learned = np.array(example.tokens), np.array(example.target, dtype=bool)
            prompt = tokens[~learned]
            own = np.bincount(prompt, minlength=vocabulary) / max(len(prompt), 1)
            answer = tokens[learned]
            losses.append(-np.log((1 - share) * common[answer] + share * own[answer]).sum())
            sizes.append(len(answer))
        return Scores(
            np.array(losses),
            np.array(sizes, dtype=float),
            bytes=np.array([float(example.facts["bytes"]) for example in examples]),
            outputs=copy_prompts(objective, examples),
            references=references_of(objective, examples),
        )

    shares = {share: score(validation, share) for share in (0.0, 0.05, 0.1, 0.2, 0.4)}
    best = min(shares, key=lambda share: shares[share].loss.sum())
    return Baseline("word frequencies + copying from the prompt", lambda examples: score(examples, best), shares[best])
