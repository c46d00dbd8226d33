"""A tokenizer for two languages at once, made from texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import luthier.core.hub  # noqa: F401  # keeps transformers offline; before it is imported

# isort: split
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from luthier.models.byte_bpe import train_byte_bpe

SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
PAD, END = 0, 1
"""Their numbers; the decoder begins from the first, as Marian's does."""


def make_pair_tokenizer(texts: Iterable[str], vocabulary: int, longest: int) -> Any:
    """A byte-level BPE made from the texts of both sides, which ends every text with a mark; the same texts give the same one.

    Args:
        texts: sources and targets.
        vocabulary: tokens at most.
        longest: tokens that the network reads.
    """
    tokenizer = train_byte_bpe(texts, vocabulary, list(SPECIAL.values()))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=longest, clean_up_tokenization_spaces=False, **SPECIAL)
