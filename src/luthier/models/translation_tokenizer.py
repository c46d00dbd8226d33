"""A tokenizer for two languages at once, made from texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import luthier.core.hub  # noqa: F401  # keeps transformers offline; before it is imported

# isort: split
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

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
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=longest, clean_up_tokenization_spaces=False, **SPECIAL)
