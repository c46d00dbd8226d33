"""An export that says something else than the trainer is found, at the stage where it begins to; one that says the same is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.export_faults import FAULTS, plant

import luthier
from luthier.core.types import Scores
from luthier.delivery.exports.transformers_folder import TransformersFolder
from luthier.delivery.parity.metric import compare_metric
from luthier.delivery.parity.record import ParityRecord, StageResult
from luthier.delivery.parity.tolerances import TOLERANCES, tolerance_of
from luthier.delivery.parity.writers import Greedy, compare_log_probabilities

MOST = 2
DTYPES = ("fp32", "bf16")
"""What healthy exports are rounded to: bf16 must hide no fault that fp32 shows."""
REASONS = {
    "double beginning token (tokenizer)": "double beginning token",
    "double beginning token (template)": "double beginning token",
    "end token lost": "end token was lost",
    "adapters not merged": "adapters were",
    "merged in the wrong dtype": "precision",
    "quantised twice": "quantised before",
    "untied embeddings": "no longer tied",
    "adapter prefix mismatch": "prefix of the adapters",
    "RoPE scale changed": "rope_theta",
    "label order changed": "in another order",
    "temperature lost": "temperature",
    "position offset": "positions were moved",
    "pooling changed": "1_Pooling/config.json",
    "lower-casing changed": "lower-cases texts",
}
"""Fault → what is said of its reason."""


@pytest.fixture(scope="module")
def healthy(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name of a run and a dtype → its healthy export, made once, and the record of its proof."""
    made: dict[tuple[str, str], tuple[Path, dict[str, Any]]] = {}
    folder = tmp_path_factory.mktemp("healthy")

    def one(name: str, dtype: str) -> tuple[Path, dict[str, Any]]:
        if (name, dtype) not in made:
            done = luthier.export(runs(name).folder, to="safetensors", out=folder / f"{name}-{dtype}", dtype=dtype, most=MOST)
            assert done.parity is not None
            made[name, dtype] = done.folder, done.parity
        return made[name, dtype]

    before, TransformersFolder.apart = TransformersFolder.apart, False
    yield one
    TransformersFolder.apart = before


@pytest.mark.parametrize("name", ["chat", "classes", "vectors"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_healthy_export_is_left_alone(healthy: Any, name: str, dtype: str) -> None:
    _, record = healthy(name, dtype)
    assert record["same"] and record["verdict"] == "same" and record["stage"] is None
    assert record["rows"].startswith(f"{MOST} of "), "not all rows were compared"
    states = {stage["name"]: stage["state"] for stage in record["stages"]}
    metric = states.pop("metric")  # as the export is used: of two rows rounding that was asked for is told, and not judged
    assert set(states.values()) == {"same"}, record["stages"]
    assert metric == "same" or (metric == "unseen" and dtype == "bf16"), record["stages"]
    assert list(states)[:4] == ["rendered text", "token ids", "weights", "log-probabilities"]
    (numbers,) = (stage for stage in record["stages"] if stage["name"] == "log-probabilities")
    assert numbers["allowed"] == pytest.approx(1e-4 if name != "chat" else 5e-4), "rounding was not taken off both sides"
    assert ("in bfloat16, " in record["rounding"]) == (dtype == "bf16")
    if dtype == "fp32":
        assert record["metric"]["low"] <= record["metric"]["export"] <= record["metric"]["high"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_found_at_its_stage(runs: Any, healthy: Any, tmp_path: Path, fault: str, dtype: str) -> None:
    name = FAULTS[fault].runs
    plant(fault, healthy(name, dtype)[0], tmp_path / "planted", runs(name).folder / "bundle")
    record = luthier.parity(runs(name).folder, tmp_path / "planted", most=MOST)
    assert not record["same"], record["stages"]
    assert record["stage"] == FAULTS[fault].stage, record["verdict"]
    assert REASONS.get(fault, "") in record["reason"] != "", record["verdict"]
    assert record["changed"], "the files are not those that were written"
    assert json.loads((tmp_path / "planted" / "parity.json").read_text())["stage"] == record["stage"]


@pytest.mark.usefixtures("in_this_process")
def test_weights_rounded_to_bfloat16_once_are_no_fault(runs: Any, tmp_path: Path) -> None:
    done = luthier.export(runs("classes").folder, to="safetensors", out=tmp_path / "half", dtype="bf16", most=MOST)
    assert done.precision == "bfloat16" and done.parity is not None and done.parity["same"]
    assert any("bfloat16" in loss for loss in done.losses)


def scores(right: list[int]) -> Scores:
    target = np.zeros(len(right), dtype=int)
    shares = np.array([[0.9, 0.1] if each else [0.1, 0.9] for each in right])
    return Scores(-np.log(shares[:, 0]), np.ones(len(right)), target, shares, labels=("a", "b"))


def test_a_metric_that_leaves_the_interval_parts_and_one_inside_does_not() -> None:
    ours = scores([1] * 90 + [0] * 10)
    same, measured = compare_metric(ours, scores([1] * 88 + [0] * 12), "accuracy")
    assert same.state == "same" and measured["low"] < 0.88 < measured["high"]
    assert measured["difference"]["value"] == pytest.approx(-0.02)
    parts, _ = compare_metric(ours, scores([1] * 60 + [0] * 40), "accuracy")
    assert parts.state == "parts" and parts.largest == pytest.approx(0.3)


@pytest.mark.parametrize(("count", "said"), [(1, "1 row is too few"), (9, "9 rows are too few")])
def test_a_metric_on_a_few_rows_is_unseen_with_the_reason_where_it_differs_and_same_where_it_does_not(count: int, said: str) -> None:
    ours = scores([1] * count)
    theirs = Scores(ours.loss + 0.02, ours.count, ours.target, ours.probabilities, labels=ours.labels)
    found, measured = compare_metric(ours, theirs, "loss")
    assert found.state == "unseen" and said in found.detail and measured["export"] == pytest.approx(measured["trainer"] + 0.02)
    assert compare_metric(ours, ours, "loss")[0].state == "same"
    broken = Scores(ours.loss * np.nan, ours.count, ours.target, ours.probabilities, labels=ours.labels)
    assert compare_metric(ours, broken, "loss")[0].state == "parts"


def test_the_parts_of_one_document_are_no_interval_either() -> None:
    ours = Scores(np.full(50, 2.0), np.ones(50), groups=np.zeros(50, dtype=int))
    theirs = Scores(np.full(50, 2.04), np.ones(50), groups=np.zeros(50, dtype=int))
    found, _ = compare_metric(ours, theirs, "loss")
    assert found.state == "unseen" and "1 document is too few" in found.detail


def test_one_row_is_written_as_one_row() -> None:
    assert (
        "1 row " in ParityRecord((StageResult("metric", "same", 1, 0.0, None, "of loss", "the same"),), "x", "float32", "1 row").lines()[1]
    )


def test_log_probabilities_that_are_no_numbers_part() -> None:
    ours = [np.array([-1.0, -2.0]), np.array([-3.0])]
    found = compare_log_probabilities(ours, [np.array([-1.0, np.nan]), np.array([-3.0])], [4, 9], TOLERANCES["float32"])
    assert found.state == "parts" and found.largest == float("inf") and "row 4" in found.detail
    assert compare_log_probabilities(ours, ours, [4, 9], TOLERANCES["float32"]).state == "same"


def test_what_llama_cpp_computes_otherwise_in_fp32_is_allowed_to_it_alone() -> None:
    plain, there = tolerance_of("float32", "transformers 5"), tolerance_of("float32", "llama.cpp (b1)")
    assert plain is TOLERANCES["float32"] and there.log_probability > plain.log_probability
    assert tolerance_of("q8_0", "llama.cpp (b1)") is TOLERANCES["q8_0"]


def test_two_tokens_are_a_tie_within_what_an_exact_form_moves_at_most_and_a_coarser_one_in_the_mean() -> None:
    exact, coarse = TOLERANCES["float32"], TOLERANCES["q8_0"]
    assert exact.tie == 2 * exact.log_probability and coarse.tie == 2 * coarse.mean < coarse.log_probability


def test_many_small_differences_part_although_none_is_large() -> None:
    ours = [np.full(100, -1.0)]
    apart = [ours[0] + TOLERANCES["float32"].mean * 1.5]
    assert compare_log_probabilities(ours, apart, [1], TOLERANCES["float32"]).state == "parts"


class Letters:
    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(97 + token) for token in tokens)


class Asked:
    tokenizer = Letters()


@pytest.mark.parametrize(
    ("theirs", "margin", "state", "said"),
    [
        ([1, 2, 0], 0.0, "same", "1 of 1 answers have the same tokens"),
        ([1, 3, 0], 1e-4, "same", "within rounding of each other"),
        ([1, 3, 0], 1.0, "parts", "row 7, token 2: the trainer writes 'c', the export 'd'"),
        ([1, 2, 0, 5], 0.0, "parts", "goes on behind the token that ends an answer"),
        ([1], 0.0, "parts", "stops after 1 tokens"),
    ],
)
def test_answers_are_compared_token_by_token(theirs: list[int], margin: float, state: str, said: str) -> None:
    found = Greedy(Asked(), 0, TOLERANCES["float32"])  # type: ignore[arg-type]
    found.compare(7, [1, 2, 0], theirs, lambda begun: np.where(np.arange(9) == 2, -0.5, -0.5 - margin))
    result = found.result(1)
    assert result.state == state and said in result.detail


def test_a_stage_that_nobody_could_look_at_is_not_passed_and_nothing_looked_at_is_not_the_same() -> None:
    unseen = StageResult("weights", "unseen", detail="why")
    assert not ParityRecord((unseen,), "x", "float32", "").same
    record = ParityRecord((unseen, StageResult("metric", "parts", largest=float("nan"))), "x", "float32", "")
    assert "unseen" in "\n".join(record.lines())
    json.loads(json.dumps(record.as_data(), allow_nan=False))
