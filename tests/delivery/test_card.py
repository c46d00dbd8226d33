"""The card of a bundle says what a reader of it must know."""

from __future__ import annotations

from typing import Any

from luthier.delivery.card import write_card
from tests.training.test_steps import experiment

VERDICT: dict[str, Any] = {
    "metric": "accuracy", "higher_is_better": True, "verdict": "improved", "test_opened": 1,
    "test": {"value": 0.9, "low": 0.8, "high": 1.0, "n": 50}, "base": None, "trivial": {"name": "majority class", "value": 0.5, "low": 0.4, "high": 0.6},
    "difference": {"against": "trivial", "name": "majority class", "value": 0.4, "low": 0.3, "high": 0.5},
}  # fmt: skip


def test_a_run_that_was_resumed_with_other_rows_says_so_in_its_card() -> None:
    rows = {"train": 200, "validation": 30, "test": 50}
    exact = write_card(experiment("classification", "bert"), None, VERDICT, rows)
    assert "Resumed" not in exact
    changed = write_card(experiment("classification", "bert"), None, {**VERDICT, "inexact": ["data (train): was 0a1b…, is 2c3d…"]}, rows)
    assert (
        "- Resumed where something had changed, so that another run will not give the same bits: data (train): was 0a1b…, is 2c3d…\n- Rows"
        in changed
    )


def test_the_card_of_a_decoder_says_how_vllm_serves_it_and_no_other_does() -> None:
    rows = {"train": 200, "validation": 30, "test": 50}
    spec = experiment("chat", "llama")
    assert f"`vllm serve PATH --dtype {spec.training.dtype}` (vLLM)" in write_card(spec, None, {**VERDICT, "metric": "loss"}, rows)
    assert "vllm" not in write_card(experiment("classification", "bert"), None, VERDICT, rows)


def test_a_head_that_reads_the_mean_of_all_tokens_is_not_said_to_be_one_of_transformers() -> None:
    rows = {"train": 3, "validation": 2, "test": 2}
    native, mean = (
        write_card(experiment("classification", "bert", **fields), None, VERDICT, rows) for fields in ({}, {"objective__pooling": "mean"})
    )
    assert "or, without Luthier: `from transformers import pipeline" in native
    assert "without Luthier: `from transformers" not in mean
    assert "luthier export PATH --to onnx" in mean
