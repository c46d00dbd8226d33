"""An adaptation moves only what it says, when it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from luthier.adaptation.adapter_files import save_adapter
from luthier.adaptation.lora_layer import LoraLinear, merge
from luthier.adaptation.select import matching
from luthier.core.errors import ExperimentError
from luthier.training.steps import steps
from tests.training.test_steps import work_for


def move(work: Any, count: int = 2) -> set[str]:
    before = {name: tensor.clone() for name, tensor in work.model.network.named_parameters()}
    for step in steps(work):
        if step.number == count:
            break
    return {name for name, tensor in work.model.network.named_parameters() if not torch.equal(tensor, before[name])}


CASES: list[tuple[dict[str, Any], Any]] = [
    ({"adaptation__kind": "full"}, lambda name: "word_embeddings" in name or True),
    ({"adaptation__kind": "freeze", "adaptation__depth": 2}, lambda name: "layer.2." in name or "classifier" in name or "pooler" in name),
    ({"adaptation__kind": "freeze"}, lambda name: "classifier" in name or "pooler" in name),
    ({"adaptation__kind": "gradual"}, lambda name: "classifier" in name or "pooler" in name),
    ({"adaptation__kind": "lora", "adaptation__rank": 4}, lambda name: "lora" in name or "classifier" in name or "pooler" in name),
    ({"adaptation__kind": "lora", "adaptation__targets": ["query", "value"]}, lambda name: ("lora" in name and ("query" in name or "value" in name)) or "classifier" in name or "pooler" in name),
]  # fmt: skip


@pytest.mark.parametrize("changes, allowed", CASES)
def test_an_adaptation_moves_only_what_it_says(bases, records, changes: dict[str, Any], allowed: Any) -> None:
    steps_of_run = 40 if changes["adaptation__kind"] == "gradual" else 4
    made = move(work_for(bases, records, "classification", training__steps=steps_of_run, **changes))
    assert made
    assert all(allowed(name) for name in made), [name for name in made if not allowed(name)]
    assert any("classifier" in name for name in made)


def test_full_moves_every_block(bases, records) -> None:
    made = move(work_for(bases, records, "classification"))
    for part in ("word_embeddings", "layer.0.", "layer.1.", "layer.2.", "classifier"):
        assert any(part in name for name in made), part


def test_gradual_unfreezing_frees_blocks_from_the_top_as_the_run_goes_on(bases, records) -> None:
    work = work_for(bases, records, "classification", adaptation__kind="gradual", training__steps=40)
    adaptation: Any = work.experiment.adaptation
    depths = [adaptation.frozen_blocks(work.model, share) for share in (0.01, 0.2, 0.3, 0.4, 0.5, 0.9)]
    assert depths == [3, 2, 2, 1, 0, 0]
    adaptation.on_progress(work.model, 0.2)
    moving = {name for name, parameter in work.model.network.named_parameters() if parameter.requires_grad}
    assert any("layer.2." in name for name in moving)
    assert not any("layer.1." in name for name in moving)
    assert "bert.embeddings.word_embeddings.weight" in work.masters.outer


def test_a_frozen_block_runs_in_eval_mode_and_stays_so_after_an_evaluation(bases, records) -> None:
    from luthier.evaluation.score import score

    work = work_for(bases, records, "classification", adaptation__kind="freeze", adaptation__depth=2, model__dropout=0.5)
    score(work.model, work.objective, work.validation)
    blocks = list(work.model.blocks)
    assert not any(module.training for block in blocks[:2] for module in block.modules())
    assert all(module.training for module in blocks[2].modules())
    assert not work.model.body.embeddings.training


def test_a_depth_that_the_base_does_not_have_is_an_error_that_names_its_blocks(bases, records) -> None:
    with pytest.raises(ExperimentError, match="has 3 blocks"):
        work_for(bases, records, "classification", adaptation__kind="freeze", adaptation__depth=7)


def test_a_pattern_that_matches_nothing_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ExperimentError, match="did you mean 'q_proj'"):
        matching(["layers.0.q_proj", "layers.0.k_proj"], ["q_prj"], "adaptation.targets")


def test_lower_layers_learn_more_slowly_and_the_head_at_its_own_rate(bases, records) -> None:
    work = work_for(bases, records, "classification", adaptation__layer_decay=0.5, optimizer__head_lr=1e-2)
    from luthier.training.assemble import lr_multipliers

    factor = lr_multipliers(work.model, work.experiment.optimizer, work.experiment.adaptation)
    assert factor("classifier.weight") == pytest.approx(10.0)
    found = [factor(f"bert.encoder.layer.{number}.output.dense.weight") for number in range(3)]
    assert found == [0.25, 0.5, 1.0]
    assert factor("bert.embeddings.word_embeddings.weight") == 0.125


@pytest.mark.parametrize("task", ["classification", "chat"])
def test_a_merged_adapter_gives_the_logits_of_the_unmerged_one(bases, records, chats, task: str) -> None:
    rows = records if task == "classification" else chats
    work = work_for(bases, rows, task, adaptation__kind="lora", optimizer__lr=1e-2)
    move(work)
    batch = work.objective.collate(work.train[:4], 0, 0)
    work.model.eval()
    with torch.no_grad():
        before = work.model.hidden_states(batch)
        merge(work.model.network)
        assert not any(isinstance(module, LoraLinear) for module in work.model.modules())
        assert torch.allclose(work.model.hidden_states(batch), before, atol=1e-5)


@pytest.mark.parametrize("task", ["classification", "chat"])
def test_an_adapter_written_by_us_loads_in_peft_and_gives_the_same_logits(bases, records, chats, task: str, tmp_path: Any) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    rows = records if task == "classification" else chats
    family = "bert" if task == "classification" else "llama"
    work = work_for(bases, rows, task, adaptation__kind="lora", adaptation__rank=4, optimizer__lr=1e-2)
    base_state = {
        name.replace(".base.", "."): tensor.clone() for name, tensor in work.model.network.state_dict().items() if "lora" not in name
    }
    move(work)
    spec: Any = work.experiment.adaptation
    head = ["classifier", "bert.pooler"] if task == "classification" else []
    kind = "SEQ_CLS" if task == "classification" else "CAUSAL_LM"
    save_adapter(work.model.network, spec, bases(family).name, kind, head, tmp_path / "adapter")
    loader = AutoModelForSequenceClassification if task == "classification" else AutoModelForCausalLM
    plain = loader.from_pretrained(bases(family).folder, **({"num_labels": 2} if head else {}))
    plain.load_state_dict(base_state)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    work.model.eval()
    example = work.train[0]
    batch = work.objective.collate([example], 0, 0)
    with torch.no_grad():
        ours = work.model(batch) if task == "classification" else work.model.network.lm_head(work.model.hidden_states(batch))
        expected = theirs(input_ids=torch.tensor([example.tokens])).logits
    assert torch.allclose(ours, expected.reshape(ours.shape), atol=1e-5)
