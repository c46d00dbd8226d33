"""The verdict: two models on the same sealed rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.core.run import Run
from luthier.models.frozen_cache import FrozenLayerCache
from luthier.models.pretrained import PackedNetwork
from tests.data.test_malformed import sentence


@pytest.mark.parametrize("task", ["classification", "chat"])
def test_frozen_blocks_read_the_sealed_rows_once_for_both_models_and_the_verdict_is_the_same(
    task: str, bases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = [{"text": sentence(n), "label": ("yes", "no")[n % 2]} for n in range(120)]
    rows = classes if task == "classification" else [{"prompt": sentence(n), "completion": sentence(n + 500)} for n in range(120)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read: list[tuple[bool, tuple[int, ...]]] = []
    behind = PackedNetwork.hidden_states_at

    def count(self: PackedNetwork, batch: Any, depth: int) -> Any:
        read.append((bool(Run(tmp_path / "shared").events_named("test_opened")), tuple(batch.flat["tokens"].tolist())))
        return behind(self, batch, depth)

    monkeypatch.setattr(PackedNetwork, "hidden_states_at", count)

    def verdict(name: str) -> dict[str, Any]:
        changes = ["adaptation.kind=freeze", "adaptation.depth=2", "training.epochs=1", "training.dtype=float32"]
        run = luthier.run(tmp_path / "rows.jsonl", task=task, base=str(bases("llama").folder), out=tmp_path / name, set=changes, force=True)
        assert run.verdict is not None
        return run.verdict

    shared = verdict("shared")
    assert {late for late, _ in read} == {False, True}  # train and validation for the steps, test for the verdict
    assert len({tokens for _, tokens in read}) == len(read)
    monkeypatch.setattr(FrozenLayerCache, "of", lambda *_: None)  # every row through all blocks
    alone = verdict("alone")
    for part in ("test", "base"):
        assert shared[part]["value"] == pytest.approx(alone[part]["value"], abs=1e-5)
