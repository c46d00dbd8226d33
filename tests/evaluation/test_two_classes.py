"""Two classes: shares and their intervals against closed forms and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from luthier.core.types import Scores
from luthier.evaluation.two_classes import describe_two_classes, share_interval, shown_share


@pytest.mark.parametrize(("count", "of"), [(0, 10), (9, 10), (37, 120), (50, 50)])
def test_the_interval_is_wilsons_closed_form(count: int, of: int) -> None:
    z, share = 1.959963984540054, count / of
    middle, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    assert share_interval(count, of) == pytest.approx(((middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)), abs=1e-9)


def test_sensitivity_specificity_and_auc_are_those_of_scikit_learn() -> None:
    drawn = np.random.default_rng(0)
    target = drawn.integers(0, 2, 90)
    sure = 1 / (1 + np.exp(-(drawn.normal(size=90) + target)))
    scores = Scores(np.zeros(90), np.ones(90), target=target, probabilities=np.stack([1 - sure, sure], 1), labels=("normal", "ill"))
    table = describe_two_classes(scores, scores.labels)
    said = sure > 0.5
    shown = {name: value for name, _, value in table["rows"]}
    assert table["title"] == "'ill' against 'normal'"
    assert shown["sensitivity"].startswith(f"{100 * recall_score(target, said):.1f} %")
    assert shown["specificity"].startswith(f"{100 * recall_score(target, said, pos_label=0):.1f} %")
    assert shown["AUC"].startswith(f"{roc_auc_score(target, sure):.3f} [")


def test_a_share_is_shown_with_its_interval() -> None:
    assert shown_share(9, 10) == "90.0 % [59.6, 98.2]"
