"""Every metric against scikit-learn or sacreBLEU, its resamples against the plain definition, and functions of the user's."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import CHRF
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, matthews_corrcoef, roc_auc_score

from luthier.core.errors import ExperimentError
from luthier.core.types import Scores
from luthier.evaluation import user_metric
from luthier.evaluation.compare import bootstrap_metric, interval, paired_interval
from luthier.evaluation.metrics import measure, metric_of
from luthier.evaluation.resamples import DRAWS
from tests.evaluation.test_evaluation import scores

LABELS = tuple("abcdefgh")


OF_CLASSES = ("accuracy", "macro_f1", "balanced_accuracy", "auc", "mcc", "loss", "calibration_error")


def label(count: int, classes: int, skill: float = 1.0, seed: int = 1) -> Scores:
    found = scores(count, classes, skill, seed)
    return Scores(found.loss, found.count, found.target, found.probabilities, labels=LABELS[:classes])


def answer(seed: int = 0) -> Scores:
    words = "the fee may rise when you leave a room or a house of ours é ß".split()
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(words, 1 + number % 9)) for number in range(60)]
    said = np.array([None if number % 7 == 3 else text for number, text in enumerate(texts[:30])], dtype=object)
    return Scores(np.ones(30), np.ones(30), bytes=np.ones(30), outputs=said, references=np.array(texts[30:], dtype=object))


@pytest.mark.parametrize("classes", [2, 5])
def test_every_metric_of_classes_equals_scikit_learns(classes: int) -> None:
    found = label(300, classes)
    assert found.target is not None
    assert found.probabilities is not None
    target, said = found.target, found.probabilities.argmax(1)
    measured = measure(found, ("balanced_accuracy", "mcc", "auc", "loss", "f1:b"))
    assert measured["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(target, said))
    assert measured["mcc"] == pytest.approx(matthews_corrcoef(target, said))
    one = found.probabilities[:, 1] if classes == 2 else found.probabilities
    assert measured["auc"] == pytest.approx(roc_auc_score(target, one, multi_class="ovr"))
    assert measured["loss"] == pytest.approx(log_loss(target, found.probabilities))
    assert measured["f1:b"] == pytest.approx(f1_score(target, said, labels=[1], average=None)[0])


def test_ties_count_half_in_auc() -> None:
    probabilities = np.round(np.random.default_rng(3).uniform(size=200), 1)
    target = (np.random.default_rng(4).uniform(size=200) < probabilities).astype(int)
    found = Scores(np.ones(200), np.ones(200), target, np.stack([1 - probabilities, probabilities], 1))
    assert measure(found, ("auc",))["auc"] == pytest.approx(roc_auc_score(target, probabilities))


def test_chrf_equals_sacrebleus() -> None:
    found = answer()
    assert found.outputs is not None
    assert found.references is not None
    pairs = [(said, there) for said, there in zip(found.outputs, found.references, strict=True) if said is not None]
    theirs = CHRF().corpus_score([said for said, _ in pairs], [[there for _, there in pairs]]).score
    assert measure(found, ("chrf",))["chrf"] == pytest.approx(theirs)


@pytest.mark.parametrize("name", [*OF_CLASSES, "f1:b"])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_resamples_of_a_metric_are_those_of_its_plain_definition(name: str, classes: int) -> None:
    found = label(80, classes)
    drawn = np.random.Generator(np.random.Philox(0)).integers(0, 80, (DRAWS, 80))
    plain = np.array([metric_of(name).value(found, rows) for rows in drawn[:200]])
    seen = bootstrap_metric(name, found)[:200]
    if name == "auc" and classes > 2:  # to the first order only
        assert np.abs(seen - plain).max() < 0.02
    else:
        assert seen == pytest.approx(plain)


@pytest.mark.parametrize("name", ["chrf", "rouge_l", "bits_per_byte"])
def test_the_resamples_of_an_answers_metric_are_those_of_its_plain_definition(name: str) -> None:
    found = answer()
    assert found.outputs is not None
    part = found if name == "bits_per_byte" else found.part(np.flatnonzero([said is not None for said in found.outputs]))
    count = len(part.loss)
    drawn = np.random.Generator(np.random.Philox(0)).integers(0, count, (DRAWS, count))
    assert bootstrap_metric(name, found)[:50] == pytest.approx(np.array([metric_of(name).value(part, rows) for rows in drawn[:50]]))


def calls_of(work: Callable[..., object], *given: Any) -> int:
    """How many functions are called by one, Python's and compiled ones."""
    events: list[str] = []
    sys.setprofile(lambda frame, event, argument: events.append(event))
    try:
        work(*given)
    finally:
        sys.setprofile(None)
    return events.count("call") + events.count("c_call")


def test_intervals_over_many_rows_and_classes_measure_no_resample_by_itself_and_are_small() -> None:
    ours, rival = scores(5_150, 151, 3.0, 1), scores(5_150, 151, 2.5, 2)
    rival = Scores(rival.loss, rival.count, ours.target, rival.probabilities)
    bootstrap_metric("accuracy", ours)  # the resamples are drawn once for all metrics
    for name in ("macro_f1", "auc"):
        once = calls_of(measure, ours, (name,))
        both = calls_of(paired_interval, name, ours, rival)
        assert both < DRAWS / 20 * once, name  # a loop would measure each of two models on each resample
        assert calls_of(interval, name, ours) < both, name  # measured before: nothing is drawn again
    many = scores(20_600, 151, 3.0, 1)
    tracemalloc.start()
    bootstrap_metric("macro_f1", many, seed=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6


def test_a_rare_class_that_a_resample_has_not_makes_no_nan() -> None:
    found = label(60, 2)
    target = np.zeros(60, dtype=int)
    target[0] = 1
    rare = Scores(found.loss, found.count, target, found.probabilities, labels=LABELS[:2])
    for name in ("auc", "mcc", "macro_f1", "balanced_accuracy", "f1:b"):
        low, high = interval(name, rare)
        assert low <= high, name


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_metric, "_ALLOWED", {})
    return write


def test_a_function_of_the_users_measures_targets_probabilities_and_labels(module: Any) -> None:
    module("cost_one", "def cost(targets, probabilities, labels):\n    assert labels == ['a', 'b']\n    return float(((probabilities.argmax(1) == 0) & (targets == 1)).mean())\ncost.higher_is_better = False\n")  # fmt: skip
    user_metric.allow_function("cost_one:cost")
    found = label(100, 2)
    assert found.target is not None
    assert found.probabilities is not None
    assert measure(found, ("cost_one:cost",))["cost_one:cost"] == pytest.approx(((found.probabilities.argmax(1) == 0) & (found.target == 1)).mean())  # fmt: skip
    assert not metric_of("cost_one:cost").higher
    low, high = interval("cost_one:cost", found)
    assert 0 <= low < high < 0.5


@pytest.mark.parametrize(
    "text, said",
    [
        ("def cost(*given):\n    raise RuntimeError('no')\n", "RuntimeError: no"),
        ("def cost(*given):\n    return 'much'\n", "could not convert"),
        ("def cost(*given):\n    return float('nan')\n", "returned nan"),
    ],
)
def test_a_function_that_gives_no_number_is_named(module: Any, text: str, said: str) -> None:
    name = f"cost_{abs(hash(text))}"
    module(name, text)
    user_metric.allow_function(f"{name}:cost")
    with pytest.raises(ExperimentError, match=f"the metric {name}:cost .*{said}"):
        measure(label(20, 2), (f"{name}:cost",))


def test_a_function_that_nobody_allowed_is_not_imported(module: Any) -> None:
    module("cost_two", "raise SystemExit('imported')\n")
    with pytest.raises(ExperimentError, match="asks to run code"):
        measure(label(20, 2), ("cost_two:cost",))
    assert "cost_two:cost" in metric_of("cost_two:cost").about


def test_a_function_that_is_not_there_names_the_nearest(module: Any) -> None:
    module("cost_three", "def money_lost(*given):\n    return 1.0\n")
    user_metric.allow_function("cost_three:money_los")
    with pytest.raises(ExperimentError, match="money_lost"):
        metric_of("cost_three:money_los")
