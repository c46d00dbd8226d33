"""A search end to end: the winner is a run like any other, `train` makes the same bits of it, and a killed study goes on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import luthier
from luthier.app.cli import app
from luthier.core.errors import ExperimentError, NoGo, Stopped
from luthier.core.finding import Finding
from luthier.core.interfaces import NullReporter
from luthier.core.run import Run
from luthier.core.study import Study
from luthier.experiment import Experiment
from luthier.pilot.trials.local import LocalTrial
from luthier.studies.rungs import end_of_decay
from tests.data.test_malformed import sentence

SET = ["training.epochs=4", "training.batch_size=8", "optimizer.lr=3e-3", "model.dropout=0.1", "training.dtype=float32"]
"""In float32 on every processor: which trial wins, and when patience ends, is a matter of small numbers."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    lines = [f"{sentence(number)} {('good', 'bad')[number % 2]},{('yes', 'no')[number % 2]}" for number in range(160)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def run_search(table: Path, bases: Any, out: Path, layers: int = 2, **more: Any) -> Study:
    given = {
        "trials": 5,
        "points": ["optimizer.lr=2e-2,optimizer.weight_decay=0.1"],
        "set": [*SET[:2], SET[-1]],
        "space": ["optimizer.lr=1e-4..3e-2", "model.dropout=0|0.1"],
        "force": True,
        **more,
    }
    return luthier.search(table, base=str(bases("bert", layers).folder), out=out, **given)


@pytest.fixture(scope="module")
def study(table: Path, bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_search(table, bases, tmp_path_factory.mktemp("studies") / "study")


def ledger(study: Study) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in study.lines("ledger.jsonl")]


def weights(run: Run) -> bytes:
    return (run.folder / "bundle" / "model.safetensors").read_bytes()


def test_the_winner_is_a_finished_run_and_the_study_says_why(study) -> None:
    winner = study.winner
    assert winner is not None
    assert study.verdict == winner.verdict
    assert winner.events_named("finished")
    assert len(winner.events_named("test_opened")) == 1
    assert not [
        number for number in range(5) if study.trial(number).events_named("test_opened") and study.trial(number).folder != winner.folder
    ]
    assert [(entry["share"], entry["trials"]) for entry in luthier_plan(study)["rungs"]] == [(0.25, 5), (0.5, 2), (end_of_decay(0.5), 2)]
    second = study.entries_named("proposed")[1]
    assert (second["by"], second["values"]) == ("portfolio", {"optimizer.lr": 0.02, "model.dropout": 0.1, "optimizer.weight_decay": 0.1})
    checks = [finding.check for finding in study.findings]
    assert "search.default" in checks
    assert "search.luck" in checks
    page = (study.folder / "report.html").read_text()
    assert f"{winner.folder.relative_to(study.folder)}/report.html" in page
    assert "http" not in page.replace("http-equiv", "")
    steps = [line["step"] for line in winner.lines("metrics.jsonl") if "tokens" in line]
    assert steps == list(range(1, len(steps) + 1))  # nothing was trained twice


def test_a_study_can_be_used_where_a_run_can(study) -> None:
    texts = ["river stone good", "river stone bad"]
    assert luthier.predict(study.folder, texts) == luthier.predict(study.winner.folder / "bundle", texts)


def test_a_run_whose_budget_is_enough_for_several_runs_is_a_search(study, table, bases, tmp_path) -> None:
    given: dict[str, Any] = {"base": str(bases("bert").folder), "set": ["training.epochs=4", "model.dropout=0"], "force": True}
    found = luthier.run(table, out=tmp_path / "run", budget="1h", **given)
    assert isinstance(found, Study)
    plan = luthier_plan(found)
    assert 1.5 <= plan["cost_in_runs"] <= 3.0  # not the hour
    assert plan["stay"]["model.dropout"] == "set by you"
    texts = ["river stone good", "river stone bad"]
    assert luthier.predict(tmp_path / "run" / "bundle", texts) == luthier.predict(found.winner.folder / "bundle", texts)
    with pytest.raises(KeyboardInterrupt):
        luthier.run(table, out=tmp_path / "cut", budget="1h", reporter=Stops(4), **given)
    again = luthier.resume(tmp_path / "cut")
    assert ledger(again) == ledger(found)  # type: ignore[arg-type]
    assert weights(again.winner) == weights(found.winner)


@pytest.mark.parametrize("worth", [1.9, 2.0])
def test_a_run_becomes_a_search_from_two_runs_worth_of_time_on(table, bases, tmp_path, monkeypatch, worth: float) -> None:
    monkeypatch.setattr("luthier.pilot.trials.search._affordable_runs", lambda context, seconds: worth)
    given: dict[str, Any] = {"base": str(bases("bert").folder), "set": ["training.epochs=4"], "force": True}
    with pytest.raises(KeyboardInterrupt):
        luthier.run(table, out=tmp_path / "run", budget="1h", reporter=Stops(99, evaluations=1), **given)
    assert bool(Run(tmp_path / "run").events_named("searching")) == (worth >= 2)


def test_a_run_that_somebody_watches_or_that_is_written_down_is_one_run(table, bases, tmp_path) -> None:
    seen: list[int] = []
    given: dict[str, Any] = {"base": str(bases("bert").folder), "set": ["training.steps=8"], "force": True}
    run = luthier.run(table, out=tmp_path / "run", budget="1h", watchers=[lambda step: seen.append(step.number)], **given)
    assert not isinstance(run, Study)
    assert seen == list(range(1, 9))
    assert not isinstance(luthier.train(run.folder, out=tmp_path / "again", budget="1h", force=True), Study)


def luthier_plan(study: Study) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((study.folder / "plan.yaml").read_text())


def test_train_on_the_winners_experiment_makes_the_same_bundle_to_the_byte(study, tmp_path) -> None:
    winner = study.winner
    again = luthier.train(winner.folder / "experiment.yaml", out=tmp_path / "again", force=True)
    assert weights(again) == weights(winner)
    for name in ("config.json", "tokenizer.json", "luthier.json"):
        assert (again.folder / "bundle" / name).read_bytes() == (winner.folder / "bundle" / name).read_bytes()
    assert again.lines("metrics.jsonl") == winner.lines("metrics.jsonl")
    assert {**again.verdict, "seconds": 0} == {**winner.verdict, "seconds": 0}


def test_every_end_is_a_run_that_train_makes_again_to_the_byte(study, tmp_path) -> None:
    trial = study.trial(0)
    places = sorted((trial.folder / "ends").iterdir())
    assert [place.name for place in places] == ["cosine-1.000", "linear-0.588"]
    for place in places:
        branch = Run(place)
        assert branch.events_named("forked")[0]["step"] == 28  # of 56
        assert branch.events_named("trained")[0]["step"] == {"c": 56, "l": 33}[place.name[0]]
        again = luthier.train(place / "experiment.yaml", out=tmp_path / place.name, force=True)
        assert again.lines("metrics.jsonl") == branch.lines("metrics.jsonl")
        best = again.events_named("trained")[0]["best"]
        assert best == branch.events_named("trained")[0]["best"]
        name = f"validation_losses/step-{best['step']:06d}.safetensors"  # of each example; the weights of an end that is not taken go
        assert (again.folder / name).read_bytes() == (place / name).read_bytes()
    kept = [file.parent.parent.parent for file in (study.folder / "trials").rglob("model.safetensors") if "checkpoints" in file.parts]
    assert kept == [study.winner.folder]
    scores = study.entries_named("ended")[0]["scores"]
    assert set(scores) == {"linear-1.000", "linear-0.588", "cosine-1.000"}
    assert scores["linear-0.588"] == next(
        entry["score"] for entry in study.entries_named("standing") if entry["trial"] == 0 and entry["rung"] == 2
    )


def test_an_end_that_is_better_is_the_final_model_and_one_that_may_be_is_not(table, bases, tmp_path, monkeypatch) -> None:
    taken = {}
    own = LocalTrial.finish

    def handicapped(self: LocalTrial) -> Any:
        """How an end does; the whole run's own by so much worse that another one is the best."""
        score, losses = own(self)
        return (score, losses) if self.name else (score + 1.0, losses + 1.0)

    monkeypatch.setattr(LocalTrial, "finish", handicapped)
    for tie in (True, False):
        monkeypatch.setattr("luthier.pilot.trials.decay_branch.is_tied", lambda best, whole, tie=tie: tie)
        taken[tie] = run_search(table, bases, tmp_path / str(tie), trials=2)
    scores = taken[False].entries_named("ended")[0]["scores"]
    best = min(scores, key=lambda name: scores[name])
    assert best != "linear-1.000"
    assert taken[True].winner.folder == taken[True].trial(taken[True].entries_named("won")[0]["trial"]).folder
    winner = taken[False].winner
    assert winner.folder.name == best
    assert winner.events_named("finished")
    assert (taken[False].folder / "bundle" / "model.safetensors").read_bytes() == weights(winner)
    assert "search.ends" in [finding.check for finding in taken[False].findings]
    assert f"ends/{best}/report.html" in (taken[False].folder / "report.html").read_text()
    assert weights(luthier.train(winner.folder / "experiment.yaml", out=tmp_path / "again", force=True)) == weights(winner)
    assert luthier.predict(taken[False].folder, ["river stone good"])


def test_a_schedule_that_somebody_set_has_the_end_that_it_says(table, bases, tmp_path) -> None:
    found = run_search(table, bases, tmp_path / "study", set=[*SET[:2], SET[-1], "schedule.kind=cosine"], trials=2)
    assert not any(rung["falls"] for rung in luthier_plan(found)["rungs"])
    assert not (found.winner.folder / "ends").exists()
    assert Experiment.load(found.winner.folder / "experiment.yaml").schedule.kind == "cosine"


def test_steering_is_checked_before_it_is_asked(study, table, bases, tmp_path) -> None:
    with pytest.raises(ExperimentError, match="has chosen already"):
        luthier.steer(study.folder, stop=[1])
    with pytest.raises(KeyboardInterrupt):
        run_search(table, bases, tmp_path / "cut", reporter=Stops(3))
    cut = tmp_path / "cut"
    for asked, said in (
        ({}, "nothing was asked"),
        ({"stop": [0]}, "is the default"),
        ({"stop": [9]}, "no trial 9"),
        ({"space": ["training.epochs=1..2"]}, "does not vary"),
        ({"space": ["optimizer.lr=1e-6..1e-3"]}, "is not within"),
        ({"space": ["model.dropout=0.1|0.2"]}, "is not within"),
    ):
        with pytest.raises(ExperimentError, match=said):
            luthier.steer(cut, **asked)
    assert not (cut / "requests.jsonl").exists()
    done = CliRunner().invoke(app, ["steer", str(cut), "--space", "optimizer.lr=1e-3..2e-3", "--stop", "1"])
    assert done.exit_code == 0, done.output
    assert "from the next trial on" in done.output
    again = luthier.resume(cut)
    proposed = again.entries_named("proposed")
    assert all(1e-3 <= entry["values"]["optimizer.lr"] <= 2e-3 for entry in proposed[3:])
    assert len(proposed) == 5
    assert again.entries_named("rung")[0]["reasons"]["1"] == "stopped by hand"
    assert "stopped by hand" in (cut / "report.html").read_text()


class Stops(NullReporter):
    """Pulls the plug when a line has been said, or an evaluation shown, so many times."""

    def __init__(self, after: int, evaluations: int = 0) -> None:
        self.left, self.evaluations = after, evaluations

    def evaluation(self, step: int, measured: dict[str, float], best: bool) -> None:
        self.evaluations -= 1
        if self.evaluations == 0:
            raise KeyboardInterrupt

    def say(self, line: str) -> None:
        if line.startswith("  trial") or line.startswith("  after"):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize(("lines", "evaluations"), [(10, 0), (99, 2)])  # at an end, on the way to the last one
def test_a_study_that_is_killed_goes_on_with_the_same_trials_to_the_same_bits(study, table, bases, lines, evaluations, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_search(table, bases, tmp_path / "cut", reporter=Stops(lines, evaluations))
    assert not (tmp_path / "cut" / "report.html").exists()
    again = luthier.resume(tmp_path / "cut")
    assert isinstance(again, Study)
    assert ledger(again) == ledger(study)
    assert weights(again.winner) == weights(study.winner)
    assert luthier.resume(tmp_path / "cut").winner.folder == again.winner.folder  # finished: nothing to do


def test_a_signal_keeps_what_the_trials_have_done_and_nothing_is_trained_twice(study, table, bases, tmp_path) -> None:
    class Signalled(Stops):
        def say(self, line: str) -> None:
            try:
                super().say(line)
            except KeyboardInterrupt:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped):
        run_search(table, bases, tmp_path / "cut", reporter=Signalled(3))
    cut = Study(tmp_path / "cut")
    assert [number for number in range(3) if list((cut.trial(number).folder / "checkpoints").glob("step-*/optimizer.safetensors"))] == [
        0,
        1,
        2,
    ]
    again = luthier.resume(tmp_path / "cut")
    assert ledger(again) == ledger(study)
    assert weights(again.winner) == weights(study.winner)
    with pytest.raises(ExperimentError, match="start a new one"):
        luthier.resume(tmp_path / "cut", allow_inexact=True)
    assert luthier.report(tmp_path / "cut") == tmp_path / "cut" / "report.html"


def test_trials_that_do_not_fit_into_memory_wait_on_the_disk_with_the_same_result(study, table, bases, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("luthier.pilot.trials.local.available_memory", lambda: 1)
    again = run_search(table, bases, tmp_path / "small")
    assert ledger(again) == ledger(study)
    assert weights(again.winner) == weights(study.winner)
    assert study.trial(0).events_named("resumed") == []
    assert any(again.trial(number).events_named("resumed") for number in range(5))


def test_a_chat_model_is_searched_by_its_loss_with_accumulation_and_adapters(bases, tmp_path) -> None:
    lines = [json.dumps({"prompt": f"what about {number}?", "completion": sentence(number)}) for number in range(90)]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines) + "\n")
    found = luthier.search(tmp_path / "chat.jsonl", base=str(bases("llama", 2).folder), out=tmp_path / "study", trials=3, force=True,
                           set=["training.epochs=2", "adaptation.kind=lora", "adaptation.rank=4", "training.micro_batch_tokens=64"])  # fmt: skip
    winner = found.winner
    assert winner.verdict["metric"] == "loss"
    assert {line["when"] for line in winner.lines("samples.jsonl") if "when" in line} == {"before", "after"}
    scores = [entry["score"] for entry in found.entries_named("standing")]
    rung = found.entries_named("standing")[0]
    looks = [line for line in found.trial(0).lines("metrics.jsonl") if "evaluation" in line]
    assert all(0 < score < 20 for score in scores)
    assert rung["score"] == pytest.approx(looks[0]["evaluation"]["loss"], rel=0.2)
    assert weights(luthier.train(winner.folder / "experiment.yaml", out=tmp_path / "again", force=True)) == weights(winner)


def test_with_ten_trials_freezing_is_searched_around_what_one_pass_over_the_rows_proposes(table, bases, tmp_path) -> None:
    found = run_search(
        table,
        bases,
        tmp_path / "study",
        layers=3,
        trials=10,
        points=[],
        space=[],
        set=["training.epochs=3", "training.batch_size=16", "optimizer.lr=3e-3"],
    )
    similar = json.loads((found.folder / "similar.json").read_text())
    depths = {blocks for blocks in (similar["depth"]["blocks"], *similar["depth"]["others"]) if blocks}
    tried = [entry["values"] for entry in found.entries_named("proposed")]
    frozen = [values for values in tried if values["adaptation.kind"] == "freeze"]
    assert tried[0]["adaptation.kind"] == "full"
    assert frozen
    for number, values in enumerate(tried):
        assert ("adaptation.depth" in values) == (values in frozen)
        written = Experiment.load(found.trial(number).folder / "experiment.yaml")
        assert written.adaptation.kind == values["adaptation.kind"]
    assert {values["adaptation.depth"] for values in frozen} <= depths
    page = (found.folder / "report.html").read_text()
    assert "How near the task is" in page
    assert "adaptation.depth" in page


def test_a_budget_too_small_for_a_search_trains_the_default(table, bases, tmp_path) -> None:
    said: list[str] = []

    class Listens(NullReporter):
        def say(self, line: str) -> None:
            said.append(line)

        def finding(self, finding: Finding) -> None:
            said.append(finding.claim)

    found = run_search(table, bases, tmp_path / "one", trials=None, budget="1x", reporter=Listens())
    assert found.winner is not None
    assert found.winner.folder.name == "000"
    assert luthier_plan(found)["trials"] == 1
    assert not [finding for finding in found.findings if finding.check.startswith("search")]
    assert not any("stays" in line for line in said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"budget": "0.5x"}, "no number of runs"),
        ({"budget": "soon"}, "not a time"),
        ({"trials": 1}, "compares nothing"),
        ({"sampler": "tpee"}, "no sampler"),
        ({"space": ["optimizer.rate=1..2"]}, "there is no field"),
        ({"points": ["optimizer.momentum=1"]}, "not in the space"),
        ({"points": ["optimizer.lr=1.0"]}, "outside of"),
    ],
)
def test_a_mistake_is_said_before_anything_is_made(table, bases, given, said, tmp_path) -> None:
    with pytest.raises(ExperimentError, match=said):
        run_search(table, bases, tmp_path / "none", **given)
    assert not (tmp_path / "none").exists()


def test_a_no_go_of_the_small_run_spends_nothing_on_trials(bases, tmp_path) -> None:
    lines = [f"{sentence(number)},{('yes', 'no')[number * 7919 // 13 % 2]}" for number in range(160)]
    (tmp_path / "noise.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    with pytest.raises(NoGo):
        luthier.search(tmp_path / "noise.csv", base=str(bases("bert").folder), out=tmp_path / "study", trials=3, set=["optimizer.lr=3.0"])
    assert not (tmp_path / "study" / "trials").exists()
    assert json.loads((tmp_path / "study" / "events.jsonl").read_text().split("\n")[0])["event"] == "searching"
