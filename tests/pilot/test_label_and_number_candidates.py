"""What ships of several labels and of numbers: the candidate that the validation rows choose, with the probabilities or numbers that were evaluated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import luthier
from luthier.core.run import Run
from luthier.experiment import Experiment
from luthier.families.recognise import load_dataset
from luthier.models.manifest import write_facts
from tests.families.cases import several_labels, write_lines

SETS = ("training.dtype=float32", "training.epochs=3", "optimizer.lr=0.003")
SHIPS = ("trained", "probe", "average")
LABELS = ("food", "music")


def noisy_labels() -> list[dict[str, Any]]:
    """Rows whose words tell their labels, but for one in seven, so that nobody is always right."""
    return [
        row if number % 7 else {**row, "topics": [topic for topic in LABELS if topic not in row["topics"]]}
        for number, row in enumerate(several_labels())
    ]


def noisy_numbers() -> list[dict[str, Any]]:
    """Rows whose words tell their number, but for a part."""
    return [{"text": row["text"], "stars": 4 * len(row["topics"]) + number * 7 % 11 / 3} for number, row in enumerate(several_labels())]


TASKS = {"multi_label": (noisy_labels, "topics"), "regression": (noisy_numbers, "stars")}


@pytest.fixture(scope="module")
def ran(bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A family and what ships → its run, made once."""
    made: dict[tuple[str, str], Run] = {}

    def one(task: str, ships: str) -> Run:
        if (task, ships) not in made:
            folder = tmp_path_factory.mktemp(f"{task}-{ships}")
            rows, target = TASKS[task]
            changes = [*SETS, *([] if ships == "auto" else [f"training.ships={ships}"])]
            made[task, ships] = luthier.run(
                write_lines(folder, rows()), base=str(bases("bert").folder), task=task, target=target, out=folder / "run", set=changes, force=True
            )  # fmt: skip
        return made[task, ships]

    return one


def read_sealed(run: Run) -> list[dict[str, Any]]:
    records = load_dataset(Experiment.load(run.folder / "experiment.yaml").data, checks=()).records["test"]
    return [dict(record.values) for record in records]


def facts_of(run: Run) -> dict[str, Any]:
    return json.loads((run.folder / "bundle" / "luthier.json").read_text())


@pytest.mark.parametrize("ships", SHIPS)
def test_a_bundle_of_labels_gives_the_loss_and_the_labels_that_were_evaluated(ran: Any, ships: str) -> None:
    run = ran("multi_label", ships)
    rows, verdict = read_sealed(run), run.verdict
    said = luthier.predict(run.folder, [row["text"] for row in rows])
    likely = np.array([[one["probabilities"][label] for label in LABELS] for one in said])
    there = np.array([[label in row["topics"] for label in LABELS] for row in rows])
    losses = -np.log(np.where(there, likely, 1 - likely)).sum(1)
    assert losses.mean() == pytest.approx(verdict["test"]["loss"], abs=1e-5)
    named = np.array([[label in one["labels"] for label in LABELS] for one in said])
    assert (named == (likely >= 0.5)).all()
    assert 2 * (named & there).sum() / (named.sum() + there.sum()) == pytest.approx(verdict["test"]["value"])
    assert facts_of(run)["ships"] == ships
    assert (run.folder / "bundle" / "probe.safetensors").exists() == (ships != "trained")
    if ships != "trained":
        assert json.loads((run.folder / "bundle" / "probe.json").read_text())["link"] == "sigmoid"


@pytest.mark.parametrize("ships", SHIPS)
def test_a_bundle_of_numbers_gives_those_that_were_evaluated(ran: Any, ships: str) -> None:
    run = ran("regression", ships)
    rows, verdict = read_sealed(run), run.verdict
    said = np.array([one["value"] for one in luthier.predict(run.folder, [row["text"] for row in rows])])
    gap = said - np.array([row["stars"] for row in rows])
    assert np.sqrt((gap**2).mean()) == pytest.approx(verdict["test"]["value"], abs=1e-5)
    assert facts_of(run)["ships"] == ships
    assert facts_of(run)["temperature"] == 1.0
    assert "temperature" not in run.json("evaluation.json")
    page = (run.folder / "report.html").read_text()
    assert "ridge regression on the untouched base" in page and "temperature" not in page


def test_the_temperature_of_labels_is_in_the_bundle_the_report_the_card_and_a_pipeline_and_lowers_the_loss(ran: Any) -> None:
    from transformers import pipeline

    run = ran("multi_label", "trained")
    details, verdict = run.json("evaluation.json"), run.verdict
    assert facts_of(run)["temperature"] == details["temperature"] != 1.0
    assert verdict["test"]["loss"] == pytest.approx(details["log_loss"]["after"])
    assert details["log_loss"]["after"] < details["log_loss"]["before"]
    page = (run.folder / "report.html").read_text()
    assert "before temperature scaling" in page
    assert f"is {details['log_loss']['after']:.4f}; without the temperature it was {details['log_loss']['before']:.4f}" in page
    assert f"calibrated on them (temperature {details['temperature']:g})" in (run.folder / "bundle" / "README.md").read_text()
    texts = [row["text"] for row in read_sealed(run)[:8]]
    said: Any = pipeline("text-classification", str(run.folder / "bundle"), top_k=None)(texts)
    for ours, theirs in zip(luthier.predict(run.folder, texts), said, strict=True):
        assert {each["label"]: each["score"] for each in theirs} == pytest.approx(ours["probabilities"], abs=1e-5)


def test_the_temperature_leaves_what_is_said_as_it_was(ran: Any) -> None:
    """The last evaluation was made without one: of the checkpoint that ships its F1 is that of the verdict's candidates on the validation rows."""
    run = ran("multi_label", "trained")
    trained = next(each for each in run.verdict["candidates"] if each["name"] == "trained")
    assert trained["temperature"] != 1.0
    assert trained["validation"]["micro_f1"] == pytest.approx(run.verdict["validation"]["micro_f1"])


@pytest.mark.parametrize("task", list(TASKS))
def test_the_validation_rows_choose_and_the_losers_stand_in_the_verdict_and_the_card(ran: Any, task: str) -> None:
    run = ran(task, "auto")
    verdict = run.verdict
    assert {each["name"] for each in verdict["candidates"]} == set(SHIPS)
    assert [each["name"] for each in verdict["candidates"] if each["chosen"]] == [verdict["ships"]]
    assert all(("temperature" in each) == (task == "multi_label") for each in verdict["candidates"])
    kind = {"multi_label": "logistic regression for each label", "regression": "ridge regression"}[task]
    assert verdict["base"]["name"].endswith(f"frozen + {kind}")
    assert verdict["why"].startswith("ships: ")
    assert f"{kind} on the untouched base" in verdict["why"]
    card = (run.folder / "bundle" / "README.md").read_text()
    assert card.count("not shipped: ") == 2
    assert "What ships" in (run.folder / "report.html").read_text()
    chosen = next(each for each in verdict["candidates"] if each["chosen"])
    assert chosen["test"]["value"] == verdict["test"]["value"]


@pytest.mark.parametrize("task", list(TASKS))
def test_a_bundle_of_before_without_a_temperature_and_a_choice_still_answers(ran: Any, task: str, tmp_path: Path) -> None:
    run = ran(task, "trained")
    old = tmp_path / "old"
    shutil.copytree(run.folder / "bundle", old)
    about = {key: value for key, value in facts_of(run).items() if key not in ("temperature", "ships", "format", "files", "facts")}
    (old / "luthier.json").unlink()
    write_facts(old, about)
    asked = [row["text"] for row in read_sealed(run)[:5]]
    assert luthier.predict(old, asked) == luthier.predict(run.folder, asked)


@pytest.mark.parametrize("task", list(TASKS))
def test_targets_that_the_text_does_not_tell_are_warned_of(bases: Any, task: str, tmp_path: Path) -> None:
    rows, target = TASKS[task]
    made = [{"text": f"the same words in every row, number {number * 37 % 997}", target: row[target]} for number, row in enumerate(rows())]
    run = luthier.run(
        write_lines(tmp_path, made), base=str(bases("bert").folder), task=task, target=target, out=tmp_path / "run", force=True,
        set=["training.dtype=float32", "training.steps=2", "objective.head=new"],
    )  # fmt: skip
    claims = [finding.claim for finding in run.findings if finding.check == "smoke.labels"]
    assert claims and "cannot be told from the text" in claims[0]
