"""A decoder's weights, laid out for writing text: which matrices, norms and positions one step needs, read from transformers' modules."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

KNOWN = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "llama",
    "Qwen3ForCausalLM": "llama",
    "SmolLM3ForCausalLM": "llama",
    "Gemma3ForCausalLM": "gemma",
}
"""Classes of transformers whose step is known here, and how their norms are placed: before each part, or around it."""
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_tanh": "gelu_tanh"}
"""Functions of the gate, by transformers' names."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""That weights may have; products of rounded weights are more exact in fp32, and ours are faster than those of a single row in bf16."""
MOVING = ("dynamic", "longrope")
"""Rotary embeddings whose angles depend on the length of the text."""


class NotKnown(Exception):
    """A network that our own step cannot compute; the message says why."""


@dataclass(frozen=True)
class Linear:
    """A product, or several that read the same rows.

    Args:
        weight: # (outputs, inputs)
        bias: # (outputs,)
    """

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Block:
    """One transformer block.

    Args:
        input_norm: before attention, # (width,)
        qkv: queries, keys and values.
        q_norm: of each head's query, # (head width,)
        k_norm: the same of keys.
        output: of attention.
        after_attention: a norm behind attention (Gemma), # (width,)
        feed_norm: before the feed-forward layer, # (width,)
        gate_up: of the feed-forward layer: gate, then up projection.
        down: of the feed-forward layer.
        after_feed: a norm behind the feed-forward layer (Gemma), # (width,)
        window: positions that a token sees, itself included; 0 sees all.
        rotation: the name of the rotary table; empty where positions are not told.
    """

    input_norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: Linear
    after_attention: Tensor | None
    feed_norm: Tensor
    gate_up: Linear
    down: Linear
    after_feed: Tensor | None
    window: int
    rotation: str


@dataclass(frozen=True)
class DecodeNetwork:
    """A decoder, laid out for writing text.

    Args:
        embedding: # (vocabulary, width)
        embedding_scale: what an embedding is multiplied by.
        blocks: first to last.
        norm: the last norm, # (width,)
        head: # (vocabulary, width)
        eps: of all norms.
        heads: of queries.
        key_heads: of keys and values.
        head_width: numbers of a head.
        scale: what scores are multiplied by.
        activation: silu or gelu_tanh.
        softcap: logits are bent to stay within this; 0 leaves them.
        positions: the most tokens that a text may have.
        rotary: the network's own module of rotary embeddings.
        name: the class of the network.
    """

    embedding: Tensor
    embedding_scale: float
    blocks: tuple[Block, ...]
    norm: Tensor
    head: Linear
    eps: float
    heads: int
    key_heads: int
    head_width: int
    scale: float
    activation: str
    softcap: float
    positions: int
    rotary: Any = field(repr=False)
    name: str = ""

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        return len(self.embedding)

    def bend(self, logits: Tensor) -> Tensor:
        """Keep logits within `softcap`, where there is one."""
        return torch.tanh(logits / self.softcap) * self.softcap if self.softcap else logits

    def rotations(self, context: int) -> dict[str, tuple[Tensor, Tensor]]:
        """The cosines and sines of every position, by the name of their table; the second half of a row is as the first.

        Args:
            context: positions.

        Returns:
            For each table twice # (context, half of the head width)
        """
        positions, like = torch.arange(context)[None], torch.zeros(1, dtype=torch.float32)
        tables = {}
        for name in {block.rotation for block in self.blocks} - {""}:
            cos, sin = self.rotary(like, positions) if name == "all" else self.rotary(like, positions, name)
            half = self.head_width // 2
            tables[name] = (cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())
        return tables


def read_network(network: Any) -> DecodeNetwork:
    """Read a causal language model of transformers; matrices that read the same rows become one.

    Args:
        network: on the processor; weights of 16 bits become fp32, which our own step computes in.

    Raises:
        NotKnown: our own step cannot compute this network.
    """
    name = type(network).__name__
    if name not in KNOWN:
        raise NotKnown(f"{name} is none of {', '.join(sorted(KNOWN))}")
    if any(parameter.dtype not in DTYPES or parameter.device.type != "cpu" for parameter in network.parameters()):
        raise NotKnown("its weights are not in 16 or 32 bits on the processor")
    body, config = network.model, network.config
    _refuse_unknown(body, config)
    first = body.layers[0].self_attn
    gemma = KNOWN[name] == "gemma"
    embedding, head = _weight(body.embed_tokens), _linear(network.lm_head)
    if network.lm_head.weight is body.embed_tokens.weight:
        head = replace(head, weight=embedding)  # tied weights stay one tensor
    return DecodeNetwork(
        embedding=embedding,
        embedding_scale=float(getattr(body.embed_tokens, "embed_scale", 1.0)),
        blocks=tuple(_block(layer, gemma, config) for layer in body.layers[: config.num_hidden_layers]),
        norm=_norm(body.norm, gemma),
        head=head,
        eps=float(config.rms_norm_eps),
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_width=first.head_dim,
        scale=float(first.scaling),
        activation=ACTIVATIONS[_activation(config)],
        softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
        positions=int(config.max_position_embeddings),
        rotary=body.rotary_emb,
        name=name,
    )


def _activation(config: Any) -> str:
    return getattr(config, "hidden_activation", None) or config.hidden_act


def _refuse_unknown(body: Any, config: Any) -> None:
    """Refuse what a configuration may ask for and our step does not do.

    Raises:
        NotKnown: and says what.
    """
    kinds = getattr(body.rotary_emb, "rope_type", "default")
    moving = [kind for kind in (kinds.values() if isinstance(kinds, dict) else [kinds]) if kind in MOVING]
    if moving:
        raise NotKnown(f"its rotary embedding ({moving[0]}) depends on the length of the text")
    if _activation(config) not in ACTIVATIONS:
        raise NotKnown(f"its activation is {_activation(config)}")
    if getattr(config, "use_bidirectional_attention", False):
        raise NotKnown("its tokens see those behind them")
    if body.layers[0].self_attn.head_dim % 2:
        raise NotKnown("its heads have an odd width")
    if not any(True for _ in body.layers):
        raise NotKnown("it has no blocks")


def _weight(module: Any) -> Tensor:
    return module.weight.detach().float()


def _norm(module: Any, gemma: bool) -> Tensor:
    return _weight(module) + 1.0 if gemma else _weight(module)


def _linear(*layers: Any) -> Linear:
    for layer in layers:
        if type(layer) is not nn.Linear:
            raise NotKnown(f"it has a {type(layer).__name__} where a plain linear layer should be")
    weight = _weight(layers[0]) if len(layers) == 1 else torch.cat([_weight(layer) for layer in layers])
    if all(layer.bias is None for layer in layers):
        return Linear(weight)
    biases = [torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().float() for layer in layers]
    return Linear(weight, torch.cat(biases))


def _block(layer: Any, gemma: bool, config: Any) -> Block:
    attention, feed = layer.self_attn, layer.mlp
    headed = hasattr(attention, "q_norm")
    if type(attention).__name__ == "MistralAttention":
        window = config.sliding_window
    else:
        window = getattr(attention, "sliding_window", None)
    several = isinstance(getattr(config, "rope_parameters", {}).get("full_attention"), dict)
    rotation = (attention.layer_type if several else "all") if getattr(attention, "use_rope", True) else ""
    return Block(
        input_norm=_norm(layer.input_layernorm, gemma),
        qkv=_linear(attention.q_proj, attention.k_proj, attention.v_proj),
        q_norm=_norm(attention.q_norm, gemma) if headed else None,
        k_norm=_norm(attention.k_norm, gemma) if headed else None,
        output=_linear(attention.o_proj),
        after_attention=_norm(layer.post_attention_layernorm, True) if gemma else None,
        feed_norm=_norm(layer.pre_feedforward_layernorm if gemma else layer.post_attention_layernorm, gemma),
        gate_up=_linear(feed.gate_proj, feed.up_proj),
        down=_linear(feed.down_proj),
        after_feed=_norm(layer.post_feedforward_layernorm, True) if gemma else None,
        window=int(window or 0),
        rotation=rotation,
    )
