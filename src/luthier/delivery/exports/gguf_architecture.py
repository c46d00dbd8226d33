"""Which decoders a GGUF file can hold, and what llama.cpp has to be told of their networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]
Metadata = dict[str, Any]
"""Key of a GGUF file → its value, without the architecture's name in front."""


@dataclass(frozen=True)
class Architecture:
    """One of transformers' decoders, as llama.cpp knows it.

    Args:
        name: of llama.cpp's architecture.
        head: the class with the language model's head, as config.json names it.
        permutes: whether queries and keys lie in the order of the original LLaMA, pairs of rotated numbers beside one another; transformers puts them half a head apart.
        shifts_norms: whether transformers adds 1 to the weights of its norms, where llama.cpp wants them added already.
        activation: of the feed-forward layers, the only one that llama.cpp computes there.
    """

    name: str
    head: str
    permutes: bool = False
    shifts_norms: bool = False
    activation: str = "silu"


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", "LlamaForCausalLM", permutes=True),
    "mistral": Architecture("llama", "MistralForCausalLM", permutes=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM"),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM"),
    "gemma3_text": Architecture("gemma3", "Gemma3ForCausalLM", shifts_norms=True, activation="gelu_pytorch_tanh"),
}
"""transformers' `model_type` → what llama.cpp knows of it."""
ROPE_KINDS = ("default", "linear", "yarn", "llama3")
"""Ways to stretch the rotary positions that both sides compute alike."""
GEMMA_PATTERN = 6
"""Of Gemma 3's blocks each so manieth sees the whole text; llama.cpp takes this where nothing else is said."""

LEAST_CONTEXT = 512
"""Tokens; where the window is smaller, a file that reads no more than the window is of no use."""


def refuse_network(config: Config) -> str:
    """Why llama.cpp cannot compute a network, as the end of a sentence; empty where it can.

    Args:
        config: of the bundle, config.json.
    """
    family = str(config.get("model_type"))
    architecture = ARCHITECTURES.get(family)
    if architecture is None:
        return f"its architecture {family!r} is none that Luthier writes ({', '.join(ARCHITECTURES)})"
    head = (config.get("architectures") or [architecture.head])[0]
    if head != architecture.head:
        return f"its head ({head}) is ours: llama.cpp only computes language models ({architecture.head})"
    activation = config.get("hidden_activation") or config.get("hidden_act") or architecture.activation
    if activation not in (architecture.activation, "gelu_pytorch_tanh" if architecture.activation != "silu" else "swish"):
        return f"its activation {activation!r} is not the {architecture.activation} that llama.cpp computes there"
    for name, rope in ropes_of(config).items():
        kind = rope.get("rope_type", "default")
        if kind not in ROPE_KINDS or (name == "sliding_attention" and kind != "default"):
            return f"its rotary positions are stretched by {kind!r}, which llama.cpp does not do there"
        if kind == "yarn" and (set(rope) & {"attention_factor", "mscale", "mscale_all_dim"} or rope.get("truncate") is False):
            return "its rotary positions are stretched by a YaRN of its own making, which llama.cpp computes otherwise"
        if float(rope.get("partial_rotary_factor") or 1.0) != 1.0:
            return "only a part of each head is rotated, which is not written yet"
    if config.get("attn_logit_softcapping"):
        return "it caps the scores of its attention, which llama.cpp does not do for this architecture"
    scalar = config.get("query_pre_attn_scalar")
    if scalar is not None and scalar != head_size(config):
        return f"its attention is scaled by {scalar} rather than by the size of a head ({head_size(config)})"
    if context_of(config) < LEAST_CONTEXT and context_of(config) < int(config["max_position_embeddings"]):
        return f"its tokens see no more than {window_of(config)} before them, and llama.cpp knows no such window for {family}"
    if config.get("use_bidirectional_attention"):
        return "its attention sees what comes behind a token"
    return ""


def head_size(config: Config) -> int:
    """Numbers of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def ropes_of(config: Config) -> dict[str, Mapping[str, Any]]:
    """The rotary positions of the blocks that see the whole text ("full_attention"), and of those with a window where they have others ("sliding_attention")."""
    parameters: Any = config.get("rope_parameters") or {}
    if isinstance(parameters.get("full_attention"), Mapping):
        return {name: parameters[name] for name in ("full_attention", "sliding_attention") if isinstance(parameters.get(name), Mapping)}
    return {"full_attention": parameters}


def window_of(config: Config) -> int | None:
    """Tokens that a token sees in the blocks with a window; None where all see the whole text."""
    window, kinds = config.get("sliding_window"), config.get("layer_types")
    if not window or config.get("use_sliding_window") is False or (kinds and "sliding_attention" not in kinds):
        return None
    return int(window)


def context_of(config: Config) -> int:
    """Tokens that the file says it can read: where llama.cpp knows no window for the architecture, no more than the window, within which both compute the same."""
    longest = int(config["max_position_embeddings"])
    window = window_of(config)
    return longest if window is None or config["model_type"] == "gemma3_text" else min(longest, window)


def describe_network(config: Config) -> Metadata:
    """What llama.cpp has to be told of a network, by key.

    Args:
        config: of the bundle, config.json; not refused.
    """
    heads = int(config["num_attention_heads"])
    size = head_size(config)
    facts: Metadata = {
        "block_count": int(config["num_hidden_layers"]),
        "context_length": context_of(config),
        "embedding_length": int(config["hidden_size"]),
        "feed_forward_length": int(config["intermediate_size"]),
        "attention.head_count": heads,
        "attention.head_count_kv": int(config.get("num_key_value_heads") or heads),
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": size,
        "vocab_size": int(config["vocab_size"]),
    }
    if config["model_type"] == "gemma3_text":
        facts |= _describe_gemma(config)
    for name, rope in ropes_of(config).items():
        facts |= _describe_rope(rope, "_swa" if name == "sliding_attention" else "")
    return facts


def _describe_gemma(config: Config) -> Metadata:
    facts: Metadata = {}
    if config.get("final_logit_softcapping"):
        facts["final_logit_softcapping"] = float(config["final_logit_softcapping"])
    window = window_of(config)
    if window is None:
        return facts
    kinds = config.get("layer_types") or []
    windowed = [kind == "sliding_attention" for kind in kinds]
    usual = [(layer + 1) % GEMMA_PATTERN != 0 for layer in range(len(kinds))]
    return facts | {"attention.sliding_window": window} | ({"attention.sliding_window_pattern": windowed} if windowed != usual else {})


def _describe_rope(rope: Mapping[str, Any], ending: str) -> Metadata:
    facts: Metadata = {f"rope.freq_base{ending}": float(rope.get("rope_theta") or 10_000.0)}
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        facts |= {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        facts["rope.scaling.original_context_length"] = int(rope["original_max_position_embeddings"])
        facts |= {f"rope.scaling.yarn_{name}": float(rope[name]) for name in ("beta_fast", "beta_slow") if rope.get(name) is not None}
    return facts


def rope_divisors(config: Config) -> list[float] | None:
    """What llama.cpp divides each frequency of the rotary positions by, where they are stretched as Llama 3.1's are; None elsewhere.

    Source: transformers, `_compute_llama3_parameters`.
    """
    rope = ropes_of(config)["full_attention"]
    if rope.get("rope_type") != "llama3":
        return None
    size, base, factor = head_size(config), float(rope["rope_theta"]), float(rope["factor"])
    low, high, before = float(rope["low_freq_factor"]), float(rope["high_freq_factor"]), float(rope["original_max_position_embeddings"])
    divisors = []
    for dimension in range(0, size, 2):
        length = 2 * math.pi * base ** (dimension / size)  # of one turn, in tokens
        smooth = (before / length - low) / (high - low)
        divisors.append(1.0 if length < before / high else factor if length > before / low else 1 / ((1 - smooth) / factor + smooth))
    return divisors
