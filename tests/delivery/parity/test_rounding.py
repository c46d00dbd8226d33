"""Rounding that was asked for is no fault: it is taken off both sides before they are compared, and what it costs is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import luthier
from luthier.core.types import Record, Scores
from luthier.delivery.exports.gguf import FILE, Gguf
from luthier.delivery.exports.gguf_read_back import ReadBack
from luthier.delivery.parity.check import check_parity
from luthier.delivery.parity.metric import compare_metric, describe_rounding
from luthier.delivery.parity.tolerances import TOLERANCES
from luthier.models.base import Base
from luthier.pilot.export import PartsError
from tests.conftest import rows
from tests.delivery.exports.gguf_bundles import as_bundle, make_bundle

ROWS = [{"prompt": f"what about {number}?", "completion": row["text"]} for number, row in enumerate(rows(12))]
LARGE = 4.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A decoder in fp32 whose weights are so large that rounding them to bf16 moves its log-probabilities by more than was once allowed."""
    folder = tmp_path_factory.mktemp("large") / "bundle"
    make_bundle(folder, "llama", hidden_size=64)
    state = load_file(folder / "model.safetensors")
    larger = {name: tensor * LARGE if tensor.ndim == 2 else tensor for name, tensor in state.items()}
    save_file(larger, folder / "model.safetensors", metadata={"format": "pt"})
    return as_bundle(folder, "chat")


def export(bundle: Base, out: Path) -> dict[str, Any]:
    try:
        done = luthier.export(bundle.folder, to="safetensors", dtype="bf16", out=out, rows=ROWS)
    except PartsError as problem:
        return problem.record
    assert done.parity is not None
    return done.parity


def stage(record: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in record["stages"] if each["name"] == name)


@pytest.mark.usefixtures("in_this_process")
def test_a_decoder_that_rounding_moves_far_raises_no_alarm_and_what_it_costs_is_said(bundle: Base, tmp_path: Path) -> None:
    record = export(bundle, tmp_path / "out")
    assert record["same"], record["verdict"]
    numbers, measured = stage(record, "log-probabilities"), record["metric"]
    assert numbers["largest"] <= TOLERANCES["float32"].log_probability == numbers["allowed"]
    assert measured["trainer"] != measured["rounded"] != measured["export"] != measured["trainer"], "the cost is that of rounding alone"
    assert abs(measured["rounded"] - measured["trainer"]) > TOLERANCES["float32"].mean, (
        "rounding moves nothing here: the test shows nothing"
    )
    assert record["rounding"].startswith(f"in bfloat16, loss goes from {measured['trainer']:.4g} to {measured['export']:.4g}")


@pytest.mark.usefixtures("in_this_process")
def test_weights_that_are_near_but_not_the_bundles_rounded_once_are_found_in_bf16(bundle: Base, tmp_path: Path) -> None:
    export(bundle, tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    state = load_file(file)
    name = next(name for name in state if name.endswith("mlp.up_proj.weight"))
    whole = load_file(bundle.folder / "model.safetensors")[name]
    state[name] = whole.to(torch.float8_e5m2).to(torch.bfloat16)  # rounded twice
    save_file(state, file, metadata={"format": "pt"})
    record = luthier.parity(bundle.folder, tmp_path / "out", rows=ROWS)
    assert record["stage"] == "weights" and stage(record, "log-probabilities")["state"] == "parts"
    assert record["rounding"] == "", "the fault's cost was said to be that of rounding"


@pytest.mark.usefixtures("in_this_process")
def test_weights_that_are_in_bf16_already_are_compared_as_they_are(bundle: Base, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", "llama")
    state = load_file(tmp_path / "bundle" / "model.safetensors")
    save_file({name: tensor.bfloat16().float() for name, tensor in state.items()}, tmp_path / "bundle" / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    record = export(as_bundle(tmp_path / "bundle", "chat"), tmp_path / "out")
    assert record["same"] and "rounded" not in record["metric"]
    assert stage(record, "log-probabilities")["allowed"] == TOLERANCES["float32"].log_probability
    assert "in bfloat16, loss" in record["rounding"], "computing in bf16 has its cost too"


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "q8_0"])
def test_a_gguf_file_that_is_read_back_is_compared_with_weights_that_are_rounded_as_its_own(
    bundle: Base, chats: list[Record], tmp_path: Path, precision: str
) -> None:
    Gguf().write(bundle, tmp_path, precision, lambda line: None)
    runtime = ReadBack(tmp_path / FILE)
    record = check_parity(bundle, runtime, chats[:12])
    assert record.same, record.lines()
    (numbers,) = (each for each in record.stages if each.name == "log-probabilities")
    assert numbers.allowed == TOLERANCES["float32"].log_probability
    assert record.metric["rounded"] == pytest.approx(record.metric["export"], abs=1e-4) != record.metric["trainer"]
    assert record.rounding.startswith(f"in {precision}, loss goes from")


def scores(right: int, count: int) -> Scores:
    shares = np.array([[0.9, 0.1]] * right + [[0.1, 0.9]] * (count - right))
    return Scores(-np.log(shares[:, 0]), np.ones(count), np.zeros(count, dtype=int), shares, labels=("a", "b"))


@pytest.mark.parametrize(
    ("trained", "exported", "count", "said"),
    [
        (90, 80, 100, r"in int8, accuracy goes from 0\.9 to 0\.8: worse by 0\.1 \[0\.0\d+, 0\.1\d*\], more than chance explains"),
        (90, 89, 100, r"worse by 0\.01 \[-?0, 0\.0\d\], which chance explains too"),
        (89, 90, 100, r"better by 0\.01 \["),
        (90, 90, 100, r"in int8, accuracy stays 0\.9 on these rows"),
        (9, 5, 9, r"worse by 0\.44, on too few rows to tell it from chance"),
    ],
)
def test_what_rounding_costs_is_a_sentence_with_its_interval(trained: int, exported: int, count: int, said: str) -> None:
    import re

    _, measured = compare_metric(scores(trained, count), scores(exported, count), "accuracy")
    assert re.search(said, describe_rounding(measured, "int8")), describe_rounding(measured, "int8")


def test_a_metric_that_rounding_alone_ruins_is_told_apart_from_a_fault() -> None:
    from luthier.delivery.parity.reasons import explain

    class Asked:
        bundle = None

    for rounded, said in ((61, "the trainer's own, rounded as they are, come to 0.61"), (90, "small differences of many rows")):
        parts, measured = compare_metric(scores(90, 100), scores(60, 100), "accuracy", scores(rounded, 100))
        assert parts.state == "parts" and said in explain(parts, Asked(), None)  # type: ignore[arg-type]
        assert f"({rounded / 100:.4g} with the weights alone rounded)" in describe_rounding(measured, "int8")
