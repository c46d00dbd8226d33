"""Cross-validation on the rows that are not sealed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.core.errors import ExperimentError
from luthier.core.finding import Finding
from luthier.core.run import Run
from tests.conftest import rows

SET = ("training.steps=6", "training.evaluations_per_epoch=1")


def ask(bases: Any, tmp_path: Path, *more: str, out: str = "run") -> Run:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({**row, "day": f"2026-01-{1 + number % 28:02}"}) + "\n" for number, row in enumerate(rows(90))))
    return luthier.run(
        data, base=str(bases("bert").folder), target="label", input="text", set=[*SET, *more], force=True, out=tmp_path / out
    )


def test_each_fold_validates_once_the_sealed_rows_stay_sealed_and_the_model_is_the_same(bases, tmp_path: Path) -> None:
    run = ask(bases, tmp_path, "data.folds=3")
    plain = ask(bases, tmp_path, out="plain")
    told = run.events_named("fold")
    assert [event["fold"] for event in told] == [1, 2, 3]
    unsealed = 90 - next(event["rows"] for event in run.events_named("test_opened"))
    assert sum(event["rows"] for event in told) == unsealed
    events = [line["event"] for line in run.lines("events.jsonl")]
    assert events.index("crossed") < events.index("test_opened")
    assert run.verdict is not None
    assert run.verdict["test_opened"] == 1
    found: Finding = next(each for each in run.findings if each.check == "folds")
    values = found.evidence["values"]
    assert values == [event["best"]["accuracy"] for event in told]
    assert found.evidence["mean"] == pytest.approx(sum(values) / 3)
    weights = [each.folder / "bundle" / "model.safetensors" for each in (run, plain)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert list((run.folder / "folds").rglob("metrics.jsonl"))
    assert not list((run.folder / "folds").rglob("model.safetensors"))


def test_a_run_stopped_between_folds_does_none_of_them_twice(bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import luthier.pilot.stages.cross_validation as place

    own, done = place._fit_fold, []

    def fit(context: Any, experiment: Any, number: int, *more: Any) -> Any:
        if number == 2 and done == [1]:
            raise KeyboardInterrupt
        done.append(number)
        return own(context, experiment, number, *more)

    monkeypatch.setattr(place, "_fit_fold", fit)
    with pytest.raises(KeyboardInterrupt):
        ask(bases, tmp_path, "data.folds=3")
    done.append(0)
    run = luthier.resume(tmp_path / "run")
    assert done == [1, 0, 2, 3]
    assert run.verdict is not None


def test_folds_that_cannot_be_are_refused_with_their_remedy(bases, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="too few for 20 folds"):
        ask(bases, tmp_path, "data.folds=20")
    with pytest.raises(ExperimentError, match="mix old and new"):
        ask(bases, tmp_path, "data.folds=3", "data.time=day", out="other")
