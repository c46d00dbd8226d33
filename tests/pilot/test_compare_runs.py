"""Comparing runs: what differs, the paired difference on shared test rows, and when there is none to be had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import luthier
from luthier.core.errors import ExperimentError, RunError
from luthier.core.run import Run
from luthier.core.types import Scores
from luthier.evaluation.compare import paired_interval
from luthier.experiment import Experiment
from luthier.pilot.compare_runs import difference_sentence, differing_fields, measure_difference, show_value
from luthier.pilot.stages.score_bundle import comparable_scores
from tests.conftest import rows

LINES = [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(rows(200))]


def write(file: Path, lines: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def learn(folder: Path, data: Path, base: str, *changes: str, **options: Any) -> Run:
    return luthier.run(data, base=base, out=folder, force=True, set=["training.steps=6", "optimizer.lr=0.003", *changes], **options)


@pytest.fixture(scope="module")
def trained(bases, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs on the same rows, on rows that are split otherwise, and on other rows."""
    folder = tmp_path_factory.mktemp("trained")
    base = str(bases("bert", 2).folder)
    data = write(folder / "rows.jsonl", LINES)
    return {
        "one": learn(folder / "one", data, base, "training.ships=trained"),
        "two": learn(folder / "two", data, base, "training.ships=probe", "model.dropout=0.2"),
        "split": learn(folder / "split", data, base, "data.split_seed=7", "training.steps=1", "training.ships=trained"),
        "other": learn(folder / "other", write(folder / "other.jsonl", [{"text": f"quite another {line['text'][::-1]}", "label": line["label"]} for line in LINES]),
                         base, "training.steps=1", "training.ships=trained"),
    }  # fmt: skip


def test_the_difference_is_the_paired_one_of_the_verdicts_rows(trained: dict[str, Run]) -> None:
    found = luthier.compare(trained["one"], trained["two"])
    assert found.refused == "" and found.data == []
    assert found.fields == {"model.dropout": [0.1, 0.2], "training.ships": ["trained", "probe"]}
    (difference,) = found.differences
    one, two = trained["one"].verdict, trained["two"].verdict
    assert one is not None and two is not None
    assert (difference.theirs, difference.ours) == pytest.approx((one["test"]["value"], two["test"]["value"]))
    assert difference.value == pytest.approx(two["test"]["value"] - one["test"]["value"])
    assert difference.rows == one["test"]["n"] and difference.low <= difference.value <= difference.high
    back = luthier.compare(trained["two"], trained["one"]).differences[0]
    assert (back.value, back.low, back.high) == pytest.approx((-difference.value, -difference.high, -difference.low))


def test_another_metric_can_be_asked_for(trained: dict[str, Run]) -> None:
    difference = luthier.compare(trained["one"], trained["two"], metric="log_loss").differences[0]
    one, two = trained["one"].verdict, trained["two"].verdict
    assert one is not None and two is not None
    assert difference.metric == "loss"
    assert difference.value == pytest.approx(one["test"]["loss"] - two["test"]["loss"], abs=1e-6)  # less is better
    with pytest.raises(ExperimentError, match="no metric 'acuracy'"):
        luthier.compare(trained["one"], trained["two"], metric="acuracy")


def test_rows_that_one_was_trained_on_are_left_out_and_counted(trained: dict[str, Run]) -> None:
    found = luthier.compare(trained["one"], trained["split"])
    seen = {part: {row for _, row in trained["split"].json("splits.json")["rows"][part]} for part in ("train", "validation", "test")}
    mine = {row for _, row in trained["one"].json("splits.json")["rows"]["test"]}
    leaked = len(mine & (seen["train"] | seen["validation"]))
    assert leaked and any(f"trained or chosen on {leaked} test row" in sentence for sentence in found.data)
    if len(mine & seen["test"]) < 10:
        assert "test rows are shared" in found.refused or "test row is shared" in found.refused
        assert found.differences == []
    else:
        assert found.differences[0].rows == len(mine & seen["test"])


def test_runs_that_share_no_test_rows_are_refused(trained: dict[str, Run]) -> None:
    found = luthier.compare(trained["one"], trained["other"])
    assert found.differences == [] and "no test row is shared" in found.refused
    assert "data.fingerprint.train" in found.fields  # what differs is told all the same


def test_given_test_rows_that_the_other_was_trained_on_are_refused(bases, tmp_path: Path) -> None:
    base = str(bases("bert", 2).folder)
    one = learn(
        tmp_path / "one",
        write(tmp_path / "a.jsonl", LINES[:100]),
        base,
        "training.steps=1",
        "training.ships=trained",
        test=write(tmp_path / "t.jsonl", LINES[100:140]),
    )
    two = learn(tmp_path / "two", write(tmp_path / "b.jsonl", LINES[40:140]), base, "training.steps=1", "training.ships=trained", "data.allow_leakage=true",
                  test=write(tmp_path / "u.jsonl", LINES[100:140]))  # fmt: skip
    found = luthier.compare(one, two)
    assert (
        "no test row is shared" in found.refused and f"{two.folder} was trained or chosen on 40 test rows of another run" in found.refused
    )
    assert found.differences == []


def test_rows_that_are_gone_or_changed_are_refused(trained: dict[str, Run], tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", LINES)
    places = []
    for name in ("one", "two"):
        place = tmp_path / name
        shutil.copytree(trained[name].folder, place)
        experiment = Experiment.load(place / "experiment.yaml").replace("data.path", str(file))
        (place / "experiment.yaml").write_text(experiment.yaml())
        places.append(place)
    assert luthier.compare(*places).differences
    write(file, LINES[:-1])
    assert "not the file this experiment was made for" in luthier.compare(*places).refused
    file.unlink()
    assert "cannot be had" in luthier.compare(*places).refused


def test_a_split_that_would_come_out_otherwise_today_is_refused(trained: dict[str, Run], tmp_path: Path) -> None:
    place = tmp_path / "one"
    shutil.copytree(trained["one"].folder, place)
    splits = json.loads((place / "splits.json").read_text())
    splits["rows"]["test"][0], splits["rows"]["train"][0] = splits["rows"]["train"][0], splits["rows"]["test"][0]
    (place / "splits.json").write_text(json.dumps(splits))
    assert "would be split otherwise today" in luthier.compare(place, trained["two"]).refused


def test_what_is_no_pair_of_finished_runs_is_refused(trained: dict[str, Run], tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="cannot be compared with itself"):
        luthier.compare(trained["one"])
    with pytest.raises(ExperimentError, match="named twice"):
        luthier.compare(trained["one"], trained["one"].folder / "bundle")
    planned = luthier.run(trained["one"].folder.parent / "rows.jsonl", out=tmp_path / "planned", plan_only=True)
    with pytest.raises(RunError, match="has no verdict yet"):
        luthier.compare(trained["one"], planned)
    with pytest.raises(RunError, match="there is no run"):
        luthier.compare(trained["one"], tmp_path / "nothing")


def test_three_runs_are_each_compared_with_the_first(trained: dict[str, Run], tmp_path: Path) -> None:
    shutil.copytree(trained["one"].folder, tmp_path / "copy")
    found = luthier.compare(trained["one"], trained["two"], tmp_path / "copy")
    assert [Path(each.run).name for each in found.differences] == ["two", "copy"]
    assert (found.differences[1].value, found.differences[1].low, found.differences[1].high) == (0, 0, 0)
    assert found.differences[1].word == "no evidence"
    assert "no evidence of a difference" in difference_sentence(found.differences[1])


def scores(right: list[int], labels: tuple[str, ...]) -> Scores:
    """Of rows whose class is the first, right or not."""
    probabilities = np.array([[0.9, 0.1] if one else [0.1, 0.9] for one in right])
    return Scores(-np.log(probabilities[:, 0]), np.ones(len(right)), np.zeros(len(right), int), probabilities, labels=labels)


def test_classes_in_another_order_are_brought_into_the_same() -> None:
    right = [1, 0] * 20
    one, other = scores(right, ("a", "b")), scores([0] * 40, ("a", "b"))
    assert other.probabilities is not None and other.target is not None
    turned = Scores(other.loss, other.count, 1 - other.target, other.probabilities[:, ::-1], labels=("b", "a"))
    found = measure_difference("two", turned, "one", one, "accuracy")
    assert (found.value, found.low, found.high) == paired_interval("accuracy", other, one)
    assert measure_difference("two", turned, "one", one, "f1:a").value == measure_difference("two", other, "one", one, "f1:a").value


def test_other_classes_are_refused() -> None:
    with pytest.raises(ExperimentError, match="do not know the same classes: only one of them knows 'b', 'c'"):
        comparable_scores("accuracy", scores([1, 0], ("a", "b")), scores([1, 0], ("a", "c")))


def test_losses_over_different_tokens_are_compared_by_their_bytes() -> None:
    few = Scores(np.array([4.0, 6.0]), np.array([2.0, 3.0]), bytes=np.array([10.0, 15.0]))
    many = Scores(np.array([3.0, 5.0]), np.array([6.0, 9.0]), bytes=np.array([10.0, 15.0]))
    assert comparable_scores("loss", few, many)[0] == "bits_per_byte"
    found = measure_difference("many", many, "few", few, "loss")
    assert found.metric == "bits_per_byte" and found.value == pytest.approx((10 - 8) / 25 / np.log(2))
    with pytest.raises(ExperimentError, match="counts tokens"):
        comparable_scores("loss", Scores(few.loss, few.count), Scores(many.loss, many.count))


def test_documents_cut_into_other_blocks_are_compared_document_by_document() -> None:
    one = Scores(np.array([1.0, 2.0, 3.0]), np.ones(3), bytes=np.array([1.0, 1.0, 2.0]), groups=np.array([0, 0, 1]))
    two = Scores(np.array([2.0, 2.0]), np.array([2.0, 1.0]), bytes=np.array([2.0, 2.0]), groups=np.array([0, 1]))
    metric, joined, _ = comparable_scores("bits_per_byte", one, two)
    assert (metric, joined.loss.tolist(), joined.bytes.tolist() if joined.bytes is not None else None) == (
        "bits_per_byte",
        [3.0, 3.0],
        [2.0, 2.0],
    )
    with pytest.raises(ExperimentError, match="makes more of the rows"):
        comparable_scores("accuracy", scores([1, 0, 1], ("a", "b")), scores([1, 0], ("a", "b")))


def test_fields_that_decide_nothing_are_left_out(trained: dict[str, Run]) -> None:
    one = Experiment.load(trained["one"].folder / "experiment.yaml")
    moved = one.replace("data.path", "/elsewhere/rows.jsonl").replace("training.micro_batch_tokens", 77)
    assert differing_fields([one, moved]) == {}
    newer = moved.model_copy(update={"environment": {**one.environment, "torch": "9.9"}})
    assert differing_fields([one, newer]) == {"environment.torch": [one.environment["torch"], "9.9"]}
    frozen = one.replace("adaptation.kind", "freeze")
    assert differing_fields([one, frozen])["adaptation.depth"] == [None, -1]
    assert [show_value(value) for value in (None, [], 0.00005, "x" * 100)] == ["–", "none", "5e-05", "x" * 59 + "…"]


def test_runs_of_chat_models_are_compared_by_their_loss(bases, tmp_path: Path) -> None:
    lines = [{"prompt": f"what about {number}?", "completion": row["text"]} for number, row in enumerate(rows(90))]
    data, base = write(tmp_path / "chat.jsonl", lines), str(bases("llama", 2).folder)
    one = learn(tmp_path / "one", data, base, "training.steps=2")
    two = learn(tmp_path / "two", data, base, "training.steps=8")
    difference = luthier.compare(one, two).differences[0]
    assert one.verdict is not None and two.verdict is not None and difference.metric == "loss"
    assert difference.value == pytest.approx(one.verdict["test"]["value"] - two.verdict["test"]["value"], abs=1e-5)
    assert luthier.compare(one, two, metric="bits_per_byte").differences[0].metric == "bits_per_byte"


def test_runs_of_other_families_have_no_metric_in_common(trained: dict[str, Run], bases, tmp_path: Path) -> None:
    numbers = write(tmp_path / "numbers.jsonl", [{"text": line["text"], "score": number / 10} for number, line in enumerate(LINES)])
    other = learn(tmp_path / "numbers", numbers, str(bases("bert", 2).folder), "training.steps=1", task="regression", target="score")
    assert "of other families (classification, regression)" in luthier.compare(trained["one"], other).refused
