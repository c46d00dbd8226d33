"""Bases beside the first ones: each is trained, adapted, shipped and opened by transformers as they are, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
)

import luthier
from luthier.adaptation.freeze import Freeze
from luthier.adaptation.lora import Lora
from luthier.core.errors import ExperimentError, ModelError
from luthier.models.base import DECODERS, ENCODERS, TRANSLATORS, VISION, Base
from luthier.models.masked import load_masked
from luthier.models.pretrained import load_classifier, load_generator, load_tokenizer
from luthier.models.store import inspect
from luthier.models.token_labels import load_token_classifier
from luthier.training.assemble import assemble
from tests.conftest import rows
from tests.models.test_packed import LENGTHS, batch_of
from tests.training.test_steps import class_loss, close, experiment, plain_loop, weights_after

READERS = ("modernbert", "ernie")
WRITERS = ("gemma", "olmo2", "gpt2", "gpt_neox")


def row_by_row(batch: Any) -> list[torch.Tensor]:
    return [tokens[None] for tokens in batch.flat["tokens"].split(batch.lengths.tolist())]


@pytest.mark.parametrize("family", READERS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_two_steps_equal_a_plain_loop(bases: Any, records: Any, family: str, pooling: str) -> None:
    base = bases(family)
    if family == "ernie" and pooling == "mean":
        pytest.skip("transformers' own head reads the first token")
    asked = experiment("classification", base.name, training__micro_batch_tokens=60, objective__pooling=pooling)
    work = assemble(asked, base, load_tokenizer(base), {"train": records[:40], "validation": records[40:]})
    plain = AutoModelForSequenceClassification.from_pretrained(base.folder, num_labels=2, attn_implementation="eager")
    plain.config.classifier_pooling = pooling
    plain.load_state_dict(work.model.network.state_dict())
    plain_loop(work, plain, 2, class_loss)
    weights_after(work, 2)
    close(dict(work.model.network.named_parameters()), dict(plain.named_parameters()), 1e-5)


@pytest.mark.parametrize("family", READERS)
def test_hidden_tokens_and_labels_of_tokens_are_scored_as_transformers_does(bases: Any, family: str) -> None:
    base, batch = bases(family), batch_of(LENGTHS, 200)
    masked: Any = load_masked(base, 0.0, 1).eval()
    tagged: Any = load_token_classifier(base, ["a", "b"], 0.0, 1).eval()
    for ours, kind in ((masked, AutoModelForMaskedLM), (tagged, AutoModelForTokenClassification)):
        plain: Any = kind.from_pretrained(base.folder, attn_implementation="eager").eval()
        plain.load_state_dict(ours.network.state_dict())
        with torch.no_grad():
            said = ours.guess(ours.hidden_states(batch)) if ours is masked else ours(batch)
            expected = torch.cat([plain(input_ids=tokens).logits[0] for tokens in row_by_row(batch)])
        assert torch.allclose(said, expected, atol=1e-5)


def test_a_modernbert_looks_as_far_in_its_local_layers_with_dropout_on_attention_as_without(bases: Any) -> None:
    batch, found = batch_of(LENGTHS, 200), []
    for dropout in (0.0, 1e-9):  # the second goes the way of dropout, and drops nothing
        model = load_classifier(bases("modernbert"), ["a", "b"], "mean", dropout, seed=3).train()
        with model.dropout_keys.set_keys(1, 0, batch.index, batch.lengths):
            model(batch).square().sum().backward()
        found.append([each.grad for each in model.network.parameters() if each.grad is not None])
    assert len(found[0]) == len(found[1])
    assert all(torch.allclose(one, two, rtol=1e-4, atol=1e-4 * float(one.abs().max()) + 1e-6) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("family", [*READERS, *WRITERS])
def test_the_norm_behind_the_last_block_moves_with_it_and_what_lies_below_stays(bases: Any, family: str) -> None:
    model = load_classifier(bases(family), ["a", "b"], "last" if family in WRITERS else "cls", 0.1, 0)
    Freeze(depth=2).attach(model)
    moving = {name for name, each in model.network.named_parameters() if each.requires_grad}
    norm = {"modernbert": "model.final_norm", "gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}.get(family, "model.norm")
    assert family == "ernie" or f"{norm}.weight" in moving
    assert not [name for name in moving if "embed" in name or "wte" in name or "wpe" in name]
    above = {f"{name}." for name, module in model.network.named_modules() if module is model.blocks[2]}
    assert {name for name in moving if any(name.startswith(each) for each in above)}
    assert not [name for name, module in model.network.named_modules() if module in list(model.blocks)[:2] and module.training]


def test_adapters_of_gpt2_are_refused_for_its_layers_are_turned_around(bases: Any) -> None:
    model = load_generator(bases("gpt2"), 0.0)
    with pytest.raises(ExperimentError, match="adapters stand beside linear layers, and the blocks of GPT2LMHeadModel have none"):
        Lora(rank=2).attach(model)
    for family in ("modernbert", "ernie"):
        Lora(rank=2).attach(load_classifier(bases(family), ["a", "b"], "cls", 0.0, 0))
    for family in ("gemma", "olmo2", "gpt_neox"):
        Lora(rank=2).attach(load_generator(bases(family), 0.0))


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("family", READERS)
def test_a_run_ships_what_transformers_reads_alike(bases: Any, tmp_path: Path, family: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, "text": f"{row['text']} {n}"}) + "\n" for n, row in enumerate(rows(120))))
    run = luthier.run(file, base=str(bases(family).folder), out=tmp_path / "run", force=True,
                      set=["training.epochs=2", "optimizer.lr=1e-3", "adaptation.kind=lora", "adaptation.rank=4", "training.ships=trained", "training.dtype=float32"])  # fmt: skip
    assert not [proof["name"] for proof in run.json("proofs.json")["proofs"] if proof["held"] is False]
    texts = ["the phone number 3 was good", "bad"]
    theirs = pipeline("text-classification", model=str(run.folder / "bundle"), top_k=None)(texts)
    for mine, other in zip(luthier.predict(run.folder, texts), list[Any](theirs), strict=True):
        assert mine["probabilities"] == pytest.approx({one["label"]: one["score"] for one in other}, abs=1e-5)
    luthier.export(run.folder, to="safetensors", out=tmp_path / "safetensors")


@pytest.mark.parametrize("family", WRITERS)
def test_what_writes_text_writes_what_transformers_writes(bases: Any, family: str) -> None:
    base = bases(family)
    model = load_generator(base, 0.0).eval()
    plain: Any = AutoModelForCausalLM.from_pretrained(base.folder).eval()
    ids = torch.arange(5, 15)[None]
    with torch.no_grad(), model.for_generation() as network:
        ours, theirs = (each.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0) for each in (network, plain))
    assert torch.equal(ours, theirs)


def test_an_architecture_that_cannot_be_loaded_is_told_those_that_can_the_nearest_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "modernbert-decoder"}))
    with pytest.raises(ModelError, match="the architecture 'modernbert-decoder' cannot be loaded") as problem:
        inspect(tmp_path, "base")
    remedy = problem.value.remedy
    assert remedy.startswith("did you mean 'modernbert'? these can: to read texts: bert")
    assert all(name in remedy for name in (*ENCODERS, *DECODERS, *TRANSLATORS, *VISION))


@pytest.mark.parametrize(("family", "config", "size"), [
    ("gpt2", {"n_layer": 12, "n_embd": 768}, (12, 768)),
    ("t5", {"num_layers": 6, "num_decoder_layers": 6, "d_model": 512}, (12, 512)),
    ("efficientnet", {"num_hidden_layers": 64, "num_block_repeats": [1, 2, 2, 3, 3, 4, 1], "hidden_dim": 1280}, (7, 1280)),
])  # fmt: skip
def test_how_deep_and_wide_a_base_is_is_read_of_its_configuration(
    tmp_path: Path, family: str, config: dict[str, Any], size: tuple[int, int]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **config}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    found: Base = inspect(tmp_path, "base")
    assert (found.blocks, found.width) == size
