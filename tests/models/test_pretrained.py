"""Bases with a head of their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.models.pretrained import load_classifier, load_tokenizer
from luthier.models.store import inspect
from tests.conftest import rows as table
from tests.models.test_hidden_states import batch_of


@pytest.mark.parametrize("family", ["gemma3_text", "qwen2"])
def test_a_new_head_knows_nothing_also_where_the_last_norm_is_large_and_a_trained_one_stays(
    bases: Any, tmp_path: Path, family: str
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(bases(family).folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], 20.0)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "store.json").unlink(missing_ok=True)
    base = inspect(folder, "base")
    model = load_classifier(base, [str(number) for number in range(6)], "last", 0.0, 1).eval()
    read = load_tokenizer(base)([row["text"] for row in table()[:20]])["input_ids"]
    with torch.no_grad():
        said = model(batch_of(read)).log_softmax(-1)
    assert said.max() < -1.2  # log 6 is 1.79
    weights["score.weight"] = torch.full((6, weights["model.norm.weight"].shape[0]), 0.5)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    kept = load_classifier(inspect(folder, "base"), [str(number) for number in range(6)], "last", 0.0, 1)
    assert torch.equal(kept.network.score.weight, weights["score.weight"])
