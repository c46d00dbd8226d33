"""Networks that guess hidden tokens, pretrained or from scratch, and a tokenizer made from texts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import processors
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from luthier.core.errors import ModelError
from luthier.models.base import Base
from luthier.models.byte_bpe import train_byte_bpe
from luthier.models.opened import open_network
from luthier.models.pretrained import PackedNetwork

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
LONGEST = 512
"""Positions that a network from scratch knows."""


class MaskedModel(PackedNetwork):
    """An encoder with a head that gives each token a score.

    Args:
        network: of transformers, for masked language modelling.
        dropout: share of activations dropped while training.
        new: whether its head is new.
    """

    def __init__(self, network: Any, dropout: float, new: bool) -> None:
        super().__init__(network, dropout)
        self.new = new

    @property
    def positions(self) -> int:
        """Tokens of a text at most."""
        return int(self.network.config.max_position_embeddings) - self.first_position

    @property
    def _top(self) -> list[nn.Module]:
        """What makes scores of hidden states, in its order."""
        network = self.network
        for names in (("cls",), ("lm_head",), ("generator_predictions", "generator_lm_head"), ("head", "decoder")):
            with contextlib.suppress(AttributeError):
                return [getattr(network, name) for name in names]
        raise ModelError(f"{type(network).__name__} has no head for hidden tokens that is known here", "use a BERT- or RoBERTa-shaped base")

    @property
    def head(self) -> list[nn.Module]:
        """The head, where the base brought none."""
        return self._top if self.new else []

    @property
    def output_bias(self) -> nn.Parameter | None:
        """What is added to the score of each token, # (vocabulary,); None where nothing is."""
        return getattr(self.network.get_output_embeddings(), "bias", None)

    def guess(self, hidden: Tensor) -> Tensor:
        """The score of every token, # (places, width) → (places, vocabulary)"""
        for module in self._top:
            hidden = module(hidden[None])[0]
        return hidden


def load_masked(base: Base, dropout: float, seed: int) -> MaskedModel:
    """A base with a head for hidden tokens: its own, or a new one whose last matrix is that of its embeddings.

    Args:
        base: an encoder.
        dropout: share of activations dropped while training.
        seed: of a new head's first weights.

    Raises:
        ModelError: the base is a decoder.
    """
    if base.kind != "encoder":
        raise ModelError(
            f"{base.name} is a decoder: it guesses the next token, not hidden ones", "use an encoder, such as --base minilm-l6"
        )
    torch.manual_seed(seed)
    network, loaded = open_network(AutoModelForMaskedLM, base.folder, attn_implementation="eager")
    new = any("embeddings" not in name and "position_ids" not in name for name in loaded["missing_keys"])
    return MaskedModel(network, dropout, new)


def make_masked(vocabulary: int, layers: int, width: int, dropout: float, seed: int) -> MaskedModel:
    """A BERT that knows nothing.

    Args:
        vocabulary: tokens.
        layers: blocks.
        width: numbers a token; a multiple of 16.
        dropout: share of activations dropped while training.
        seed: of its first weights.
    """
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=max(1, width // 64), intermediate_size=4 * width,
        max_position_embeddings=LONGEST, type_vocab_size=2, pad_token_id=0,
    )  # fmt: skip
    config._attn_implementation = "eager"
    return MaskedModel(BertForMaskedLM(config), dropout, new=False)


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A byte-level BPE made from texts, with BERT's special tokens; the same texts give the same one.

    Args:
        texts: to learn from.
        vocabulary: tokens at most.
    """
    tokenizer = train_byte_bpe(texts, vocabulary, list(SPECIAL.values()))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LONGEST, **SPECIAL)
