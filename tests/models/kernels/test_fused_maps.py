"""Compiled batch norms and pooling: what torch says, at least as precisely, the same bits on any number of threads, and nothing changes where they do not act."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from luthier.experiment import Experiment
from luthier.models.autoencoder import make_autoencoder
from luthier.models.cifar_resnet import CifarResNet, CifarResNetConfig
from luthier.models.efficientnet_lite import EfficientNetLite, config_of
from luthier.models.kernels import shared_library
from luthier.models.kernels.fused_maps import OPEN, RELU, RELU6, fuse_maps, norm_add_clamp
from luthier.models.kernels.image_kernels import ImageKernels
from luthier.models.vision import make_network
from luthier.training.devices import decide_device_fields

pytestmark = [
    pytest.mark.skipif(not shared_library.can_compile(), reason="there is no C++ compiler"),
    pytest.mark.usefixtures("compiling"),
]
BOUNDS = {"none": OPEN, "relu": RELU, "relu6": RELU6}


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).contiguous(memory_format=torch.channels_last)


def norm_of(channels: int, compiled: bool) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.3)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, channels))
        norm.bias.copy_(torch.linspace(-1, 1, channels))
    if compiled:
        fuse_maps(norm, ImageKernels())
    return norm


def through(
    norm: nn.BatchNorm2d, maps: Tensor, residual: Tensor | None, bounds: tuple[float, float], dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """What is said, then the gradients of maps, weight, bias and the residual."""
    given = [each.detach().clone().to(dtype).requires_grad_() for each in (maps, residual) if each is not None]
    output = norm_add_clamp(norm, given[0], given[1] if residual is not None else None, bounds)
    output.backward(draw(*output.shape, seed=7).to(dtype))
    leaves: list[Tensor] = [given[0], norm.weight, norm.bias, *given[1:]]
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def apart(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("channels", [3, 16, 40, 130])
def test_a_norm_says_what_torch_says_in_fp64_and_its_gradients_are_those(channels: int, adds: bool, bounds: str) -> None:
    maps, residual = 2 * draw(6, channels, 11, 13) + 3, draw(6, channels, 11, 13, seed=1) if adds else None
    exact = through(norm_of(channels, False).double(), maps, residual, BOUNDS[bounds], torch.float64)
    found = through(norm_of(channels, True), maps, residual, BOUNDS[bounds])
    assert len(found) == len(exact) == (5 if adds else 4)
    assert max(apart(one, other) for one, other in zip(found, exact, strict=True)) < 2e-6
    halves = maps.bfloat16(), None if residual is None else residual.bfloat16()
    exact = through(norm_of(channels, False).double(), *halves, BOUNDS[bounds], torch.float64)
    rounded = through(norm_of(channels, True), *halves, BOUNDS[bounds], torch.bfloat16)
    assert max(apart(one, other) for one, other in zip(rounded, exact, strict=True)) < 6e-3


def test_running_statistics_move_as_torchs() -> None:
    one, other = norm_of(20, False), norm_of(20, True)
    for seed in range(3):
        maps = draw(4, 20, 6, 6, seed=seed) * 3 - 1
        one(maps)
        norm_add_clamp(other, maps)
    assert apart(other.running_mean, one.running_mean) < 1e-6  # type: ignore[arg-type]
    assert apart(other.running_var, one.running_var) < 1e-6  # type: ignore[arg-type]
    assert int(other.num_batches_tracked) == 3  # type: ignore[arg-type]


def test_maps_far_from_zero_lose_no_digits() -> None:
    maps = draw(8, 16, 20, 20) * 0.1 + 1000
    exact = through(norm_of(16, False).double(), maps, None, BOUNDS["relu"], torch.float64)
    found = through(norm_of(16, True), maps, None, BOUNDS["relu"])
    assert apart(found[0], exact[0]) < 5e-3  # a number of 1000 is 6e-5 fine in fp32, and is divided by 0.1


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1), (3, 3, 0)])
@pytest.mark.parametrize("channels", [5, 32])
def test_pooling_is_torchs_to_the_bit(channels: int, kernel: int, stride: int, padding: int) -> None:
    pooling = nn.MaxPool2d(kernel, stride, padding)
    fused = nn.MaxPool2d(kernel, stride, padding)
    fuse_maps(fused, ImageKernels())
    for dtype in (torch.float32, torch.bfloat16):
        maps = draw(3, channels, 17, 14).round(decimals=1).to(dtype)  # some are equal: the first is chosen
        one, other = maps.clone().to(torch.float32, copy=True).requires_grad_(), maps.clone().requires_grad_()
        expected, output = pooling(one), fused(other)
        d_output = draw(*expected.shape, seed=3).to(dtype)
        expected.backward(d_output.float())
        output.backward(d_output)
        assert torch.equal(output, expected.to(dtype))
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(other.grad.float(), one.grad, atol=1e-6, rtol=1e-6 if dtype == torch.float32 else 2**-8)


X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="an option of x86-64 alone")


@pytest.mark.parametrize("registers", [pytest.param(("-march=x86-64",), marks=X86), pytest.param(("-march=native", "-mno-avx512f"), marks=X86)], ids=["four numbers", "eight numbers at most"])  # fmt: skip
def test_registers_of_any_width_say_the_same(registers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LUTHIER_KERNELS", str(tmp_path))
    monkeypatch.setattr(shared_library, "FLAGS", (*(flag for flag in shared_library.FLAGS if not flag.startswith("-march")), *registers))
    maps, residual = draw(5, 37, 9, 7), draw(5, 37, 9, 7, seed=1)
    exact = through(norm_of(37, False).double(), maps, residual, RELU, torch.float64)
    found = through(norm_of(37, True), maps, residual, RELU)
    assert max(apart(one, other) for one, other in zip(found, exact, strict=True)) < 2e-6
    for size, fused in (
        (nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1)),
        (layer := nn.Conv2d(37, 8, 3, 5, 1, bias=False), copy.deepcopy(layer)),
    ):
        fuse_maps(fused, ImageKernels())
        one, other = maps.clone().requires_grad_(), maps.clone().requires_grad_()
        expected, output = size(one), fused(other)
        d_output = draw(*expected.shape, seed=3)
        expected.backward(d_output)
        output.backward(d_output)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("threads")
def test_every_number_of_threads_gives_the_same_bits() -> None:
    maps, residual = draw(16, 48, 20, 20), draw(16, 48, 20, 20, seed=2)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(through(norm_of(48, True), maps, residual, BOUNDS["relu"]))
    assert all(torch.equal(one, other) for more in results[1:] for one, other in zip(more, results[0], strict=True))


@pytest.mark.parametrize(("side", "stride", "padding"), [(2, 1, 1), (4, 2, 1), (3, 1, 0), (4, 1, 1)])
def test_a_convolution_of_few_places_is_torchs(side: int, stride: int, padding: int) -> None:
    for dtype, bound in ((torch.float32, 2e-6), (torch.bfloat16, 6e-3)):
        layer, exact = (nn.Conv2d(48, 24, 3, stride, padding, bias=False) for _ in range(2))
        layer.to(dtype)
        exact.double().load_state_dict(layer.state_dict())
        fuse_maps(layer, ImageKernels())
        maps = draw(9, 48, side, side).to(dtype)
        one, other = maps.clone().requires_grad_(), maps.double().requires_grad_()
        output, expected = layer(one), exact(other)
        d_output = draw(*expected.shape, seed=5).to(dtype)
        output.backward(d_output)
        expected.backward(d_output.double())
        assert output.is_contiguous(memory_format=torch.channels_last)
        for found, known in ((output, expected), (one.grad, other.grad), (layer.weight.grad, exact.weight.grad)):
            assert found is not None
            assert known is not None
            assert apart(found.detach(), known.detach()) < bound


def resnet() -> nn.Module:
    return make_network(("a", "b"), 3, 32, 8, 2, 0.0, 1).network


def bottleneck() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(num_channels=3, embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], layer_type="bottleneck")
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": resnet,
    "bottleneck": bottleneck,
    "cifar": lambda: CifarResNet(CifarResNetConfig(depths=(2, 2, 1), num_labels=2)),
    "mobile": lambda: EfficientNetLite(config_of("efficientnet-lite0")),
}


def learn(network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """What a network says while it trains, and its gradients."""
    logits: Any = network(pixels.to(next(network.parameters()).dtype).contiguous(memory_format=torch.channels_last)).logits
    functional.cross_entropy(logits, torch.arange(len(pixels)) % 2).backward()
    return logits.detach(), torch.cat([each.grad.flatten() for each in network.parameters() if each.grad is not None])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_learns_in_fused_passes_what_it_learns_without_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().train()
    for parameter in network.parameters():  # heads and last norms that begin at zero would hide what is wrong behind them
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    kept = {key: value.clone() for key, value in network.state_dict().items()}
    pixels = draw(8, 3, 64, 64)
    calls: list[str] = []
    own = ImageKernels.norm
    results = {}
    for fused in (None, False, True):
        network.load_state_dict(kept)
        network.zero_grad()
        network.to(torch.float64 if fused is None else torch.float32)
        if fused:
            fuse_maps(network, ImageKernels())
            monkeypatch.setattr(ImageKernels, "norm", lambda *given: (calls.append("norm"), own(*given))[1])
        results[fused] = (*learn(network, pixels), {key: value.clone() for key, value in network.state_dict().items()})
    assert len(calls) == sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    # rounding turns some numbers at the corner of a ReLU, and what it turns goes through all layers below; a residual left out would be half of everything
    assert apart(results[True][0], results[None][0]) < 1e-2
    assert apart(results[True][1], results[None][1]) < 5e-2
    for key, value in results[None][2].items():
        assert torch.allclose(results[True][2][key].double(), value.double(), rtol=2e-2, atol=1e-3), key


def test_an_autoencoder_learns_in_fused_passes_too() -> None:
    results = []
    for fused in (False, True):
        model = make_autoencoder(1, 32, 8, 1, 16, False, 0.0, 1).train()
        if fused:
            model.load_kernels()
        torch.manual_seed(3)
        code, _ = model.network.encode(draw(4, 1, 32, 32))
        nn.init.normal_(model.network.to_pixels.weight)
        model.network.decode(code).square().sum().backward()
        results.append(torch.cat([each.grad.flatten() for each in model.network.parameters() if each.grad is not None]))
    assert apart(results[1], results[0]) < 5e-2


def test_a_frozen_norm_keeps_its_statistics_and_says_what_torch_says_to_the_bit() -> None:
    maps = draw(4, 16, 5, 5)
    plain, fused = norm_of(16, False).eval(), norm_of(16, True).eval()
    assert torch.equal(norm_add_clamp(fused, maps, bounds=RELU), functional.relu(plain(maps)))
    assert torch.equal(fused.running_mean, torch.zeros(16))  # type: ignore[arg-type]
    network = NETWORKS["resnet"]().eval()
    before = network(maps.new_ones(2, 3, 32, 32)).logits
    fuse_maps(network, ImageKernels())
    assert torch.equal(network(maps.new_ones(2, 3, 32, 32)).logits, before)


def test_whoever_listens_to_a_part_is_called() -> None:
    network: Any = NETWORKS["resnet"]().train()
    fuse_maps(network, ImageKernels())
    layer = network.resnet.encoder.stages[0].layers[0]
    heard: list[str] = []
    for name, part in (("norm", layer.layer[-1].normalization), ("activation", layer.activation), ("last", layer.layer[-1])):
        part.register_forward_hook(lambda *given, name=name: heard.append(name))
    network(draw(2, 3, 32, 32))
    assert heard == ["norm", "last", "activation"]


def test_maps_in_another_order_and_one_value_a_channel_are_left_to_torch() -> None:
    norm, plain = norm_of(6, True), norm_of(6, False)
    maps = draw(4, 6, 5, 5).contiguous()
    assert torch.equal(norm_add_clamp(norm, maps), plain(maps))
    with pytest.raises(ValueError, match="more than 1 value"):
        norm_add_clamp(norm, draw(1, 6, 1, 1))


@pytest.mark.parametrize(("dtype", "asked", "chosen"), [("float32", "auto", "compiled"), ("bfloat16", "auto", "compiled"), ("float32", "plain", "plain")])  # fmt: skip
def test_an_experiment_on_images_takes_them_in_either_dtype(dtype: str, asked: str, chosen: str) -> None:
    experiment = Experiment.of({
        "data": {"path": "images", "task": "image_classification", "input": ["image"], "target": "label"}, "objective": {"kind": "image_classification"},
        "model": {}, "adaptation": {"kind": "full"}, "optimizer": {"kind": "adamw", "lr": 1e-3}, "schedule": {"kind": "linear"},
        "training": {"batch_size": 8, "steps": 2, "dtype": dtype, "kernels": asked},
    })  # fmt: skip
    assert decide_device_fields(experiment).training.kernels == chosen
