"""An adapter of PEFT's, or a checkpoint of transformers' Trainer, as a base: the same numbers as there, and what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

import luthier
from luthier.core.errors import ModelError
from luthier.models.store import resolve
from tests.conftest import rows

TOKENS = torch.tensor([[1, 40, 41, 42, 43, 44, 2]])


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own."""
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


def adapt(base: Path, folder: Path, kind: Any = AutoModelForCausalLM, task: str = "CAUSAL_LM", **settings: Any) -> torch.Tensor:
    """An adapter with random weights as PEFT saves it; what its model says."""
    torch.manual_seed(3)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **settings}
    model = peft.get_peft_model(kind.from_pretrained(base), peft.LoraConfig(task_type=task, **settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.2
    model.save_pretrained(folder)
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
        {"lora_dropout": 0.3, "target_modules": ["v_proj"]},
    ],
)
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_folded_adapter_says_what_peft_says(family: str, settings: dict[str, Any], bases, tmp_path: Path) -> None:
    said = adapt(bases(family).folder, tmp_path / "adapter", **settings)
    told: list[str] = []
    base = resolve(str(tmp_path / "adapter"), told.append)
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(base.folder).eval()(TOKENS).logits
        before = AutoModelForCausalLM.from_pretrained(bases(family).folder).eval()(TOKENS).logits
    assert torch.allclose(ours, said, atol=1e-4) and not torch.allclose(before, said, atol=1e-2)
    assert any("is folded into" in line and "SHA-256" in line for line in told)
    note = json.loads((base.folder / "store.json").read_text())
    assert note["base"]["sha256"] == bases(family).fingerprint and len(note["adapter"]) == 64
    assert base.name == str(tmp_path / "adapter") and base.fingerprint == note["sha256"]


def test_what_was_folded_once_is_kept_and_made_anew_where_the_adapter_changes(bases, tmp_path: Path, store: Path) -> None:
    adapt(bases("llama").folder, tmp_path / "adapter")
    first = resolve(str(tmp_path / "adapter"))
    told: list[str] = []
    assert resolve(str(tmp_path / "adapter"), told.append) == first and told == []
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "adapter" / "adapter_model.safetensors")
    assert resolve(str(tmp_path / "adapter")).fingerprint != first.fingerprint
    assert len(list(store.iterdir())) == 2


def test_an_encoders_adapter_is_folded_and_its_head_is_left_to_the_new_rows(bases, tmp_path: Path) -> None:
    adapt(bases("bert").folder, tmp_path / "adapter", AutoModelForSequenceClassification, "SEQ_CLS", target_modules=["query", "value"])
    told: list[str] = []
    base = resolve(str(tmp_path / "adapter"), told.append)
    assert base.kind == "encoder"
    moved = load_file(base.folder / "model.safetensors")
    before = load_file(bases("bert").folder / "model.safetensors")
    changed = {name for name in moved if not torch.equal(moved[name], before[name])}
    assert changed >= {"bert.encoder.layer.0.attention.self.query.weight", "bert.encoder.layer.2.attention.self.value.weight"}
    assert all(".query." in name or ".value." in name or name.startswith("classifier") for name in changed)


def test_a_run_starts_from_an_adapter_and_from_that_of_a_bundle_of_ours(bases, tmp_path: Path) -> None:
    adapt(bases("llama").folder, tmp_path / "adapter")
    lines = [{"prompt": f"what about {number}?", "completion": row["text"]} for number, row in enumerate(rows(60))]
    run = luthier.run(
        lines,
        base=str(tmp_path / "adapter"),
        out=tmp_path / "run",
        force=True,
        set=["training.steps=1", "training.dtype=float32", "adaptation.kind=lora", "optimizer.lr=0.01"],
    )
    experiment = luthier.Experiment.load(run.folder / "experiment.yaml")
    assert (
        experiment.model.base == str(tmp_path / "adapter")
        and experiment.model.fingerprint == resolve(str(tmp_path / "adapter")).fingerprint
    )
    within = resolve(str(run.folder / "bundle" / "adapter"))
    one, two = load_file(within.folder / "model.safetensors"), load_file(run.folder / "bundle" / "model.safetensors")
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=1e-5) for name in two)


def test_a_bundles_adapter_is_refused_where_its_base_is_another_now(bases, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases("llama").folder, base)
    lines = [{"prompt": f"what about {number}?", "completion": row["text"]} for number, row in enumerate(rows(60))]
    run = luthier.run(lines, base=str(base), out=tmp_path / "run", force=True, set=["training.steps=1", "adaptation.kind=lora"])
    weights = load_file(base / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="was trained on other weights"):
        resolve(str(run.folder / "bundle" / "adapter"))


def other_base(folder: Path, bases: Callable[[str], Any]) -> None:
    set_config(folder, base_model_name_or_path=str(bases("bert").folder))


def other_shape(folder: Path, bases: Callable[[str], Any]) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: tensor[:, :16].contiguous() if "lora_A" in name else tensor for name, tensor in weights.items()},
        folder / "adapter_model.safetensors",
    )


def half(folder: Path, bases: Callable[[str], Any]) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if "lora_B" not in name}, folder / "adapter_model.safetensors")


def other_rank(folder: Path, bases: Callable[[str], Any]) -> None:
    set_config(folder, r=7)


def pickle_weights(folder: Path, bases: Callable[[str], Any]) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def set_config(folder: Path, **keys: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


FAULTS: dict[str, tuple[Callable[[Path, Callable[[str], Any]], Any], str]] = {
    "another architecture": (other_base, "made for another base than .* there is no layer"),
    "another width": (other_shape, "made for another base than .* in the adapter and .* in the base"),
    "half of it": (half, "half of the adapter of .* is missing"),
    "another rank": (other_rank, "has the rank 4 in its weights and 7"),
    "pickled weights": (pickle_weights, r"no adapter_model\.safetensors \(found: adapter_model\.bin\)"),
    "another method": (lambda folder, _: set_config(folder, peft_type="IA3"), "of the kind IA3"),
    "DoRA": (lambda folder, _: set_config(folder, use_dora=True), "with use_dora is not folded"),
    "biases": (lambda folder, _: set_config(folder, bias="all"), "with bias=all is not folded"),
    "no base": (lambda folder, _: set_config(folder, base_model_name_or_path=None), "does not say which base"),
    "itself": (lambda folder, _: set_config(folder, base_model_name_or_path=str(folder)), "names the adapter itself"),
    "a base that is gone": (
        lambda folder, _: set_config(folder, base_model_name_or_path="./gone"),
        "was made for ./gone, which is not to be had",
    ),
    "words for numbers": (lambda folder, _: set_config(folder, lora_alpha="much"), "gives no numbers"),
    "no JSON": (lambda folder, _: (folder / "adapter_config.json").write_text("{"), "is not valid JSON"),
    "a list": (lambda folder, _: (folder / "adapter_config.json").write_text("[]"), "is not valid JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_adapter_that_does_not_fit_is_refused_and_nothing_is_kept(fault: str, bases, tmp_path: Path, store: Path) -> None:
    spoil, message = FAULTS[fault]
    adapt(bases("llama").folder, tmp_path / "adapter")
    spoil(tmp_path / "adapter", bases)
    with pytest.raises(ModelError, match=message):
        resolve(str(tmp_path / "adapter"))
    assert not store.exists() or list(store.iterdir()) == []


def test_a_checkpoint_of_transformers_trainer_is_a_base(bases, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    folder = bases("llama").folder
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    lines = [{"input_ids": tokenizer(row["text"])["input_ids"][:8], "labels": tokenizer(row["text"])["input_ids"][:8]} for row in rows(8)]
    trainer = Trainer(model, TrainingArguments(str(tmp_path / "out"), max_steps=2, save_steps=1, per_device_train_batch_size=1, report_to=[], use_cpu=True),
                      train_dataset=lines, processing_class=tokenizer)  # type: ignore[arg-type]  # fmt: skip
    trainer.train()
    base = resolve(str(tmp_path / "out" / "checkpoint-2"))
    assert (base.folder / "trainer_state.json").is_file() and base.kind == "decoder"
    assert base.fingerprint != bases("llama").fingerprint
    with pytest.raises(ModelError, match=r"holds no config\.json") as caught:
        resolve(str(tmp_path / "out"))
    assert "checkpoint-2 is the newest checkpoint" in str(caught.value)
    data = [{"prompt": f"what about {number}?", "completion": row["text"]} for number, row in enumerate(rows(60))]
    run = luthier.run(data, base=str(base.folder), out=tmp_path / "run", force=True, set=["training.steps=1"])
    assert run.verdict is not None
