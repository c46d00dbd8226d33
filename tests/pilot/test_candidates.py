"""What ships: the candidate that the validation rows choose, with the probabilities that were evaluated."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import luthier
from luthier.core.errors import Stopped
from luthier.core.interfaces import NullReporter
from luthier.core.run import Run
from tests import processes
from tests.conftest import BAD, GOOD

SETS = ["training.dtype=float32", "training.epochs=3", "optimizer.lr=0.003"]
IDLE = ["training.dtype=float32", "training.steps=2", "optimizer.lr=1e-9"]


def sentence(number: int) -> dict[str, str]:
    """A row whose class a word tells, but for one in ten, so that nobody is always right."""
    word = (GOOD if number % 2 else BAD)[number * 7 // 2 % 5]
    said = ("yes", "no")[number % 2] if number % 10 < 9 else ("no", "yes")[number % 2]
    return {
        "text": f"the {('phone', 'film', 'meal')[number % 3]} {number} was {word}",
        "more": f"it was {word} {number % 7}",
        "label": said,
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("".join(json.dumps(sentence(number)) + "\n" for number in range(300)))
    return file


def ran(table: Path, base: Any, out: Path, *changes: str, **more: Any) -> Run:
    return luthier.run(table, base=str(base.folder), target="label", out=out, set=[*changes], force=True, **{"input": "text", **more})


def hashes(folder: Path) -> dict[str, str]:
    names = [file for file in sorted((folder / "bundle").rglob("*")) if file.is_file() and file.name not in ("README.md", "luthier.json")]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in names}


def sealed_rows(run: Run) -> list[dict[str, Any]]:
    lines = Path(run.json("splits.json")["rows"]["test"][0][0]).read_text().splitlines()
    return [json.loads(lines[row - 1]) for _, row in run.json("splits.json")["rows"]["test"]]


def holds_what_was_evaluated(run: Run, columns: list[str]) -> None:
    """The bundle, opened again, gives the loss and the accuracy of the verdict."""
    rows, verdict = sealed_rows(run), run.verdict
    assert verdict is not None
    file = run.folder / "sealed.jsonl"
    file.write_text("".join(json.dumps({name: row[name] for name in columns}) + "\n" for row in rows))
    said = luthier.predict(run.folder, file)
    losses = [-np.log(one["probabilities"][row["label"]]) for one, row in zip(said, rows, strict=True)]
    assert np.mean(losses) == pytest.approx(verdict["test"]["loss"], abs=1e-5)
    assert np.mean([one["label"] == row["label"] for one, row in zip(said, rows, strict=True)]) == pytest.approx(verdict["test"]["value"])


@pytest.fixture(scope="module")
def idle(bases, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose training does nothing."""
    return ran(table, bases("bert", 2), tmp_path_factory.mktemp("runs") / "idle", *IDLE)


@pytest.fixture(scope="module")
def averaged(bases, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ran(table, bases("bert", 2), tmp_path_factory.mktemp("runs") / "average", *SETS, "training.steps=24", "training.ships=average")


def test_where_training_fails_the_probe_ships_and_says_so(idle: Run) -> None:
    verdict: Any = idle.verdict
    assert verdict["ships"] == "probe"
    assert verdict["why"].startswith("ships: logistic regression on the untouched base (validation accuracy ")
    assert verdict["difference"]["against"] == "trivial"  # the trained model lost on the validation rows: it is no baseline any more
    assert verdict["base"]["value"] == verdict["test"]["value"]
    scores = {each["name"]: each for each in verdict["candidates"]}
    assert [name for name, each in scores.items() if each["chosen"]] == ["probe"]
    assert scores["probe"]["test"]["value"] > scores["trained"]["test"]["value"] + 0.2
    assert json.loads((idle.folder / "bundle" / "luthier.json").read_text())["ships"] == "probe"
    holds_what_was_evaluated(idle, ["text"])
    assert "ships the probe" in repr(idle)
    page = (idle.folder / "report.html").read_text()
    assert "What ships" in page
    assert "logistic regression on the untouched base (ships)" in page
    card = (idle.folder / "bundle" / "README.md").read_text()
    assert "not shipped: the trained model" in card
    assert "The classes need Luthier" in card


def test_transformers_loads_the_base_of_a_probe_and_no_pipeline_that_guesses(idle: Run) -> None:
    from transformers import AutoModel, pipeline

    assert AutoModel.from_pretrained(idle.folder / "bundle").config.model_type == "bert"
    with pytest.raises((ValueError, RuntimeError)):
        pipeline("text-classification", str(idle.folder / "bundle"))("the phone was good")


def test_where_training_wins_the_trained_model_ships_and_pipelines_are_calibrated(bases, table: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    run = ran(table, bases("bert", 2), tmp_path / "run", *SETS, "training.epochs=8", "training.ships=trained")
    details, verdict = run.json("evaluation.json"), run.verdict
    assert verdict is not None
    assert json.loads((run.folder / "bundle" / "luthier.json").read_text())["temperature"] == details["temperature"] != 1.0
    assert verdict["why"].startswith("ships, as set: the trained model")
    assert verdict["test"]["calibration_error"] == pytest.approx(details["calibration_error"]["after"])
    page = (run.folder / "report.html").read_text()
    assert "before temperature scaling" in page
    assert f"A perfectly calibrated model would show {100 * details['calibration_error']['by_chance']:.1f} % on so many rows" in page
    holds_what_was_evaluated(run, ["text"])
    said = pipeline("text-classification", str(run.folder / "bundle"), top_k=None)
    for row, ours in zip(sealed_rows(run)[:10], luthier.predict(run.folder, [row["text"] for row in sealed_rows(run)[:10]]), strict=True):
        theirs: Any = said(row["text"])
        shares = {one["label"]: one["score"] for one in (theirs[0] if isinstance(theirs[0], list) else theirs)}
        assert shares == pytest.approx(ours["probabilities"], abs=1e-5)


@pytest.mark.parametrize("family, columns, changes", [
    ("llama", ["text"], []), ("llama", ["text"], ["adaptation.kind=lora"]), ("mpnet", ["text"], []), ("roberta", ["text"], []), ("bert", ["text", "more"], []),
    ("bert", ["text"], ["objective.long_rows=windows", "objective.max_length=10", "objective.overlap=2"]),
    ("bert", ["text"], ["adaptation.kind=freeze", "adaptation.depth=1"]),
])  # fmt: skip
def test_a_bundle_of_every_kind_gives_the_probabilities_that_were_evaluated(
    bases, table: Path, tmp_path: Path, family: str, columns: list[str], changes: list[str]
) -> None:
    for ships in ("probe", "average"):
        run = ran(table, bases(family), tmp_path / ships, *SETS, "training.steps=6", *changes, f"training.ships={ships}", input=columns)
        assert (run.folder / "bundle" / "probe.safetensors").exists()
        assert (run.folder / "bundle" / "base" / "model.safetensors").exists() == (ships == "average")
        assert (run.folder / "bundle" / "adapter").exists() == (ships == "average" and "adaptation.kind=lora" in changes)
        holds_what_was_evaluated(run, columns)


def test_a_fresh_process_predicts_the_same(averaged: Run) -> None:
    texts = [row["text"] for row in sealed_rows(averaged)[:12]]
    code = "import json, sys, luthier; print(json.dumps(luthier.predict(sys.argv[1], json.loads(sys.argv[2]))))"
    done = processes.run("-c", code, averaged.folder, json.dumps(texts), check=True)
    for theirs, ours in zip(json.loads(done.stdout.splitlines()[-1]), luthier.predict(averaged.folder, texts), strict=True):
        assert theirs["probabilities"] == pytest.approx(ours["probabilities"], abs=1e-6)


def test_what_is_promised_comes_from_the_validation_rows_and_is_counted_again_on_the_test_rows(averaged: Run) -> None:
    rows, table = load_file(averaged.folder / "candidate_scores.safetensors"), averaged.json("evaluation.json")["abstention"]
    sure = {part: np.exp(-rows[f"{part}.average.loss"].astype(float)) for part in ("validation", "test")}
    sure = {part: np.maximum(value, 1 - value) for part, value in sure.items()}  # of two classes
    right = {part: rows[f"{part}.average.right"].astype(bool) for part in sure}
    assert table["rows"] == len(right["validation"])
    for counts in table["counts"]:
        above = sure["validation"] >= counts["threshold"]
        assert (counts["answered"], counts["wrong"]) == (above.sum(), (~right["validation"][above]).sum())
    for each in table["promises"]:
        above = sure["test"] >= each["threshold"]
        assert each["bound"] <= each["error_below"] and each["test"]["answered"] == pytest.approx(above.mean())
        assert each["test"]["error"] == (pytest.approx(1 - right["test"][above].mean()) if above.any() else None)
    facts = json.loads((averaged.folder / "bundle" / "luthier.json").read_text())["abstention"]
    assert facts == {name: table[name] for name in ("sure", "rows", "counts")}
    assert "If unsure answers are left out" in (averaged.folder / "report.html").read_text()


def test_the_average_is_compared_with_the_probe_and_the_trivial_models(averaged: Run) -> None:
    verdict: Any = averaged.verdict
    strongest = max(verdict["base"]["value"], verdict["trivial"]["value"])
    assert verdict[verdict["difference"]["against"]]["value"] == strongest
    holds_what_was_evaluated(averaged, ["text"])


def test_a_bundle_of_an_average_or_a_probe_can_be_trained_further(bases, table: Path, idle: Run, averaged: Run, tmp_path: Path) -> None:
    for number, run in enumerate((idle, averaged)):
        more = luthier.run(
            table, base=str(run.folder / "bundle"), input="text", target="label", out=tmp_path / str(number), set=IDLE, force=True
        )
        assert more.verdict is not None


class Stopping(NullReporter):
    """A reporter at which a signal comes when a stage begins."""

    def __init__(self, stage: str) -> None:
        self.name = stage

    def stage(self, name: str, detail: str = "") -> None:
        if name == self.name:
            raise Stopped(signal.SIGTERM)


def test_a_run_stopped_in_each_stage_of_its_closing_and_resumed_ships_the_same_bytes(averaged: Run, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        luthier.train(averaged.folder / "experiment.yaml", out=tmp_path / "run", force=True, reporter=Stopping("verdict"))
    for stage in ("bundle", "report"):
        with pytest.raises(Stopped):
            luthier.resume(tmp_path / "run", reporter=Stopping(stage))
    resumed = luthier.resume(tmp_path / "run")
    assert hashes(resumed.folder) == hashes(averaged.folder)
    assert resumed.verdict is not None and averaged.verdict is not None
    for name in ("ships", "why", "difference", "base", "trivial"):
        assert resumed.verdict[name] == averaged.verdict[name]


def test_where_the_budget_cut_the_training_the_verdict_says_so_and_names_one_that_would_be_enough(
    bases, table: Path, tmp_path: Path
) -> None:
    said: list[str] = []

    class Listening(NullReporter):
        def finding(self, finding: Any) -> None:
            said.append(f"{finding.claim} {finding.remedy}")

    run = ran(
        table, bases("bert", 2), tmp_path / "run", "training.dtype=float32", "training.epochs=20000", "optimizer.lr=1e-9", "training.patience=100000",
        budget="25s", watchers=[lambda step: None], reporter=Listening(),
    )  # fmt: skip
    verdict: Any = run.verdict
    assert verdict["ships"] == "probe"
    assert verdict["cut"]["steps"] < verdict["cut"]["wanted"]
    assert verdict["cut"]["enough"] > verdict["cut"]["budget"]
    assert "which is the likely reason" in said[-1]
    assert "cut the training to" in (run.folder / "report.html").read_text()
