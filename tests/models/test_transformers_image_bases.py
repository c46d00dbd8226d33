"""Image networks of transformers as bases: their logits and their steps are transformers' own, whatever is frozen."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForImageClassification, pipeline

import luthier
from luthier.adaptation.freeze import Freeze, Gradual
from luthier.adaptation.lora import Lora
from luthier.core.errors import ExperimentError, ModelError
from luthier.models import vision
from luthier.models.base import Base
from luthier.models.encode import layer_means
from luthier.models.preprocessing import Preprocessing
from luthier.models.store import resolve
from tests.families.test_image_classification import write as write_shapes
from tests.models.test_image_bases import pixels

SIDE = 32
SMALL_ATTENTION: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "image_size": SIDE, "patch_size": 8,
}  # fmt: skip
SMALL_STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24], "depths": [1, 2, 1], "num_stages": 3, "image_size": SIDE}
SIZES: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 2, 1], "layer_type": "basic"},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 2, 1], "groups_width": 4},
    "convnext": SMALL_STAGES | {"drop_path_rate": 0.3, "layer_scale_init_value": 0.5},
    "convnextv2": SMALL_STAGES,
    "efficientnet": {
        "image_size": SIDE, "width_coefficient": 0.25, "depth_coefficient": 1.2, "hidden_dim": 320, "in_channels": [32, 16, 24], "out_channels": [16, 24, 40],
        "kernel_sizes": [3, 3, 5], "strides": [1, 2, 2], "num_block_repeats": [1, 2, 2], "expand_ratios": [1, 6, 6],
    },
    "vit": SMALL_ATTENTION | {"attention_probs_dropout_prob": 0.2},
    "dinov2": SMALL_ATTENTION | {"drop_path_rate": 0.3, "mlp_ratio": 2},
}  # fmt: skip
FAMILIES = tuple(SIZES)
NORMED = ("resnet", "regnet", "efficientnet")
"""They have batch norms."""


def make_base(folder: Path, family: str) -> Base:
    """A tiny network of a family with random weights, as the hub brings one: with classes of its own, and statistics that are not 0 and 1."""
    torch.manual_seed(0)
    network = AutoModelForImageClassification.from_config(AutoConfig.for_model(family, num_labels=3, **SIZES[family]))
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.2 if "running_var" in name else torch.randn_like(tensor) * 0.1)
                if family == "efficientnet" and tensor.ndim == 1 and name.endswith("weight"):
                    tensor.add_(1.0)  # transformers begins its batch norms near 0, so that nothing comes through
    network.save_pretrained(folder)
    Preprocessing(SIDE, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.2)).save_pretrained(folder)
    return resolve(str(folder))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("images")
    return functools.cache(lambda family: make_base(folder / family, family))


def load(base: Base, dropout: float = 0.0, labels: tuple[str, ...] = ("LABEL_0", "LABEL_1", "LABEL_2")) -> vision.ImageNetwork:
    return vision.load_network(base, labels, 3, dropout, 0, SIDE)


def plain_network(base: Base) -> Any:
    return AutoModelForImageClassification.from_pretrained(base.folder, attn_implementation="eager")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_are_those_of_transformers(bases: Any, family: str) -> None:
    base, batch = bases(family), pixels(4, SIDE)
    ours, plain = load(base).eval(), plain_network(base).eval()
    with torch.no_grad():
        said, expected = ours(batch), plain(pixel_values=ours.normalised_pixels(batch)).logits
    assert float(expected.std()) > 1e-3
    assert torch.allclose(said, expected, atol=1e-5)
    assert base.blocks == len(ours.blocks)
    assert base.width == (320 if family == "efficientnet" else 32 if family in ("vit", "dinov2") else 24)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_that_of_a_plain_loop(bases: Any, family: str) -> None:
    """Branches that the configuration leaves out by chance, and attention's own dropout, are switched off: both would draw from torch's generator."""
    base, batch, target = bases(family), pixels(6, SIDE), torch.tensor([0, 1, 2, 0, 1, 2])
    ours, plain = load(base).train(), plain_network(base).train()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = vision.BASE_MOMENTUM
        for name in ("drop_prob", "attention_dropout", "p"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    for network, logits in ((ours, ours(batch)), (plain, plain(pixel_values=ours.normalised_pixels(batch)).logits)):
        functional.cross_entropy(logits, target).backward()
        torch.optim.SGD([each for each in network.parameters() if each.grad is not None], lr=0.1).step()
    theirs = plain.state_dict()
    for name, tensor in ours.network.state_dict().items():
        assert torch.allclose(tensor.float(), theirs[name].float(), atol=1e-5), name


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_an_images_own_whoever_is_beside_it(bases: Any, family: str) -> None:
    network, batch = load(bases(family), 0.4).train(), pixels(5, SIDE)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # its statistics are those of all images together
    alone = replace(batch, index=batch.index[2:3], lengths=batch.lengths[2:3], each={"pixels": batch.each["pixels"][2:3]})
    with torch.no_grad():
        torch.manual_seed(1)
        with network.dropout_keys.set_keys(1, 0, batch.index, batch.lengths):
            together = network(batch)
        torch.manual_seed(2)
        with network.dropout_keys.set_keys(1, 0, alone.index, alone.lengths):
            assert torch.allclose(network(alone)[0], together[2], atol=1e-5)
        with network.dropout_keys.set_keys(1, 1, alone.index, alone.lengths):
            assert not torch.allclose(network(alone)[0], together[2], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adaptation", [Freeze(depth=2), Gradual(depth=2), Freeze(depth=-1)])
def test_what_is_frozen_stays_and_what_lies_above_moves(bases: Any, family: str, adaptation: Any) -> None:
    """The norm behind the last block, and EfficientNet's convolution there, move with the last block; batch norms below keep their statistics."""
    network = load(bases(family))
    adaptation.attach(network)
    adaptation.on_progress(network, 1.0)
    whole = adaptation.kind == "freeze" and adaptation.depth == -1
    before = {name: tensor.clone() for name, tensor in network.network.state_dict().items()}
    network(pixels(6, SIDE)).square().sum().backward()
    torch.optim.SGD([each for each in network.parameters() if each.grad is not None], lr=0.1).step()
    moved = {name for name, tensor in network.network.state_dict().items() if not torch.equal(tensor, before[name])}
    above = {
        id(each)
        for block in list(network.blocks)[len(network.blocks) if whole else 2 :]
        for each in block.state_dict(keep_vars=True).values()
    }
    norms = {name for name in before if name.startswith(f"{family}.layernorm.")}
    expected = {
        name
        for name, tensor in network.network.state_dict(keep_vars=True).items()
        if id(tensor) in above or name in norms or name.startswith("classifier")
    }
    assert moved <= expected
    assert {name for name in expected if name.startswith("classifier") or name in norms} <= moved
    assert whole or moved - norms - {name for name in moved if name.startswith("classifier")}
    if family in NORMED and not whole:
        assert {name for name in expected if "running_mean" in name} <= moved


@pytest.mark.parametrize("family", FAMILIES)
def test_the_probe_reads_the_means_of_transformers_hidden_states(bases: Any, family: str) -> None:
    base, batch = bases(family), pixels(3, SIDE)
    network = load(base)
    found = layer_means(network, batch)  # type: ignore[arg-type]
    plain = plain_network(base).eval()
    with torch.no_grad():
        said = plain.base_model(pixel_values=network.normalised_pixels(batch), output_hidden_states=True)
    states = said.hidden_states
    if family == "efficientnet":  # its hidden states are those of blocks: 2, 3 and 3 a stage
        states = (states[0], states[2], states[5], said.last_hidden_state)
    wanted = [state.mean((2, 3)) if state.ndim == 4 else state.mean(1) for state in (states[2], states[3])]
    assert torch.allclose(found[:, 0], torch.cat(wanted, 1), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_stand_beside_linear_layers_and_are_refused_where_there_are_none(bases: Any, family: str) -> None:
    network = load(bases(family))
    if family in NORMED:
        with pytest.raises(ExperimentError, match="have none"):
            Lora(rank=2).attach(network)
        return
    Lora(rank=2).attach(network)
    network(pixels(2, SIDE)).sum().backward()
    moved = {name.rpartition(".")[2] for name, each in network.network.named_parameters() if each.grad is not None}
    assert {"lora_A", "lora_B", "weight", "bias"} == moved
    assert {name for name, each in network.network.named_parameters() if each.requires_grad and "lora" not in name} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_squares_that_a_network_cannot_read_are_refused_with_those_it_can(bases: Any) -> None:
    with pytest.raises(ModelError, match="cannot read squares of 64") as problem:
        vision.load_network(bases("vit"), ["a", "b"], 3, 0.0, 0, 64)
    assert problem.value.remedy == "--set objective.side=32"
    with pytest.raises(ModelError, match="squares of 16 pixels and more"):
        vision.load_network(bases("convnext"), ["a", "b"], 3, 0.0, 0, 8)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("family", ("convnext", "efficientnet", "vit", "dinov2"))
def test_a_bundle_is_read_by_transformers_and_exported(bases: Any, tmp_path: Path, family: str) -> None:
    base = bases(family)
    shapes = write_shapes(tmp_path, count=90)
    changes = ["training.steps=4", "training.batch_size=16", "training.ships=trained", "adaptation.kind=freeze", "adaptation.depth=1"]
    run = luthier.run(shapes, base=str(base.folder), set=changes, force=True, out=tmp_path / "run")
    assert not [proof["name"] for proof in run.json("proofs.json")["proofs"] if proof["held"] is False]
    images = sorted(shapes.rglob("*.png"))[:6]
    ours = luthier.predict(run.folder, [str(image) for image in images])
    theirs = pipeline("image-classification", str(run.folder / "bundle"))([str(image) for image in images])
    for mine, other in zip(ours, list[Any](theirs), strict=True):
        assert mine["probabilities"] == pytest.approx({one["label"]: one["score"] for one in other}, abs=2e-3)
    for form in ("safetensors", "onnx"):
        luthier.export(run.folder, to=form, out=tmp_path / form)  # it compares with the trainer, stage by stage, and refuses what differs
        assert (tmp_path / form / "config.json").is_file()
