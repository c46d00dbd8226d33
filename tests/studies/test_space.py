"""What may vary: values keep to their bounds, the prior lies around the default, and a mistake is named."""

from __future__ import annotations

import math
from statistics import median

import pytest

from luthier.core.errors import ExperimentError
from luthier.experiment import Experiment
from luthier.studies.defaults import space_for
from luthier.studies.space import Dimension, applied, centred, parsed, value_at

PLACES = [(number + 0.5) / 200 for number in range(200)]


@pytest.fixture
def experiment() -> Experiment:
    return Experiment.of(
        {
            "data": {"path": "rows.csv"},
            "objective": {"kind": "classification"},
            "adaptation": {"kind": "full"},
            "optimizer": {"kind": "adamw", "lr": 1e-4},
            "schedule": {"kind": "linear"},
        }
    )


def test_the_prior_lies_around_its_centre_and_keeps_to_its_bounds() -> None:
    rate = Dimension(path="optimizer.lr", kind="log", low=1e-5, high=1e-3, centre=1e-4, spread=0.9)
    drawn = [rate.likely(place) for place in PLACES]
    assert median(drawn) == pytest.approx(1e-4, rel=0.02)
    assert all(1e-5 <= value <= 1e-3 for value in drawn)
    within = sum(abs(math.log(value / 1e-4)) < 0.9 for value in drawn) / len(drawn)
    assert within == pytest.approx(0.683, abs=0.02)  # one standard deviation of a normal
    evenly = [rate.at(place) for place in PLACES]
    assert median(evenly) == pytest.approx(1e-4, rel=0.05)
    assert sum(value < 1e-4 for value in evenly) == 100
    near = [rate.near(3e-4, place) for place in PLACES]
    assert median(near) == pytest.approx(3e-4, rel=0.02)
    assert sum(abs(math.log(value / 3e-4)) < 0.3 for value in near) / len(near) == pytest.approx(0.683, abs=0.02)


def test_of_options_the_centre_has_the_chance_that_the_spread_leaves() -> None:
    size = Dimension(path="training.batch_size", kind="choice", options=(8, 16, 32), centre=16, spread=0.5)
    drawn = [size.likely(place) for place in PLACES]
    assert [drawn.count(option) for option in (16, 8, 32)] == [100, 50, 50]
    assert [sum(size.at(place) == option for place in PLACES) for option in (8, 16, 32)] == pytest.approx([67, 67, 66], abs=1)


@pytest.mark.parametrize(
    ("typed", "kind", "low", "high", "centre"),
    [
        ("optimizer.lr=1e-5..1e-3", "log", 1e-5, 1e-3, 1e-4),
        ("optimizer.lr = 1e-3..1e-1", "log", 1e-3, 1e-1, 1e-2),
        ("model.dropout=0..0.3", "linear", 0, 0.3, 0.1),
        ("optimizer.lr=1e-5..1e-3,linear", "linear", 1e-5, 1e-3, 1e-4),
    ],
)
def test_a_range_is_read_as_it_is_typed(experiment, typed, kind, low, high, centre) -> None:
    found = parsed(typed, experiment)
    assert (found.kind, found.low, found.high) == (kind, low, high)
    assert found.centre == pytest.approx(centre)
    assert parsed(found.said(), experiment) == found


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("optimizer.rate=1..2", "there is no field"),
        ("optimizer.lr", "names no values"),
        ("optimizer.lr=3..1", "not a range"),
        ("optimizer.lr=a..b", "not a range"),
        ("model.dropout=0..0.5,log", "above 0"),
        ("model.dropout=0..3", "less than"),
        ("training.batch_size=8|0", "greater than"),
    ],
)
def test_a_mistake_in_the_space_is_named(experiment, typed, said) -> None:
    with pytest.raises(ExperimentError, match=said):
        parsed(typed, experiment)


def test_a_point_becomes_an_experiment_and_kinds_come_first(experiment) -> None:
    made = applied(experiment, {"adaptation.depth": 3.0, "adaptation.kind": "freeze", "optimizer.lr": 3e-4})
    assert value_at(made, "adaptation.depth") == 3
    assert value_at(made, "optimizer.lr") == 3e-4
    assert applied(experiment, centred(space_for(experiment, 20)[0])) == experiment


def test_few_trials_search_the_rate_alone_and_every_field_that_stays_says_why(experiment) -> None:
    few, why = space_for(experiment, 6)
    assert [dimension.path for dimension in few] == ["optimizer.lr"]
    seven = {"training.batch_size", "training.epochs", "model.dropout", "optimizer.weight_decay", "schedule.kind", "schedule.warmup", "adaptation.kind"}  # fmt: skip
    assert set(why) == seven
    many, why = space_for(experiment, 20)
    assert {dimension.path for dimension in many} | set(why) == seven | {"optimizer.lr"}
    fixed, why = space_for(experiment, 6, fixed=["optimizer.lr"])
    assert fixed == ()
    assert why["optimizer.lr"] == "set by you"
    assert space_for(experiment, 6, fixed=["training.epochs"])[1]["training.epochs"] == "set by you"
    typed, why = space_for(experiment, 2, asked=["model.dropout=0|0.3", "optimizer.lr=1e-4..1e-3"])
    assert [dimension.path for dimension in typed] == ["model.dropout", "optimizer.lr"]
    assert "model.dropout" not in why
