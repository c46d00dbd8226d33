"""Texts as vectors, by a base that is left as it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from luthier.core.types import Batch
from luthier.models.past import apart
from luthier.models.precision import compute_in
from luthier.models.pretrained import PackedNetwork, by_row, load_classifier, load_tokenizer, pool
from luthier.models.store import Base

READ = 256
"""Tokens of a text that are read."""
TOGETHER = 2048
"""Tokens that go through the model at once: few enough to stay in the processor's cache."""


def views(model: PackedNetwork, batch: Batch) -> np.ndarray:
    """What an untouched base makes of rows: the mean of a row's tokens behind half of the blocks, two thirds, and all; of a decoder also its last token.

    A base's top is made for what it was trained for; together with the floors below it tells more (docs/log.md).

    Args:
        model: read in eval mode.
        batch: rows.

    Returns:
        # (examples, views, width)
    """
    count = len(model.blocks)
    floors = sorted({round(count / 2), round(count * 2 / 3), count} - {0})
    with torch.no_grad():
        states = [each.float() for each in model.floors(batch, floors)]
        poolings = ("mean", "last") if model.causal else ("mean",)
        return torch.stack([by_row(each, batch, pooling) for pooling in poolings for each in states], 1).cpu().numpy()


def unit_rows(model: PackedNetwork, batch: Batch) -> np.ndarray:
    """One vector of unit length a row, of which each view is an equal part. # (examples, views × width)"""
    found = views(model, batch)
    found /= np.linalg.norm(found, axis=2, keepdims=True) * found.shape[1] ** 0.5
    return found.reshape(len(found), -1)


def counter(tokenizer: Any) -> Callable[[Sequence[str]], list[int]]:
    """A function from texts to how many tokens each has, control tokens included; it uses all processors.

    Args:
        tokenizer: of a base.
    """

    def count(texts: Sequence[str]) -> list[int]:
        before = os.environ.get("TOKENIZERS_PARALLELISM", "false")
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        try:
            inner = tokenizer.backend_tokenizer
            inner.no_truncation()
            inner.no_padding()
            return [len(found) for found in inner.encode_batch_fast(list(texts))]
        finally:
            os.environ["TOKENIZERS_PARALLELISM"] = before

    return count


def encoder(base: Base) -> Callable[[Sequence[str]], np.ndarray]:
    """A function from texts to vectors of unit length, # (texts, width); the base is loaded now.

    Args:
        base: an encoder, from the store.
    """
    tokenizer: Any = load_tokenizer(base)
    model = load_classifier(base, ["a", "b"], "mean", 0.0, seed=0).eval()

    def encode(texts: Sequence[str]) -> np.ndarray:
        return _in_batches(tokenizer, texts, lambda batch: unit_rows(model, batch))

    return encode


def layers(base: Base, texts: Sequence[str], dtype: str = "float32") -> np.ndarray:
    """What each floor of a base makes of texts: the mean over a text's tokens, behind the embeddings and behind each block.

    Args:
        base: an encoder or a decoder, from the store.
        texts: to be read.
        dtype: what the base computes in; the means are taken in fp32.

    Returns:
        # (texts, blocks + 1, width)
    """
    model = compute_in(load_classifier(base, ["a", "b"], "mean", 0.0, seed=0).eval(), getattr(torch, dtype))
    seen: list[Any] = []
    blocks = list(model.blocks)
    hooks = [
        blocks[0].register_forward_pre_hook(
            lambda block, given, named: seen.append(given[0] if given else named["hidden_states"]), with_kwargs=True
        )
    ]
    hooks += [
        block.register_forward_hook(lambda block, given, said: seen.append(said[0] if isinstance(said, tuple) else said))
        for block in blocks
    ]

    def floors(batch: Batch) -> np.ndarray:
        seen.clear()
        with torch.no_grad():
            past = model.past(batch)
            model.through(batch, past)
            assert len(seen) == len(blocks) + 1, "the rows went through at once"
            return torch.stack([pool(apart(states.flatten(0, 1), past).float(), batch.lengths, "mean") for states in seen], 1).numpy()

    try:
        return _in_batches(load_tokenizer(base), texts, floors, alike=not model.packs)  # rows of one length need no padding
    finally:
        for hook in hooks:
            hook.remove()


def _in_batches(tokenizer: Any, texts: Sequence[str], read: Callable[[Batch], np.ndarray], alike: bool = False) -> np.ndarray:
    """What is read of each text, in the texts' order; texts of similar length, or where asked of the same, go together, up to so many tokens."""
    tokens = tokenizer(list(texts), truncation=True, max_length=READ)["input_ids"]
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    found, part = [], []
    for place, row in enumerate(order):
        part.append(tokens[row] or [0])
        last = place == len(order) - 1
        if last or sum(map(len, part)) >= TOGETHER or (alike and len(tokens[order[place + 1]]) != len(tokens[row])):
            lengths = torch.tensor([len(each) for each in part])
            flat = {"tokens": torch.tensor([token for each in part for token in each])}
            found.append(read(Batch(index=torch.arange(len(part)), lengths=lengths, flat=flat, each={})))
            part = []
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return np.concatenate(found)[back]
