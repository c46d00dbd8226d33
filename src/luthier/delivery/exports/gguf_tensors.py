"""The weights of a bundle as a GGUF file holds them: renamed, queries and keys reordered, rounded; and read back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import ModelError
from luthier.delivery.exports.exporter import WeightDifference
from luthier.delivery.exports.gguf_architecture import ARCHITECTURES, rope_divisors

KINDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
"""Precision, as after `--dtype` → how the file names it."""
BLOCK = 32
"""Numbers that share one scale in Q8_0."""
LARGEST_HALF = 65504.0
ROUNDING = {"F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8, "Q8_0": 0.5 / 127 + 2.0**-11}
"""The most that rounding moves a number, as a share of the largest that is rounded with it (itself; in Q8_0 its block): half a step, of which Q8_0 has 127, each as long as a 16-bit number says."""
LEAST = {"F32": 0.0, "F16": 2.0**-25, "BF16": 0.0, "Q8_0": 127 * 2.0**-25}
"""What 16-bit numbers near 0 add to it: they are multiples of 2⁻²⁴."""
COARSE = {"Q4": 0.2, "Q5": 0.1, "Q6": 0.05}
"""How the names of llama.cpp's coarser kinds begin → the most that rounding moves a tensor, root mean square of the differences as a share of that of the
weights. Their steps depend on their blocks in ways of their own; of normal weights Q4 moves 0.08, Q5 0.04, Q6 0.02, and another tensor 1.4."""
TIED = ", where the output is tied to the embeddings in the bundle"
SLACK = 1.001
"""For the rounding of this computation itself."""
ROPE = "rope_freqs.weight"
"""What the frequencies of the rotary positions are divided by, where they are stretched as Llama 3.1's are."""


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys in the order in which llama.cpp rotates them: pairs beside one another instead of half a head apart.

    Args:
        weight: # (heads · size, width) or (heads · size,)
        heads: of queries, or of keys.

    Source: llama.cpp, conversion/llama.py, `permute`.
    """
    return weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def names_of(config: Mapping[str, Any]) -> Any:
    """The names of an architecture's tensors, by those of transformers."""
    import gguf

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == ARCHITECTURES[config["model_type"]].name)
    return gguf.get_tensor_name_map(arch, int(config["num_hidden_layers"]))


def plan_tensors(folder: Path, config: Mapping[str, Any]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Every tensor of the file in order: its name in the bundle (empty where it is made from the configuration), its name in the file, and its shape.

    Args:
        folder: of the bundle.
        config: of the bundle, config.json.

    Raises:
        ModelError: one that llama.cpp has no place for.
    """
    from safetensors import safe_open

    names, divisors = names_of(config), rope_divisors(config)
    results: list[tuple[str, str, tuple[int, ...]]] = [] if divisors is None else [("", ROPE, (len(divisors),))]
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        for name in sorted(file.keys()):
            if name.endswith("rotary_emb.inv_freq"):
                continue
            written = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if written is None:
                raise ModelError(f"{folder}: llama.cpp has no place for the tensor {name}", "export it as safetensors: `--to safetensors`")
            results.append((name, written, tuple(file.get_slice(name).get_shape())))
    return results


def tensors_of(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, str, np.ndarray]]:
    """The tensors of the file, one after the other: the names, and the numbers in fp32, in llama.cpp's order.

    Args:
        folder: of the bundle.
        config: of the bundle, config.json.
    """
    from safetensors import safe_open

    architecture = ARCHITECTURES[config["model_type"]]
    heads = {
        "q_proj": int(config["num_attention_heads"]),
        "k_proj": int(config.get("num_key_value_heads") or config["num_attention_heads"]),
    }
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        for name, written, _ in plan_tensors(folder, config):
            if not name:
                yield name, written, np.array(rope_divisors(config), dtype=np.float32)
                continue
            numbers, part = file.get_tensor(name).float().numpy(), name.split(".")[-2]
            if architecture.permutes and part in heads:
                numbers = permute(numbers, heads[part])
            if architecture.shifts_norms and name.endswith("norm.weight"):
                numbers = numbers + np.float32(1.0)
            yield name, written, np.ascontiguousarray(numbers)


def kind_of(name: str, shape: tuple[int, ...], precision: str) -> str:
    """How a tensor is rounded: vectors and norms not at all, rows that do not divide into blocks to 16 bits. llama.cpp's own converter does the same.

    Args:
        name: in the file.
        shape: of the tensor.
        precision: a key of `KINDS`.
    """
    if len(shape) <= 1 or name.endswith("_norm.weight"):
        return "F32"
    kind = KINDS[precision]
    return "F16" if kind == "Q8_0" and shape[-1] % BLOCK else kind


def round_tensor(numbers: np.ndarray, kind: str, name: str) -> np.ndarray:
    """A tensor's numbers as they lie in the file.

    Args:
        numbers: in fp32.
        kind: as `kind_of` gives it.
        name: for messages.

    Raises:
        ModelError: one is too large for 16 bits.
    """
    import gguf

    if kind == "F16" and (largest := float(np.abs(numbers).max(initial=0.0))) > LARGEST_HALF:
        raise ModelError(
            f"{name} holds {largest:.3g}, and the largest number of F16 is {LARGEST_HALF:.0f}", "export it with --dtype bfloat16"
        )
    return gguf.quantize(numbers, gguf.GGMLQuantizationType[kind])


def round_tensors(folder: Path, precision: str) -> Iterator[tuple[str, Any]]:
    """The tensors of a bundle that a file rounds, by their names in the bundle, rounded once; none of four bits, which llama.cpp's own quantiser makes.

    Args:
        folder: of the bundle.
        precision: of the file.
    """
    import gguf
    import torch
    from safetensors import safe_open

    if precision not in KINDS:
        return
    config = json.loads((folder / "config.json").read_text())
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        for name, written, shape in plan_tensors(folder, config):
            kind = kind_of(written, shape, precision)
            if not name or kind == "F32":
                continue
            rounded = round_tensor(file.get_tensor(name).float().numpy(), kind, name)  # rows in another order are rounded alike
            yield name, torch.from_numpy(gguf.dequantize(rounded, gguf.GGMLQuantizationType[kind]).reshape(shape))


class RoundedFile:
    """What the runtimes of a GGUF file have in common: which tensors it rounds, and what else llama.cpp does."""

    precision: str
    """Of the file."""

    @property
    def computes(self) -> str:
        """As its weights: llama.cpp rounds states to what they are multiplied with."""
        return self.precision

    def round_weights(self, bundle: Path) -> Iterator[tuple[str, Any]]:
        """The tensors that the file rounds, rounded once."""
        return round_tensors(bundle, self.precision)


def compare_file(file: Path, bundle: Path) -> list[WeightDifference]:
    """The tensors of a GGUF file that are not the bundle's, rounded once.

    Args:
        file: the .gguf.
        bundle: its folder.
    """
    import gguf

    config = json.loads((bundle / "config.json").read_text())
    there = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    results = []
    for name, written, expected in tensors_of(bundle, config):
        tensor = there.pop(written, None)
        if tensor is None:
            results.append(WeightDifference(name or written, float("inf"), 0.0))
            continue
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type).reshape([int(size) for size in tensor.shape[::-1]])
        if numbers.shape != expected.shape:
            results.append(WeightDifference(name or written, float("inf"), 0.0))
            continue
        kind = tensor.tensor_type.name
        share = next((share for begin, share in COARSE.items() if kind.startswith(begin)), None)
        if share is not None:
            moved = float(np.sqrt(np.square(numbers - expected).mean() / max(float(np.square(expected).mean()), 1e-30)))
            if not moved <= share:
                results.append(WeightDifference(name or written, moved, share))
            continue
        apart, allowed = np.abs(numbers - expected), _rounding_tolerance(expected, kind)
        beyond = apart - allowed
        if not np.isfinite(numbers).all() or float(beyond.max(initial=0.0)) > 0:
            worst = np.unravel_index(int(beyond.argmax()), beyond.shape)
            results.append(
                WeightDifference(
                    (name or written) + _likeness(name, numbers, expected, allowed, config), float(apart[worst]), float(allowed[worst])
                )
            )
    tied = bool(config.get("tie_word_embeddings"))
    return results + [WeightDifference(name + (TIED if tied and name == "output.weight" else ""), float("inf"), 0.0) for name in there]


def _likeness(name: str, numbers: np.ndarray, expected: np.ndarray, allowed: np.ndarray, config: Mapping[str, Any]) -> str:
    """What a tensor lacks of being right, where that is known."""
    architecture = ARCHITECTURES[config["model_type"]]
    heads = {
        "q_proj": int(config["num_attention_heads"]),
        "k_proj": int(config.get("num_key_value_heads") or config["num_attention_heads"]),
    }
    part = name.split(".")[-2] if name.count(".") else ""
    if architecture.permutes and part in heads and bool((np.abs(permute(numbers, heads[part]) - expected) <= allowed).all()):
        return " (its rows lie in the order of transformers, not of llama.cpp)"
    if architecture.shifts_norms and name.endswith("norm.weight") and bool((np.abs(numbers + 1.0 - expected) <= allowed + 1e-6).all()):
        return " (without the 1 that llama.cpp wants added)"
    return ""


def _rounding_tolerance(expected: np.ndarray, kind: str) -> np.ndarray:
    """What rounding once explains of each number."""
    if kind not in ROUNDING:  # of llama.cpp's coarsest kinds only the metric can tell whether they are fine enough
        return np.full_like(expected, np.inf)
    largest = np.abs(expected)
    if kind == "Q8_0":
        blocks = largest.reshape(*expected.shape[:-1], -1, BLOCK)
        largest = np.broadcast_to(blocks.max(-1, keepdims=True), blocks.shape).reshape(expected.shape)
    return largest * (ROUNDING[kind] * SLACK) + LEAST[kind] * SLACK
