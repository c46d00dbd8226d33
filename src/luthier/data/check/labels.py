"""Labels that are probably wrong."""

from __future__ import annotations

import numpy as np

from luthier.core.finding import Finding
from luthier.core.randomness import permutation
from luthier.core.words import plural
from luthier.data.check.sheet import Sheet

FOLDS = 5
NEIGHBOURS = 25
NEARNESS = 16.0
"""How much more a near neighbour's label counts than a farther one's: rows of a base lie close together below its top."""
FEWEST = 100
QUIET = 0.03
"""Share of wrong labels up to which the probes are not asked twice."""
SUREST = 0.1
"""Share of the rows, those of which the probes are surest, on which the share of wrong labels is read off."""


def check(sheet: Sheet) -> list[Finding]:
    """Rows whose label neither a probe that did not see them nor their neighbours would give (training and validation rows)."""
    if sheet.encode is None or not sheet.classes:
        return []
    places = np.array([index for index, row in enumerate(sheet.sample) if sheet.parts[row] != "test" or not sheet.given])
    rows = [sheet.sample[index] for index in places]
    names: list[str] = sorted({sheet.labels[row] for row in rows})
    if len(rows) < FEWEST or len(names) < 2:
        return []
    indices = {name: position for position, name in enumerate(names)}
    target = np.array([indices[sheet.labels[row]] for row in rows])
    groups = np.array([sheet.clusters[row] for row in rows])
    probabilities, bad, noise = out_of_fold_twice(sheet.features[places], target, len(names), groups)
    doubt = label_doubts(probabilities, target)
    wrong = np.flatnonzero(find_suspects(probabilities, target))
    wrong = wrong[np.argsort(-doubt[wrong], kind="stable")]
    if not len(wrong):
        return []
    listed = [rows[index] for index in wrong]
    notes = [f"rather {names[probabilities[index].argmax()]} ({probabilities[index].max():.0%})" for index in wrong]
    share = len(wrong) / len(rows)
    dropped = [rows[index] for index in wrong if bad[index] > 0.5 and (sheet.parts[rows[index]] == "train" or not sheet.given)]
    return [sheet.finding("labels", "warning" if share > 0.02 else "note", f"{len(listed):,} of {plural(len(rows), 'label')} examined {'is' if len(listed) == 1 else 'are'} probably wrong ({share:.1%})",
                          "read the first ones: they are the likeliest; --fix takes those out of the training rows that are more likely wrong than right", listed, drop=dropped,
                          notes=notes, noise=noise, looked_at=len(rows), of=len(sheet))]  # fmt: skip


def out_of_fold_twice(features: np.ndarray, target: np.ndarray, classes: int, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Out-of-fold probabilities; where many labels are wrong, from probes that learned less from those that look wrong.

    Args:
        features: of unit length, # (rows, width)
        target: the class of each row, # (rows,)
        classes: how many there are.
        groups: rows with the same number go into the same fold, # (rows,)

    Returns:
        Class probabilities # (rows, classes), how likely each label is wrong # (rows,), and the share of wrong labels
    """
    probabilities = out_of_fold(features, target, classes, groups)
    noise = estimate_noise(probabilities, target)
    confidence = np.take_along_axis(probabilities, target[:, None], 1)[:, 0]
    flip = noise / (classes - 1)
    # the probes learned the noisy labels: a label that is right with probability r is seen with r (1 - noise) + (1 - r) flip
    bad = wrong_label_probability(((confidence - flip) / max(1 - noise - flip, 1e-9)).clip(0, 1), noise, classes)
    if noise <= QUIET:
        return probabilities, bad, noise
    probabilities = out_of_fold(features, target, classes, groups, weight=1 - bad)
    noise = estimate_noise(probabilities, target)
    right = np.take_along_axis(probabilities, target[:, None], 1)[:, 0]  # nearly without noise now
    return probabilities, wrong_label_probability(right, noise, classes), noise


def out_of_fold(features: np.ndarray, target: np.ndarray, classes: int, groups: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Class probabilities for each row from probes that did not see it: the geometric mean of logistic regression and its nearest rows.

    Args:
        features: of unit length, # (rows, width)
        target: the class of each row, # (rows,)
        classes: how many there are.
        groups: rows with the same number go into the same fold, so that a copy cannot vouch for itself, # (rows,)
        weight: how much is learned from each row; all the same where there is none, # (rows,)

    Returns:
        # (rows, classes)
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    distinct, of = np.unique(groups, return_inverse=True)
    fold = (permutation(len(distinct), "folds") % FOLDS)[of]
    probabilities = np.zeros((len(target), classes))
    for index in range(FOLDS):
        test, train = np.flatnonzero(fold == index), np.flatnonzero(fold != index)
        if not len(test) or len(np.unique(target[train])) < 2:
            probabilities[test] = 1 / classes
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe = LogisticRegression(C=1.0, max_iter=300).fit(
                features[train] * 4.0, target[train], sample_weight=None if weight is None else weight[train]
            )
        likely = np.zeros((len(test), classes))
        likely[:, probe.classes_] = probe.predict_proba(features[test] * 4.0)
        likeness = features[test] @ features[train].T
        nearest = np.argpartition(-likeness, min(NEIGHBOURS, len(train) - 1), axis=1)[:, :NEIGHBOURS]
        voice = np.exp(NEARNESS * (np.take_along_axis(likeness, nearest, 1) - 1))
        if weight is not None:
            voice *= weight[train][nearest]
        votes = np.zeros((len(test), classes))
        np.add.at(votes, (np.arange(len(test))[:, None], target[train][nearest]), voice)
        probabilities[test] = np.sqrt(likely * (votes + 1e-3) / (votes + 1e-3).sum(1, keepdims=True))
    return probabilities / probabilities.sum(1, keepdims=True).clip(min=1e-12)


def label_doubts(probabilities: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How unlikely each label is, by probes that did not see it, # (rows,)"""
    return 1 - np.take_along_axis(probabilities, target[:, None], 1)[:, 0]


def estimate_noise(probabilities: np.ndarray, target: np.ndarray) -> float:
    """About which share of the labels is wrong: as many as contradict the probes where these are surest.

    On those rows a probe errs least, so what contradicts it is the label's fault (the anchor points of Patrini et al. 2017, section 4.1).
    """
    surest = np.argsort(-probabilities.max(1), kind="stable")[: max(20, round(SUREST * len(target)))]
    return float((probabilities.argmax(1)[surest] != target[surest]).mean())


def wrong_label_probability(right: np.ndarray, noise: float, classes: int) -> np.ndarray:
    """How likely each label is wrong, by Bayes' rule, if a share of all labels is, whatever their text.

    Args:
        right: how likely the label is for such a text, # (rows,)
        noise: share of wrong labels, 0 ≤ noise < 1.
        classes: how many there are; a wrong label is any of the others.

    Returns:
        # (rows,)
    """
    true, false = right * (1 - noise), (1 - right) * noise / (classes - 1)
    return false / (true + false).clip(min=1e-12)


def find_suspects(probabilities: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Which labels are probably wrong: another class is as likely as it is for its own rows, and likelier than the label.

    Source: Northcutt, Jiang & Chuang 2021, "Confident learning", section 3.

    Returns:
        # (rows,) of bool
    """
    classes = probabilities.shape[1]
    usual = np.array([probabilities[target == index, index].mean() if (target == index).any() else 2.0 for index in range(classes)])
    sure = probabilities >= usual[None, :]
    best = np.where(sure, probabilities, -1.0).argmax(1)
    return sure.any(1) & (best != target) & (probabilities.argmax(1) != target)
