"""What may vary: values keep to their bounds, the prior lies around the default, and a mistake is named."""

from __future__ import annotations

import math
from statistics import median

import pytest

from luthier.core.errors import ExperimentError
from luthier.experiment import Experiment
from luthier.studies.defaults import space_for
from luthier.studies.propose import Tried, propose
from luthier.studies.space import Dimension, apply_values, default_point, loosen_point, parse_dimension, parse_point, settle_point, value_at

PLACES = [(number + 0.5) / 200 for number in range(200)]


@pytest.fixture
def experiment() -> Experiment:
    return Experiment.of(
        {
            "data": {"path": "rows.csv", "task": "classification"},
            "objective": {"kind": "classification"},
            "adaptation": {"kind": "full"},
            "optimizer": {"kind": "adamw", "lr": 1e-4},
            "schedule": {"kind": "linear"},
        }
    )


def test_the_prior_lies_around_its_centre_and_keeps_to_its_bounds() -> None:
    rate = Dimension(path="optimizer.lr", kind="log", low=1e-5, high=1e-3, centre=1e-4, spread=0.9)
    drawn = [rate.quantile(place) for place in PLACES]
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
    drawn = [size.quantile(place) for place in PLACES]
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
    found = parse_dimension(typed, experiment)
    assert (found.kind, found.low, found.high) == (kind, low, high)
    assert found.centre == pytest.approx(centre)
    assert parse_dimension(found.as_text(), experiment) == found


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
        ("training.batch_size=8,16", r"names one value[\s\S]*training.batch_size=8\|16"),
        ("training.batch_size=8", r"names one value[\s\S]*--set training.batch_size=8"),
        ("model.base=minilm-l6|nope", "all trials train the same base"),
        ("model.fingerprint=a|b", "all trials train the same base"),
        ("data.path=a.csv|b.csv", "all trials read the same rows"),
        ("data.test_share=0.1..0.3", "all trials read the same rows"),
        ("seed=1|2|3", "is the luckiest"),
        ("training.metric=accuracy|macro_f1", "ranked by one metric"),
        ("objective.kind=classification|chat", "learn the same task"),
    ],
)
def test_a_mistake_in_the_space_is_named(experiment, typed, said) -> None:
    with pytest.raises(ExperimentError, match=said):
        parse_dimension(typed, experiment)


@pytest.mark.parametrize("value", ["abc", "true", "[1, 2]", "nan", "", "null"])
def test_a_point_that_is_no_number_is_named(experiment, value: str) -> None:
    with pytest.raises(ExperimentError, match=r"is no number[\s\S]*such as optimizer.lr=0.0001"):
        parse_point(f"optimizer.lr={value}", [parse_dimension("optimizer.lr=1e-5..1e-3", experiment)])
    with pytest.raises(ExperimentError, match="is outside of"):
        parse_point("training.batch_size=abc", [parse_dimension("training.batch_size=8|16", experiment)])


def test_a_point_becomes_an_experiment_and_kinds_come_first(experiment) -> None:
    made = apply_values(experiment, {"adaptation.depth": 3.0, "adaptation.kind": "freeze", "optimizer.lr": 3e-4})
    assert value_at(made, "adaptation.depth") == 3
    assert value_at(made, "optimizer.lr") == 3e-4
    assert apply_values(experiment, default_point(space_for(experiment, 20)[0])) == experiment


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


def test_a_condition_is_read_as_it_is_typed_and_names_a_field_that_varies(experiment) -> None:
    found = parse_dimension("adaptation.depth=2|3|4 if adaptation.kind=freeze", experiment)
    assert (found.options, found.when) == ((2, 3, 4), {"adaptation.kind": "freeze"})
    assert parse_dimension(found.as_text(), experiment) == found
    with pytest.raises(ExperimentError, match="there is no field"):
        parse_dimension("adaptation.depth=2|3|4", experiment)  # everything moves: nothing has a depth
    with pytest.raises(ExperimentError, match=r"adaptation.kind does not vary"):
        space_for(experiment, 4, asked=["adaptation.depth=2|3|4 if adaptation.kind=freeze"])


def test_a_point_has_only_the_fields_that_its_kinds_bring_and_the_rate_follows_the_adaptation(experiment) -> None:
    asked = [
        "adaptation.kind=full|freeze|lora",
        "adaptation.depth=2|3|4 if adaptation.kind=freeze",
        "adaptation.rank=16|64 if adaptation.kind=lora",
    ]
    space, _ = space_for(experiment, 4, asked=asked)
    tried: list[Tried] = []
    for _ in range(40):
        tried.append(Tried(propose(space, "tpe", 3, 40, tried).values, float(len(tried) % 7), 0.25))
    kinds = {past.values["adaptation.kind"] for past in tried}
    assert kinds == {"full", "freeze", "lora"}
    for past in tried:
        assert ("adaptation.depth" in past.values) == (past.values["adaptation.kind"] == "freeze")
        assert ("adaptation.rank" in past.values) == (past.values["adaptation.kind"] == "lora")
        apply_values(experiment, past.values)
    for past in tried:
        again = settle_point(space, loosen_point(space, past.values))
        assert again.pop("optimizer.lr") == pytest.approx(past.values["optimizer.lr"], rel=0.01)
        assert again.items() <= past.values.items()
    rates = {kind: median(past.values["optimizer.lr"] for past in tried[:28] if past.values["adaptation.kind"] == kind) for kind in kinds}
    assert rates["full"] < rates["freeze"] < rates["lora"]  # 1e-4, 3e-4 and 1e-3 are where each begins


def test_with_enough_trials_freezing_is_searched_around_what_one_pass_proposes(experiment) -> None:
    few, why = space_for(experiment, 6, depths=(3, 4, 2))
    assert [dimension.path for dimension in few] == ["optimizer.lr"]
    assert "joins from 10 on" in why["adaptation.depth"]
    many, why = space_for(experiment, 10, depths=(3, 4, 2))
    by_path = {dimension.path: dimension for dimension in many}
    assert by_path["adaptation.depth"].options == (2, 3, 4)
    assert by_path["adaptation.depth"].centre == 3
    assert "adaptation.kind" not in why
    assert default_point(many)["adaptation.kind"] == "full"
    assert "adaptation.depth" not in default_point(many)
    assert apply_values(experiment, default_point(many)) == experiment
    named = space_for(experiment, 2, depths=(3, 4, 2), named=["adaptation.kind", "adaptation.depth"])[0]
    assert parse_point("adaptation.kind=freeze,adaptation.depth=4", named) == {
        "optimizer.lr": 3e-4,
        "adaptation.kind": "freeze",
        "adaptation.depth": 4,
    }
    set_by_hand, _ = space_for(experiment, 12, fixed=["adaptation.kind"], depths=(3,))
    assert not {"adaptation.kind", "adaptation.depth"} & {dimension.path for dimension in set_by_hand}
