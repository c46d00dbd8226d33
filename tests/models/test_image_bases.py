"""Image bases: what becomes of a file of weights, that the networks are those that were published, and how their pixels are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import luthier
from luthier.adaptation.freeze import Freeze, Gradual
from luthier.core.errors import ModelError
from luthier.core.run import file_hash
from luthier.core.types import Batch
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset
from luthier.models import cifar_resnet, efficientnet_lite, torch_file, vision
from luthier.models.autoencoder import load_autoencoder
from luthier.models.base import Base
from luthier.models.catalogue import PACKAGED
from luthier.models.encode import layer_means
from luthier.models.preprocessing import Preprocessing, read_preprocessing
from luthier.models.store import resolve
from tests.families.test_image_classification import write as write_shapes


def publish(config: efficientnet_lite.EfficientNetLiteConfig) -> dict[str, torch.Tensor]:
    """Random weights of an EfficientNet-Lite under the names of the package that carries them."""
    torch.manual_seed(0)
    network = efficientnet_lite.EfficientNetLite(config)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + 0.5 if "norm" in name else torch.randn(tensor.shape) * 0.1)
    ours = {
        ours: theirs
        for theirs, ours in ((name, next(iter(efficientnet_lite.rename({name: torch.empty(0)}, config)))) for name in names_of(config))
    }
    return {ours[name]: tensor for name, tensor in network.state_dict().items()}


def names_of(config: efficientnet_lite.EfficientNetLiteConfig) -> list[str]:
    """The names of that package, written down from its own source."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    found = [
        "_conv_stem.weight",
        *(f"_bn0.{part}" for part in norm),
        "_conv_head.weight",
        *(f"_bn1.{part}" for part in norm),
        "_fc.weight",
        "_fc.bias",
    ]
    for number in range(sum(config.depths)):
        if number:
            found += [f"_blocks.{number}._expand_conv.weight", *(f"_blocks.{number}._bn0.{part}" for part in norm)]
        found += [f"_blocks.{number}._depthwise_conv.weight", *(f"_blocks.{number}._bn1.{part}" for part in norm)]
        found += [f"_blocks.{number}._project_conv.weight", *(f"_blocks.{number}._bn2.{part}" for part in norm)]
    return found


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights of a ResNet-20, known by its hash; the store is empty."""
    torch.manual_seed(0)
    network = cifar_resnet.CifarResNet(cifar_resnet.config_of("cifar-resnet20"))
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(torch.randn(tensor.shape) * 0.05)
    back = {"classifier": "linear", "stages.0": "layer1", "stages.1": "layer2", "stages.2": "layer3"}
    state = {}
    for name, tensor in network.state_dict().items():
        start = next((start for start in back if name.startswith(f"{start}.")), "")
        state[f"module.{back.get(start, start)}{name[len(start) :]}"] = tensor
    place = tmp_path / "given"
    place.mkdir()
    path = place / PACKAGED["cifar-resnet20"].file
    torch.save({"state_dict": state, "best_prec1": 91.0}, path)
    monkeypatch.setitem(PACKAGED, "cifar-resnet20", replace(PACKAGED["cifar-resnet20"], weights=file_hash(path)))
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    return path


def pixels(count: int, side: int, channels: int = 3) -> Batch:
    drawn = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, channels, side, side), dtype=np.uint8))
    return Batch(index=torch.arange(count), lengths=torch.ones(count, dtype=torch.long), flat={}, each={"pixels": drawn})


def test_a_file_of_weights_becomes_a_base_that_is_known_by_name_from_then_on(file: Path) -> None:
    with pytest.raises(ModelError, match="no package carries cifar-resnet20") as problem:
        resolve("cifar-resnet20")
    assert "akamaster/pytorch_resnet_cifar10" in problem.value.remedy
    base = resolve(str(file))
    assert (base.name, base.kind, base.family, base.blocks, base.width) == ("cifar-resnet20", "image", "cifar_resnet", 3, 64)
    file.unlink()
    assert resolve("cifar-resnet20").fingerprint == base.fingerprint
    assert read_preprocessing(base.folder) == Preprocessing(32, 3, cifar_resnet.MEAN, cifar_resnet.DEVIATION)


def test_a_folder_with_one_known_file_is_enough_and_with_several_asks_which(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(file.parent)).name == "cifar-resnet20"
    other = file.with_name(PACKAGED["cifar-resnet32"].file)
    torch.save({"state_dict": {}}, other)
    monkeypatch.setitem(PACKAGED, "cifar-resnet32", replace(PACKAGED["cifar-resnet32"], weights=file_hash(other)))
    with pytest.raises(ModelError, match="holds the weights of cifar-resnet20, cifar-resnet32"):
        resolve(str(file.parent))


def test_a_file_that_was_changed_is_not_opened(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *given, **named: pytest.fail("it was opened"))
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ModelError, match="not known"):
        resolve(str(file))


def test_a_file_that_holds_a_program_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "evil.th"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(Exception, match="eights"):
        torch_file.convert_network(path, tmp_path, "cifar-resnet20")
    assert not (tmp_path / "ran").exists()


def test_the_cifar_network_computes_what_the_paper_says(file: Path) -> None:
    """The whole forward pass written down again, with the names of the published file; without the zeros past a stage it differs."""
    state = {name.removeprefix("module."): tensor for name, tensor in torch.load(file, weights_only=True)["state_dict"].items()}
    shown = torch.randn(3, 3, 32, 32)

    def norm(maps: torch.Tensor, name: str) -> torch.Tensor:
        return functional.batch_norm(maps, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    maps = functional.relu(norm(functional.conv2d(shown, state["conv1.weight"], padding=1), "bn1"))
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for block in range(3):
            name, past, stride = f"layer{stage}.{block}", maps, 2 if stage > 1 and not block else 1
            found = functional.relu(norm(functional.conv2d(maps, state[f"{name}.conv1.weight"], padding=1, stride=stride), f"{name}.bn1"))
            found = norm(functional.conv2d(found, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                past = functional.pad(past[:, :, ::2, ::2], (0, 0, 0, 0, width // 4, width // 4))
            maps = functional.relu(found + past)
    wanted = maps.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]
    network = vision.load_network(resolve(str(file)), [str(number) for number in range(10)], 3, 0.0, 0).network.eval()
    with torch.no_grad():
        ours = network.stage_maps(shown)[-1].mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]
    assert torch.allclose(ours, wanted, atol=1e-4)


@pytest.mark.parametrize("side", [32, 33, 50])
def test_a_stride_is_padded_as_tensorflow_does(side: int) -> None:
    """The side is rounded up, and what is odd of the padding lies behind: so the published weights were trained."""
    torch.manual_seed(0)
    ours = efficientnet_lite.SameConvolution(2, 4, 5, 2).eval()
    shown = torch.randn(1, 2, side, side)
    whole = max((-(-side // 2) - 1) * 2 + 5 - side, 0)
    padded = functional.pad(shown, (whole // 2, whole - whole // 2) * 2)
    wanted = ours.normalization(functional.conv2d(padded, ours.convolution.weight, stride=2))
    assert ours(shown).shape[2:] == (-(-side // 2),) * 2
    assert torch.equal(ours(shown), wanted)


@pytest.mark.parametrize(("name", "blocks", "parameters"), [("efficientnet-lite0", 16, 4_652_008), ("efficientnet-lite2", 21, 6_092_072)])
def test_the_lite_networks_have_the_published_sizes_and_names(name: str, blocks: int, parameters: int) -> None:
    config = efficientnet_lite.config_of(name)
    with torch.device("meta"):
        network = efficientnet_lite.EfficientNetLite(config)
    assert (sum(config.depths), sum(weight.numel() for weight in network.parameters())) == (blocks, parameters)
    renamed = {next(iter(efficientnet_lite.rename({theirs: torch.empty(0)}, config))) for theirs in names_of(config)}
    assert renamed == set(network.state_dict())


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """An EfficientNet-Lite0 with random weights, as the store keeps one."""
    folder = tmp_path_factory.mktemp("lite") / "efficientnet-lite0"
    folder.mkdir()
    torch.save(publish(efficientnet_lite.config_of("efficientnet-lite0")), folder / "weights.pth")
    torch_file.convert_network(folder / "weights.pth", folder, "efficientnet-lite0")
    return resolve(str(folder))


def test_pixels_are_shifted_and_scaled_as_the_base_was_trained(lite: Base) -> None:
    network = vision.load_network(lite, ["a", "b"], 3, 0.0, 0)
    batch = pixels(2, 16)
    assert torch.allclose(network.normalised_pixels(batch), (batch.each["pixels"].float() - 127) / 128, atol=1e-6)
    plain = vision.make_network(["a", "b"], 3, 16, 8, 1, 0.0, 0)
    assert torch.equal(plain.normalised_pixels(batch), batch.each["pixels"].float() / 127.5 - 1)


def test_a_head_of_other_classes_begins_anew_and_one_of_the_same_is_kept(lite: Base, tmp_path: Path) -> None:
    network = vision.load_network(lite, ["a", "b"], 3, 0.0, 0)
    assert not any(weight.abs().sum() for weight in network.network.classifier.parameters())
    nn.init.ones_(network.network.classifier.weight)
    network.network.save_pretrained(tmp_path)
    same, other = (vision.load_network(replace(lite, folder=tmp_path), labels, 3, 0.0, 0) for labels in (["a", "b"], ["b", "c"]))
    assert [float(each.network.classifier.weight.detach().sum()) for each in (same, other)] == [2 * 1280, 0.0]


@pytest.mark.parametrize("adaptation", [Freeze(depth=5), Gradual(depth=5), Freeze(depth=-1)])
def test_frozen_stages_keep_their_statistics_and_the_others_move(lite: Base, adaptation: Any) -> None:
    network = vision.load_network(lite, ["a", "b"], 3, 0.0, 0)
    adaptation.attach(network)
    adaptation.on_progress(network, 1.0)
    before = {name: buffer.clone() for name, buffer in network.network.named_buffers() if "running" in name}
    network(pixels(4, 32)).sum().backward()
    moved = {
        name.partition(".")[0] + name.split(".")[1]
        for name, buffer in network.network.named_buffers()
        if "running" in name and not torch.equal(buffer, before[name])
    }
    assert moved == (set() if adaptation.kind == "freeze" and adaptation.depth == -1 else {"stages5", "stages6"})
    free = {name.split(".")[1] for name, weight in network.network.named_parameters() if weight.requires_grad and name.startswith("stages")}
    assert free == (set() if adaptation.kind == "freeze" and adaptation.depth == -1 else {"5", "6"})


def test_the_probe_reads_three_depths_in_eval_mode(lite: Base) -> None:
    network = vision.load_network(lite, ["a", "b"], 3, 0.0, 0).train()
    before = network.network.stem.normalization.running_mean.clone()
    found = layer_means(network, pixels(3, 32))  # type: ignore[arg-type]
    assert found.shape == (3, 1, 80 + 112 + 1280)
    assert torch.equal(network.network.stem.normalization.running_mean, before)
    assert network.training


def test_an_autoencoder_says_why_it_does_not_begin_from_another_network(lite: Base) -> None:
    with pytest.raises(ModelError, match="goes on from a ResNet"):
        load_autoencoder(lite, 3, 32, 8, False, 0.0, 0)


def test_what_a_hub_folder_says_of_its_pixels_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_channels": 3}))
    about = {"size": {"shortest_edge": 224}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.2]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    assert read_preprocessing(tmp_path) == Preprocessing(224, 3, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    (tmp_path / "preprocessor_config.json").unlink()
    assert read_preprocessing(tmp_path).plain


def test_a_run_from_a_base_ships_it_with_its_probe_and_predicts_what_was_evaluated(tmp_path: Path) -> None:
    """The average needs both networks and the pixels of both: without the base's normalisation in the bundle the answers would differ."""
    torch.manual_seed(0)
    cifar_resnet.CifarResNet(cifar_resnet.config_of("cifar-resnet20")).save_pretrained(tmp_path / "base")
    Preprocessing(32, 3, cifar_resnet.MEAN, cifar_resnet.DEVIATION).save_pretrained(tmp_path / "base")
    shapes = write_shapes(tmp_path, count=90)
    changes = ["objective.side=16", "training.steps=6", "training.batch_size=16", "training.ships=average"]
    run = luthier.run(shapes, base=str(tmp_path / "base"), set=changes, force=True, out=tmp_path / "run")
    verdict = run.verdict
    assert verdict is not None
    assert verdict["ships"] == "average"
    assert verdict["base"]["name"].endswith("frozen + logistic regression")
    kept = [json.loads((run.folder / "bundle" / place / "preprocessor_config.json").read_text())["image_mean"] for place in (".", "base")]
    assert kept == [list(cifar_resnet.MEAN)] * 2
    test = load_dataset(Data(path=str(shapes)), checks=()).records["test"]
    said = luthier.predict(run.folder, [str(shapes / record.values["image"]) for record in test])
    right = [one["label"] == record.values["label"] for one, record in zip(said, test, strict=True)]
    assert sum(right) / len(right) == verdict["test"]["value"]
