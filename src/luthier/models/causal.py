"""A decoder from scratch, and a tokenizer made from texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from luthier.models.byte_bpe import train_byte_bpe
from luthier.models.pretrained import Generator

LONGEST = 2048
"""Positions that a network from scratch is said to know at least; its rotary embeddings have no end of their own."""


def make_generator(vocabulary: int, depth: int, width: int, heads: int, context: int, dropout: float, seed: int) -> Generator:
    """A Llama that knows nothing: rotary positions, RMS norms, gated feed-forward layers, the output matrix that of the embeddings.

    Args:
        vocabulary: tokens.
        depth: blocks.
        width: numbers a token; a multiple of twice the heads.
        heads: of attention.
        context: tokens of a block.
        dropout: share of activations dropped while training.
        seed: of its first weights.

    Source: Touvron et al. 2023, "LLaMA", section 2.2; what a block adds begins smaller the more there are (Radford et al. 2019, section 2.3).
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, num_key_value_heads=heads,
        intermediate_size=inner_width(width), max_position_embeddings=max(context, LONGEST), tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, attention_dropout=dropout,
    )  # fmt: skip
    config._attn_implementation = "eager"
    network: Any = LlamaForCausalLM(config)
    with torch.no_grad():
        for block in network.model.layers:
            for added in (block.self_attn.o_proj, block.mlp.down_proj):
                added.weight.mul_((2 * depth) ** -0.5)
    return Generator(network, dropout)


def inner_width(width: int) -> int:
    """Of a gated feed-forward layer that has about as many weights as a plain one of four times the width: a multiple of 16."""
    return 16 * round(8 * width / 3 / 16)


def parameters(depth: int, width: int) -> int:
    """Weights of a network from scratch, without its embeddings."""
    return depth * (4 * width * width + 3 * width * inner_width(width))


def make_bpe(texts: Iterable[str], vocabulary: int, separator: str) -> Any:
    """A byte-level BPE made from texts; the same texts give the same one, and of 257 tokens it reads bytes.

    Args:
        texts: to learn from.
        vocabulary: tokens at most, the separator and 256 bytes among them.
        separator: the token that stands between documents.
    """
    tokenizer = train_byte_bpe(texts, vocabulary, [separator], space_before=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=separator, eos_token=separator, pad_token=separator, clean_up_tokenization_spaces=False
    )
