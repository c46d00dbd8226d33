"""A byte-level BPE made from texts: the same texts give the same one, and there is no text that it cannot write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


def train_byte_bpe(texts: Iterable[str], vocabulary: int, special: Sequence[str], space_before: bool = True) -> Tokenizer:
    """Learn which bytes belong together.

    Args:
        texts: to learn from.
        vocabulary: tokens at most, the special ones and 256 bytes among them.
        special: tokens that no text holds, in the order of their numbers.
        space_before: whether the first word of a text is read as the same word within it.

    Source: Sennrich et al. 2016; Radford et al. 2019, section 2.2 (bytes).
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space_before)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
