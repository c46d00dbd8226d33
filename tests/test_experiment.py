"""Changes to an experiment, in all the ways in which they may be given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.core.errors import ExperimentError
from luthier.experiment import Experiment, as_assignments, number


def experiment() -> Experiment:
    return Experiment.of(
        {
            "data": {"path": "rows.csv", "target": "label", "input": ["text"], "task": "classification"},
            "objective": {"kind": "classification", "labels": ["no", "yes"]},
            "adaptation": {"kind": "full"},
            "optimizer": {"kind": "adamw", "lr": 3e-4},
            "schedule": {"kind": "linear"},
        }
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.lr": 1e-4, "training.batch_size": 8},
        {"optimizer": {"lr": 1e-4}, "training": {"batch_size": 8}},
        ["optimizer.lr=1e-4", "training.batch_size=8"],
        ("optimizer.lr = 0.0001", "training.batch_size = 8"),
    ],
)
def test_a_mapping_and_several_texts_mean_the_same(changes: Any) -> None:
    changed = experiment().set(*as_assignments(changes))
    assert changed == experiment().replace("optimizer.lr", 1e-4).replace("training.batch_size", 8)


@pytest.mark.parametrize("name", ["yes", "no", "2024", "true"])
def test_a_class_or_column_that_reads_like_a_number_or_a_truth_stays_a_text(name: str) -> None:
    changed: Any = experiment().set(f"data.normal={name}", f"data.group={name}")
    assert (changed.data.normal, changed.data.group) == (name, name)
    assert experiment().set("data.group=null").data.group is None


def test_one_text_is_one_change_and_none_is_none() -> None:
    assert as_assignments("optimizer.lr=1e-4") == ["optimizer.lr=1e-4"]
    assert as_assignments(None) == as_assignments(()) == as_assignments({}) == []
    assert experiment().set({"optimizer.lr": 1e-4}) == experiment().set("optimizer.lr=1e-4")


@pytest.mark.parametrize("value", [1e-5, 3, True, False, None, "latin-1", "no", "1e5", "007", " ", "a: [", 'say "ü"', ["a", "1"], 1 / 3])
def test_a_value_of_a_mapping_comes_back_as_it_was(value: Any) -> None:
    (text,) = as_assignments({"some.path": value})
    back = number(text.partition("=")[2])
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "changes, said",
    [
        (5, "names no changes"),
        (b"a.b=1", "names no changes"),
        ([3], "no text of the form path=value"),
        ([{"a.b": 1}], "no text of the form path=value"),
        ("optimizer.lr", "has no '='"),
        (["=3"], "has no '='"),
        ({3: 4}, "which is no path"),
        ({"a=b": 4}, "which is no path"),
        ({"optimizer.lr": object()}, "which is object"),
        ({"optimizer.lr": {1, 2}}, "which is set"),
    ],
)
def test_what_names_no_change_is_refused_with_an_example(changes: Any, said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        as_assignments(changes)


@pytest.mark.parametrize("verb", ["run", "train", "search", "check", "show", "similar", "prove", "plan", "bench"])
def test_every_verb_refuses_what_names_no_change(verb: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "".join(f"row {number},{number % 2}\n" for number in range(40)))
    written = tmp_path / "experiment.yaml"
    written.write_text(experiment().yaml())
    about = written if verb in ("train", "prove", "plan") else file
    wrong: Any = 5
    with pytest.raises(ExperimentError, match="names no changes"):
        getattr(luthier, verb)(about, set=wrong)


@pytest.mark.parametrize("text", ["[1", "a: [", "2026-13-45", "{", "'", "&", "*x", "!!python/name:os.system"])
def test_what_is_no_yaml_is_a_text_that_the_field_refuses(text: str) -> None:
    assert number(text) == text
    with pytest.raises(ExperimentError, match=r"optimizer.lr: input should be a valid number"):
        experiment().set(f"optimizer.lr={text}")


@pytest.mark.parametrize("verb", ["train", "plan", "prove"])
def test_rows_that_are_given_as_an_experiment_are_named_for_what_they_are(verb: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    with pytest.raises(ExperimentError, match=r"rows.csv holds rows, not an experiment[\s\S]*luthier run .*rows.csv"):
        getattr(luthier, verb)(tmp_path / "rows.csv")
