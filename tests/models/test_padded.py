"""A network that packed rows have no way into is padded, and passes for one of ours everywhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

import luthier
from luthier.core.types import Batch
from luthier.models.encode import layer_vectors
from luthier.models.pretrained import load_classifier, load_tokenizer
from luthier.training.assemble import assemble
from tests.conftest import PADDED, rows
from tests.models.test_packed import LENGTHS, batch_of
from tests.training.test_steps import class_loss, close, experiment, plain_loop, weights_after


@pytest.mark.parametrize("family", PADDED)
def test_dropout_is_a_rows_own_whoever_is_beside_it(bases, family: str) -> None:
    model = load_classifier(bases(family), ["a", "b"], "mean", 0.3, seed=3).train()
    batch = batch_of(LENGTHS, 200)
    ends = batch.lengths.cumsum(0).tolist()
    with torch.no_grad(), model.dropout_keys.set_keys(1, 0, batch.index, batch.lengths):
        together = model.hidden_states(batch)
    for row, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        alone = Batch(batch.index[row : row + 1], batch.lengths[row : row + 1], {"tokens": batch.flat["tokens"][start:end]}, {})
        with torch.no_grad(), model.dropout_keys.set_keys(1, 0, alone.index, alone.lengths):
            assert torch.allclose(model.hidden_states(alone), together[start:end], atol=1e-5)
        with torch.no_grad(), model.dropout_keys.set_keys(1, 1, alone.index, alone.lengths):
            assert not torch.allclose(model.hidden_states(alone), together[start:end], atol=1e-3)


def test_heads_do_not_draw_the_same_mask(bases) -> None:
    model = load_classifier(bases("mpnet"), ["a", "b"], "mean", 0.5, seed=3).train()
    seen: list[torch.Tensor] = []
    dropout = model.network.mpnet.encoder.layer[0].attention.attn.dropout
    dropout.register_forward_hook(lambda module, given, made: seen.append(made == 0))
    batch = batch_of((30,), 200)
    with torch.no_grad(), model.dropout_keys.set_keys(1, 0, batch.index, batch.lengths):
        model.hidden_states(batch)
    heads = seen[0][0]  # (heads, length, length)
    assert heads.float().mean() == pytest.approx(0.5, abs=0.03)
    assert all(not torch.equal(heads[0], heads[other]) for other in range(1, len(heads)))


@pytest.mark.parametrize("family", PADDED)
def test_two_steps_equal_a_plain_loop(bases, records, family: str) -> None:
    base = bases(family)
    asked = experiment("classification", base.name, training__micro_batch_tokens=60)
    work = assemble(asked, base, load_tokenizer(base), {"train": records[:40], "validation": records[40:]})
    plain = AutoModelForSequenceClassification.from_pretrained(base.folder, num_labels=2, attn_implementation="eager")
    plain.load_state_dict(work.model.network.state_dict())
    plain_loop(work, plain, 2, class_loss)
    weights_after(work, 2)
    close(dict(work.model.network.named_parameters()), dict(plain.named_parameters()), 1e-5)


@pytest.mark.parametrize("family", PADDED)
def test_what_each_floor_makes_of_texts_is_the_mean_of_its_own_tokens(bases, family: str) -> None:
    base = bases(family)
    texts = ["the phone was good", "a bad meal", "the film number 3 was lovely indeed"]
    found = layer_vectors(base, texts)
    model: Any = AutoModelForSequenceClassification.from_pretrained(base.folder, attn_implementation="eager").eval()
    tokenizer = load_tokenizer(base)
    for text, floors in zip(texts, found, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = model.base_model(input_ids=ids, output_hidden_states=True).hidden_states
        assert np.allclose(floors, torch.stack([state[0].mean(0) for state in states]).numpy(), atol=1e-5)


@pytest.mark.parametrize("family", PADDED)
def test_a_run_says_that_rows_are_padded_and_ships_what_it_trained(bases, tmp_path: Path, family: str) -> None:
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({**row, "text": f"{row['text']} {n}"}) + "\n" for n, row in enumerate(rows(120)))
    )
    run = luthier.run(tmp_path / "rows.jsonl", base=str(bases(family).folder), out=tmp_path / "run", force=True,
                      set=["training.epochs=2", "optimizer.lr=1e-3", "adaptation.kind=freeze", "adaptation.depth=1", "training.ships=trained"])  # fmt: skip
    assert [event["family"] for event in run.events_named("padded")] == [family]
    proofs = {proof["name"]: proof["held"] for proof in run.json("proofs.json")["proofs"]}
    assert "a row moves only itself" not in proofs
    assert not [name for name, held in proofs.items() if held is False]
    texts = ["the phone number 3 was good", "bad"]
    ours = luthier.predict(run.folder, texts)
    theirs = pipeline("text-classification", model=str(run.folder / "bundle"), top_k=None)(texts)
    for mine, other in zip(ours, theirs, strict=True):
        expected = {one["label"]: one["score"] for one in other}
        assert mine["probabilities"] == pytest.approx(expected, abs=1e-5)
