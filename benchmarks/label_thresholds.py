"""Whether a threshold for each label, fitted on validation rows, gives a better F1 on other rows than one half.

    python benchmarks/label_thresholds.py CLAUSES [TWEETS] [--splits 8] [--base minilm-l6]

CLAUSES is examples/multi_label/clauses.jsonl; TWEETS is labeled_data.csv of Davidson et al. 2017, where a label is there if any annotator said so. Each split draws
training, validation and test rows anew (clauses of a service stay together). Two models say probabilities: logistic regression on TF-IDF, and on what the untouched
base makes of a text, both at the temperature that suits the validation rows. One line of JSON for each set and model: the mean F1 on the test rows at one half, and the
mean difference of each rule with its standard error over the splits.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit

from luthier.core.randomness import permutation
from luthier.core.types import Scores
from luthier.evaluation.label_thresholds import best_threshold, fit_thresholds
from luthier.evaluation.linear_heads import fit_labels, logistic_of_labels
from luthier.evaluation.metrics import measure
from luthier.evaluation.outputs import SeveralLabels
from luthier.objectives.multi_label import scores_of_labels

FEW = 10
"""Validation rows with a label at which its threshold goes half of the way to its best one."""
METRICS = ("micro_f1", "label_macro_f1", "exact_match")
Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Probabilities and truth of the validation rows, # (rows, labels) → thresholds, # (labels,)"""


def f1(said: np.ndarray, there: np.ndarray) -> float:
    """Of one label, or of all together."""
    return float(2 * (said & there).sum() / max(int(said.sum() + there.sum()), 1))


def each_label(likely: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The best of each label."""
    return np.array([best_threshold(*one) for one in zip(likely.T, there.T, strict=True)])


def shrunken(likely: np.ndarray, there: np.ndarray, towards: float | None = 0.5) -> np.ndarray:
    """The best of each label, drawn in log-odds to one for all where few rows have it; None draws to the best of all labels together."""
    rows = there.sum(0)
    middle = logit(best_threshold(likely.ravel(), there.ravel()) if towards is None else towards)
    return expit((logit(each_label(likely, there)) * rows + middle * FEW) / (rows + FEW))


def guarded(rule: Rule, parts: int = 4) -> Rule:
    """A rule that stays at one half where it does not help on validation rows that it was not fitted on."""

    def ruled(likely: np.ndarray, there: np.ndarray) -> np.ndarray:
        part = np.arange(len(likely)) % parts
        said = np.concatenate([likely[part == each] >= rule(likely[part != each], there[part != each]) for each in range(parts)])
        truth, plain = (np.concatenate([values[part == each] for each in range(parts)]) for values in (there, likely >= 0.5))
        return rule(likely, there) if f1(said, truth) > f1(plain, truth) else np.full(likely.shape[1], 0.5)

    return ruled


RULES: dict[str, Rule] = {
    "each": each_label,
    "shrunken": shrunken,
    "shrunken_to_one": partial(shrunken, towards=None),
    "one": fit_thresholds,
    "one_guarded": guarded(fit_thresholds),
    "shrunken_to_one_guarded": guarded(partial(shrunken, towards=None)),
}


def clauses(file: Path) -> tuple[list[str], list[tuple[str, ...]], list[str]]:
    """Texts, their labels, and what keeps them together."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row["clause"] for row in rows], [tuple(row["unfair"]) for row in rows], [row["service"] for row in rows]


def tweets(file: Path, most: int = 2_500) -> tuple[list[str], list[tuple[str, ...]], list[str]]:
    """The same of tweets, each by itself."""
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    rows = [rows[place] for place in permutation(len(rows), 0, "tweets")[:most]]
    names = ("hate_speech", "offensive_language", "neither")
    labels = [tuple(name for name in names if int(row[name])) for row in rows]
    return [row["tweet"] for row in rows], labels, [str(number) for number in range(len(rows))]


def drawn(groups: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to train on (70 %), to validate (15 %) and to test; groups stay together."""
    names = sorted(set(groups))
    place = {names[each]: at / len(names) for at, each in enumerate(permutation(len(names), seed, "split"))}
    at = np.array([place[group] for group in groups])
    return np.flatnonzero(at < 0.7), np.flatnonzero((at >= 0.7) & (at < 0.85)), np.flatnonzero(at >= 0.85)


def words_of(texts: Sequence[str]) -> Callable[[np.ndarray], Any]:
    """Training rows → TF-IDF of words and word pairs of all texts, fitted on these rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    def features(train: np.ndarray) -> Any:
        vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        vectors.fit([texts[row] for row in train])
        return vectors.transform(texts)

    return features


def vectors_of(texts: Sequence[str], base: str) -> Callable[[np.ndarray], Any]:
    """Training rows → what an untouched base makes of all texts, whichever these rows are."""
    from luthier.models.encode import text_encoder
    from luthier.models.store import resolve

    encoded = text_encoder(resolve(base))(texts).astype(np.float64)
    return lambda train: encoded


def compare(features: Any, actual: np.ndarray, labels: tuple[str, ...], groups: Sequence[str], splits: int) -> dict[str, Any]:
    """F1 on test rows at one half, and how much each rule adds."""
    plain: list[list[float]] = []
    more: dict[str, list[list[float]]] = {name: [] for name in RULES}
    outputs = SeveralLabels()
    for seed in range(splits):
        train, held, test = drawn(groups, seed)
        made = features(train)
        if hasattr(made, "toarray"):
            fits = [logistic_of_labels(made[train], actual[train], strength, lambda: None) for strength in (1.0, 10.0, 100.0)]
            said = [[expit(made[rows] @ weight.T + bias) for rows in (held, test)] for weight, bias in fits]
            both = min(said, key=lambda one: float(scores_of_labels(one[0], actual[held], labels).loss.sum()))
        else:
            weight, bias = fit_labels(made[train], actual[train], made[held], actual[held], lambda: None)
            both = [expit(made[rows] @ weight.T + bias) for rows in (held, test)]
        scores = [scores_of_labels(likely, actual[rows], labels) for likely, rows in zip(both, (held, test), strict=True)]
        heat = outputs.fit_temperature(scores[0])
        validation, tested = (outputs.apply_temperature(each, heat) for each in scores)
        before = [measure(tested, METRICS)[name] for name in METRICS]
        plain.append(before)
        for name, rule in RULES.items():
            thresholds = rule(validation.more["predicted"], validation.more["actual"] >= 0.5)
            moved = Scores(tested.loss, tested.count, labels=labels, more={**tested.more, "predicted": (tested.more["predicted"] >= thresholds).astype(float)})  # fmt: skip
            more[name].append([measure(moved, METRICS)[metric] - value for metric, value in zip(METRICS, before, strict=True)])
    gains = {name: np.array(values) for name, values in more.items()}
    return {
        "at_one_half": dict(zip(METRICS, np.mean(plain, 0).round(4).tolist(), strict=True)),
        **{
            name: {metric: f"{values[:, at].mean():+.4f} ± {values[:, at].std(ddof=1) / splits**0.5:.4f}, worst {values[:, at].min():+.3f}" for at, metric in enumerate(METRICS)}
            for name, values in gains.items()
        },
    }  # fmt: skip


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clauses", type=Path)
    parser.add_argument("tweets", type=Path, nargs="?")
    parser.add_argument("--splits", type=int, default=8)
    parser.add_argument("--base", default="minilm-l6")
    given = parser.parse_args()
    sets = {"clauses": clauses(given.clauses), **({"tweets": tweets(given.tweets)} if given.tweets else {})}
    for name, (texts, found, groups) in sets.items():
        labels = tuple(sorted({label for each in found for label in each}))
        actual = np.array([[float(label in each) for label in labels] for each in found])
        for model in ("TF-IDF", given.base):
            features = words_of(texts) if model == "TF-IDF" else vectors_of(texts, model)
            print(
                json.dumps({"set": name, "model": model, "rows": len(texts), **compare(features, actual, labels, groups, given.splits)}),
                flush=True,
            )


if __name__ == "__main__":
    main()
