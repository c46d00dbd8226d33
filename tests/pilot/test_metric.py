"""The metric that a person names decides, in a run and in a search; what does not fit is refused before anything is made."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import luthier
from luthier.core.errors import ExperimentError
from luthier.core.interfaces import NullReporter
from luthier.core.run import Run
from luthier.core.types import Scores
from luthier.evaluation import user_metric
from luthier.evaluation.metric_choice import resolve_metric
from luthier.evaluation.metrics import measure
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.pilot.stages.options import default_experiment
from tests.conftest import rows

QUICK = ["training.steps=16", "optimizer.lr=0.003", "training.checkpoint_seconds=0"]
COST = """
def cost(targets, probabilities, labels):
    return float(((probabilities.argmax(1) == 0) & (targets == 1)).mean())

cost.higher_is_better = False
"""


def write(folder: Path, rare: int = 120, count: int = 240) -> Path:
    """Rows whose class `yes` has so many."""
    kept, seen = [], 0
    for number, row in enumerate(rows(count)):
        seen += row["label"] == "yes"
        if row["label"] == "no" or seen <= rare:
            kept.append({**row, "text": f"{row['text']} {number}"})
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return file


def ask(data: Path, *set: str) -> tuple[Experiment, dict[str, tuple[Any, str]]]:
    experiment, _, choices = default_experiment(data, set, NullReporter(), target=None, input=None, base=None, task=None, seed=1)
    return experiment, {choice.path: (choice.value, choice.reason) for choice in choices}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_metric, "_ALLOWED", {})
    return tmp_path


def test_accuracy_decides_where_no_class_is_rare_and_nothing_is_weighted(tmp_path: Path) -> None:
    experiment, choices = ask(write(tmp_path))
    assert experiment.training.metric == "accuracy"
    assert choices["training.metric"][0] == "accuracy"
    assert "objective.class_weights" not in choices


def test_a_rare_class_makes_macro_f1_decide_and_weighs_classes_with_the_reason(tmp_path: Path) -> None:
    experiment, choices = ask(write(tmp_path, rare=10, count=600))
    assert experiment.training.metric == "macro_f1"
    assert "less than a tenth of an even share" in choices["training.metric"][1]
    assert "'yes' has " in choices["training.metric"][1]
    assert getattr(experiment.objective, "class_weights", None) != "none"
    asked_for, _ = ask(write(tmp_path, rare=10, count=600), "training.metric=accuracy")
    assert getattr(asked_for.objective, "class_weights", None) == "none"
    sampled, choices = ask(write(tmp_path, rare=10, count=600), "training.sampling=balanced")
    assert getattr(sampled.objective, "class_weights", None) == "none"
    assert "objective.class_weights" not in choices


def test_other_names_of_a_metric_are_known(tmp_path: Path) -> None:
    experiment, _ = ask(write(tmp_path), "training.metric=log_loss")
    assert experiment.training.metric == "loss"


@pytest.mark.parametrize(
    "name, said",
    [
        ("macro_f", "did you mean 'macro_f1'"),
        ("chrf", "cannot decide a classification run"),
        ("f1:yess", "did you mean 'yes'"),
        ("nowhere_at_all:cost", "cannot be imported"),
    ],
)
def test_a_metric_that_is_not_there_or_does_not_fit_is_refused_before_anything_is_made(folder: Path, name: str, said: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        luthier.run(write(folder), metric=name, out=folder / "run")
    assert said in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (folder / "run").exists()


def test_the_metric_that_was_named_chooses_the_checkpoint_and_closes_the_run(bases: Any, folder: Path) -> None:
    run = luthier.run(write(folder), metric="f1:yes", base=str(bases("bert", 2).folder), out=folder / "run", set=QUICK)
    verdict: Any = run.verdict
    assert verdict["metric"] == "f1:yes"
    looks = [line for line in run.lines("metrics.jsonl") if "evaluation" in line]
    assert next(iter(looks[0]["evaluation"])) == "f1:yes"
    best = max(looks, key=lambda line: (line["evaluation"]["f1:yes"], line["step"]))
    assert verdict["checkpoint"] == best["step"]
    for name in ("accuracy", "macro_f1", "balanced_accuracy", "auc", "mcc", "loss"):
        assert name in verdict["test"]
        assert name in verdict["base"]["metrics"]
        assert name in verdict["trivial"]["metrics"]
    assert "F1 of the class yes" in (run.folder / "report.html").read_text()
    assert Experiment.load(run.folder / "experiment.yaml").training.metric == "f1:yes"


def test_a_function_of_ones_own_decides_and_a_strangers_experiment_does_not_run_it(bases: Any, folder: Path) -> None:
    (folder / "money.py").write_text(COST)
    data, base = write(folder), str(bases("bert", 2).folder)
    run = luthier.run(data, metric="money:cost", base=base, out=folder / "run", set=QUICK)
    verdict: Any = run.verdict
    assert verdict["metric"] == "money:cost"
    assert not verdict["higher_is_better"]
    user_metric._ALLOWED.clear()
    with pytest.raises(ExperimentError, match="asks to run code"):
        luthier.train(run.folder / "experiment.yaml", out=folder / "again")
    luthier.report(run.folder)  # needs no code
    assert luthier.resume(run.folder).verdict == verdict  # the run's own event says that it was allowed
    (folder / "run" / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in run.lines("events.jsonl") if line["event"] != "finished"))  # fmt: skip
    user_metric._ALLOWED.clear()
    (folder / "money.py").write_text(COST + "\n# changed\n")
    with pytest.raises(ExperimentError, match="has changed since the run began"):
        luthier.resume(run.folder)


def test_the_function_in_the_docs_works_as_it_is_told_there(folder: Path) -> None:
    import re

    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (name,) = re.findall(r"--metric (money:\w+)", page)
    (folder / "money.py").write_text(code)
    sys.modules.pop("money", None)
    user_metric.allow_function(name)
    target = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.8, 0.2], [0.2, 0.8]])
    found = Scores(np.ones(4), np.ones(4), target, probabilities, labels=("fine", "fraud"))
    assert measure(found, (name,)) == {name: (50 - 5) / 4}


def test_a_class_that_is_never_predicted_is_named(bases: Any, folder: Path) -> None:
    said: list[str] = []

    class Ears(NullReporter):
        def finding(self, finding: Any) -> None:
            said.append(finding.claim)

    data = write(folder, rare=24, count=300)
    quick = ["training.steps=2", "optimizer.lr=1e-9", "training.metric=accuracy"]
    run = luthier.run(data, base=str(bases("bert").folder), out=folder / "run", set=quick, force=True, reporter=Ears())
    found = {finding.check: finding for finding in run.findings}
    assert {"never_predicted.validation", "never_predicted.test"} <= set(found)
    assert len(found["never_predicted.test"].evidence["classes"]) == 1
    assert any("never predicted on the validation rows" in claim and "training rows)" in claim for claim in said)


def test_a_search_compares_its_trials_by_the_metric(bases: Any, folder: Path) -> None:
    said: list[str] = []

    class Ears(NullReporter):
        def say(self, line: str) -> None:
            said.append(line)

    study = luthier.search(write(folder), metric="macro_f1", trials=2, base=str(bases("bert", 2).folder), out=folder / "study", set=["training.epochs=2"], space=["optimizer.lr=1e-3..1e-2"], force=True, reporter=Ears())  # fmt: skip
    assert any("validation macro_f1 " in line for line in said)
    scores = [entry["score"] for entry in study.entries_named("standing")]
    assert all(-1 <= score <= 0 for score in scores)
    winner: Any = study.winner
    assert winner.verdict["metric"] == "macro_f1"
    assert "macro_f1" in (study.folder / "report.html").read_text()


@pytest.mark.parametrize("name", ["chrf", "rouge_l", "words:right"])
def test_answers_decide_a_chat_run_and_the_untouched_base_gives_some_too(bases: Any, folder: Path, name: str) -> None:
    (folder / "words.py").write_text("def right(references, outputs):\n    return sum(one == two for one, two in zip(references, outputs)) / len(outputs)\n")  # fmt: skip
    file = folder / "chat.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"what about {number}?", "completion": row["text"]}) + "\n" for number, row in enumerate(rows(90))))  # fmt: skip
    run: Run = luthier.run(file, metric=name, base=str(bases("llama", 2).folder), out=folder / "run", set=QUICK, force=True)
    verdict: Any = run.verdict
    assert verdict["metric"] == name
    assert verdict["difference"]["low"] <= verdict["difference"]["value"] <= verdict["difference"]["high"]
    assert {"loss", "chrf", "rouge_l"} - {name} <= set(verdict["base"]["metrics"])


def test_an_unknown_metric_is_answered_with_the_names_that_the_help_has() -> None:
    with pytest.raises(ExperimentError, match="there is no metric 'macro_f2'") as caught:
        resolve_metric("macro_f2", family_of("classification"), ("no", "yes"))
    assert "did you mean 'macro_f1'" in caught.value.remedy
    assert "log_loss" in caught.value.remedy and " loss" not in caught.value.remedy
