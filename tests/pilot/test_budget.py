"""A time budget: refused where it is no budget, reserved as measured, and kept whatever the machine does."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import luthier
from luthier.app.cli import app
from luthier.core.errors import ExperimentError
from luthier.core.interfaces import NullReporter
from luthier.core.run import Clock, Run
from luthier.core.types import Step
from luthier.pilot.search import budget_of
from luthier.pilot.stages.finish_time import ClosingCosts, count_words, read_planned_rows
from luthier.pilot.stages.least_budget import round_up
from luthier.pilot.stages.options import parse_seconds
from luthier.pilot.stages.time_budget import fewest_steps
from tests.conftest import rows


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, "text": f"{row['text']} {number}"}) + "\n" for number, row in enumerate(rows(240))))
    return file


def test_a_budget_without_a_unit_is_refused_and_a_number_is_seconds() -> None:
    for given in ("5", "2.5", " 90 "):
        with pytest.raises(ExperimentError, match=r"has no unit[\s\S]*s \(seconds\) or"):
            parse_seconds(given)
        with pytest.raises(ExperimentError, match="has no unit"):
            budget_of(given)
    assert parse_seconds(5) == 5.0
    assert parse_seconds(2.5) == 2.5
    assert parse_seconds("1.5h") == 5400.0
    assert budget_of(600) == (None, 600.0)
    assert budget_of("2x") == (2.0, None)
    for given in (True, "soon", "-5s", 0):
        with pytest.raises(ExperimentError, match="not a time"):
            parse_seconds(given)


@pytest.mark.parametrize("command", ["run", "train", "search"])
def test_the_command_line_refuses_a_budget_without_a_unit(command: str, table: Path) -> None:
    found = CliRunner().invoke(app, [command, str(table), "--budget", "5"])
    assert isinstance(found.exception, ExperimentError)
    assert "5s (seconds) or 5m (minutes)" in str(found.exception)


def test_a_budget_too_short_for_any_run_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for verb in (luthier.run, luthier.train, luthier.search):
        with pytest.raises(ExperimentError, match=r"--budget 3s is too short for any run[\s\S]*nothing was read") as caught:
            verb(tmp_path / "no such rows.csv", out=tmp_path / "run", budget="3s")
        assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_budget_that_reading_has_used_up_is_refused_before_a_base_is_looked_for(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.pilot.run.Clock", lambda: Clock(before=500.0))
    with pytest.raises(ExperimentError, match=r"--budget 501s is too short for these rows: reading them took 50\ds[\s\S]*most_rows"):
        luthier.run(table, base="no such base", out=tmp_path / "run", budget="501s")
    assert not (tmp_path / "run").exists()


def test_a_budget_in_which_the_weights_could_not_be_written_is_refused_before_they_are_loaded(
    bases, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.pilot.stages.least_budget.WRITTEN", 1e3)  # bytes a second: the tiny base is as a large one
    monkeypatch.setattr("luthier.families.family.Family.load_processor", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(
        ExperimentError, match=r"--budget 60s is too short for .*bert: to write its weights and the report alone takes about \d{3}s"
    ):
        luthier.run(table, base=str(bases("bert").folder), out=tmp_path / "run", budget="60s")
    (row,) = luthier.runs(tmp_path)
    assert row["state"] == "refused" and row["why"].startswith("--budget 60s is too short: the smallest that makes sense is ")


def test_a_budget_too_short_for_a_few_steps_is_refused_with_the_smallest_that_makes_sense(
    bases, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.pilot.stages.time_budget.SHORTEST_SMALL_RUN", 10**9)
    with pytest.raises(
        ExperimentError, match=r"--budget 60s is too short for these rows: the smallest that makes sense is \d+[sm]"
    ) as caught:
        luthier.run(table, base=str(bases("bert").folder), out=tmp_path / "run", budget="60s")
    assert caught.value.exit_code == 2
    assert "nothing was trained" in caught.value.remedy
    for name in ("checkpoints", "bundle", "verdict.json", "metrics.jsonl"):
        assert not (tmp_path / "run" / name).exists()
    (row,) = luthier.runs(tmp_path)
    assert row["state"] == "refused" and row["why"].startswith("--budget 60s is too short: the smallest that makes sense is ")


def test_a_budget_that_the_small_run_has_used_up_is_refused_too(
    bases, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.pilot.run.Clock", Jumps)
    Jumps.more = 0.0

    class Late(NullReporter):
        def stage(self, name: str, detail: str = "") -> None:
            Jumps.more = 800.0 if name == "smoke" else Jumps.more

    with pytest.raises(ExperimentError, match=r"--budget 700s is too short for these rows: the smallest that makes sense is \d+[sm]"):
        luthier.run(
            table, base=str(bases("bert").folder), out=tmp_path / "run", budget="700s", set=["training.epochs=2", "optimizer.lr=0.003"],
            reporter=Late(),
        )  # fmt: skip
    assert not (tmp_path / "run" / "bundle").exists()
    (row,) = luthier.runs(tmp_path)
    assert row["state"] == "refused" and row["why"].startswith("--budget 700s is too short: the smallest that makes sense is ")


@pytest.mark.parametrize(("seconds", "said"), [(31.2, "35s"), (119, "120s"), (121, "150s"), (700, "12m")])
def test_the_smallest_budget_is_a_round_one(seconds: float, said: str) -> None:
    assert round_up(seconds) == said


def costs(**changes: Any) -> ClosingCosts:
    given: dict[str, Any] = {"fixed": 20.0, "rows": 15_000, "classes": 151, "a_row": 0.001, "features": 1152, "ngrams": 20.0, "sample": 400, "distinct": 4000.0}  # fmt: skip
    return ClosingCosts(**{**given, **changes})


def test_a_closing_that_is_too_long_fits_the_baselines_on_fewer_rows_tfidf_first() -> None:
    whole = costs().seconds(15_000, 15_000)
    assert costs().rows_within(whole + 1) == (15_000, 15_000)
    probe, words = costs().rows_within(whole - 20)
    assert probe == 15_000
    assert words < 15_000
    assert costs().seconds(probe, words) <= whole - 20
    probe, words = costs().rows_within(80.0)
    assert 755 <= words <= probe < 15_000
    assert costs().rows_within(0.0) == (755, 755)  # five of each class
    assert costs(classes=0).rows_within(0.0) == (0, 0)
    assert costs(classes=0).seconds(0, 0) == 20.0
    assert costs(slower=3.0).seconds(1000, 1000) > 2 * costs().seconds(1000, 1000) - 20.0


def test_distinct_words_of_many_rows_are_foreseen_from_a_few(bases, records) -> None:
    from luthier.core.types import Example, Record

    draw = __import__("random").Random(1)
    texts = [" ".join(f"w{int(draw.paretovariate(0.9))}" for _ in range(12)) for _ in range(4000)]
    examples = [Example(number, {"tokens": [1]}, 0, Record(number, {"text": text}), 1) for number, text in enumerate(texts)]
    ngrams, sample, distinct, growth = count_words(examples, ["text"])
    words = {pair for text in texts for pair in [*text.split(), *zip(text.split(), text.split()[1:], strict=False)]}
    assert ngrams <= 23
    assert 0.5 < distinct * (4000 / sample) ** growth / len(words) < 2


def test_what_was_decided_last_about_the_rows_is_obeyed(tmp_path: Path) -> None:
    place = Run.create(tmp_path / "run")
    assert read_planned_rows(place)[0] == 50_000
    place.event("planned", steps=3, probe_rows=900, words_rows=700)
    assert read_planned_rows(place) == (900, 700)
    place.event("probe_rows", rows=600, probe_rows=600, words_rows=500)
    assert read_planned_rows(place) == (600, 500)


class Jumps(Clock):
    """A clock that somebody else's work makes jump."""

    more = 0.0

    def __call__(self) -> float:
        return super().__call__() + Jumps.more


class Told(NullReporter):
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


def test_a_machine_that_is_taken_away_leaves_a_verdict_a_bundle_and_a_run_that_can_be_made_again(
    bases, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the training more than the budget is gone: the run ends, is judged, and says why; train makes the same bits."""
    monkeypatch.setattr("luthier.pilot.run.Clock", Jumps)
    Jumps.more = 0.0
    reporter = Told()

    def jump(step: Step) -> None:
        if step.number == 60:
            Jumps.more = 1100.0

    asked = ["training.epochs=8", "training.checkpoint_seconds=0", "optimizer.lr=0.003"]
    run = luthier.run(
        table,
        base=str(bases("bert").folder),
        out=tmp_path / "run",
        budget=1000,
        set=asked,
        watchers=[jump],
        reporter=reporter,
        force=True,
    )
    (cut,) = run.events_named("cut_while_training")
    assert (cut["step"], cut["total"]) == (61, 61)
    assert run.verdict is not None
    assert (run.folder / "bundle" / "luthier.json").exists()
    (found,) = (finding for finding in run.findings if finding.check == "budget")
    assert "to keep the 16 min 40 s budget" in found.claim
    assert any("the run ends after step 61" in line for line in reporter.said)
    assert "of a budget of 1000 s" in (run.folder / "report.html").read_text()
    assert all(
        event["words_rows"] > 0 for event in run.events_named("probe_rows")
    )  # a verdict against the majority class alone says nothing
    monkeypatch.undo()
    again = luthier.train(run.folder / "experiment.yaml", out=tmp_path / "again", force=True)
    assert again.events_named("cut_while_training")[0]["total"] == 61
    assert (again.folder / "bundle" / "model.safetensors").read_bytes() == (run.folder / "bundle" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("base", "generates", "fewest"), [(True, True, 10), (True, False, 20), (False, True, 20)])
def test_a_base_that_goes_on_writing_may_have_fewer_steps_than_a_new_head(base: bool, generates: bool, fewest: int) -> None:
    context: Any = SimpleNamespace(base=object() if base else None, family=SimpleNamespace(generates=generates))
    assert fewest_steps(context, 1000) == fewest
    assert fewest_steps(context, 4) == 4
