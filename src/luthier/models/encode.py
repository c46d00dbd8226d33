"""Texts as vectors, by a base that is left as it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from luthier.core.types import HELD_OUT, Batch, Example
from luthier.models.base import Base
from luthier.models.pooling import pool_rows
from luthier.models.precision import round_weights_to
from luthier.models.pretrained import PackedNetwork, load_classifier, load_tokenizer

READ = 256
"""Tokens of a text that are read."""
TOGETHER = 2048
"""Tokens that go through the model at once: few enough to stay in the processor's cache."""


def base_views(model: PackedNetwork, batch: Batch) -> np.ndarray:
    """What an untouched base makes of rows, as `layer_means` says it.

    Args:
        model: read in eval mode.
        batch: rows.

    Returns:
        # (examples, views, width)
    """
    return layer_means(model, batch).cpu().numpy()


def layer_means(model: PackedNetwork, batch: Batch) -> torch.Tensor:
    """The mean of a row's tokens behind half of the blocks, two thirds, and all; of a decoder also its last token, at the same places.

    Of an image it is the mean of the maps behind so many stages, end to end as one view, for stages differ in width.

    A base's top is made for what it was trained for; together with the floors below it tells more (docs/log/2026-11.md#the-untouched-base-was-read-in-the-wrong-place).

    Args:
        model: read in eval mode.
        batch: rows.

    Returns:
        # (examples, views, width)
    """
    with torch.no_grad():
        stage_means: Any = getattr(model, "stage_means", None)
        if stage_means is not None:
            return stage_means(batch, depths_read(len(model.blocks)))[:, None]
        states = [each.float() for each in model.hidden_states_at_depths(batch, depths_read(len(model.blocks)))]
        poolings = ("mean", "last") if model.causal else ("mean",)
        return torch.stack([pool_rows(each, batch, pooling) for pooling in poolings for each in states], 1)


def depths_read(blocks: int) -> list[int]:
    """Behind how many blocks a base is read: half, two thirds, all.

    Args:
        blocks: that it has.
    """
    return sorted({round(blocks / 2), round(blocks * 2 / 3), blocks} - {0})


def unit_rows(model: PackedNetwork, batch: Batch) -> np.ndarray:
    """One vector of unit length a row, of which each view is an equal part. # (examples, views × width)"""
    vectors = base_views(model, batch)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True) * vectors.shape[1] ** 0.5
    return vectors.reshape(len(vectors), -1)


def token_counter(tokenizer: Any) -> Callable[[Sequence[str]], list[int]]:
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
            return [len(encoding) for encoding in inner.encode_batch_fast(list(texts))]
        finally:
            os.environ["TOKENIZERS_PARALLELISM"] = before

    return count


def text_encoder(base: Base) -> Callable[[Sequence[str]], np.ndarray]:
    """A function from texts to vectors of unit length, # (texts, width); the base is loaded now.

    Args:
        base: an encoder, from the store.
    """
    tokenizer: Any = load_tokenizer(base)
    model = load_classifier(base, ["a", "b"], "mean", 0.0, seed=0).eval()
    longest = _longest(base)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return _of_texts(tokenizer, texts, longest, lambda batch: unit_rows(model, batch))

    return encode


def layer_vectors(base: Base, texts: Sequence[str], dtype: str = "float32") -> np.ndarray:
    """What each floor of a base makes of texts: the mean over a text's tokens, behind the embeddings and behind each block.

    Args:
        base: an encoder or a decoder, from the store.
        texts: to be read.
        dtype: what the base computes in; the means are taken in fp32.

    Returns:
        # (texts, blocks + 1, width)
    """
    model = round_weights_to(load_classifier(base, ["a", "b"], "mean", 0.0, seed=0).eval(), getattr(torch, dtype))
    depths = range(len(model.blocks) + 1)

    def floors(batch: Batch) -> np.ndarray:
        return torch.stack([pool_rows(states.float(), batch, "mean") for states in model.hidden_states_at_depths(batch, depths)], 1).numpy()

    return _of_texts(load_tokenizer(base), texts, _longest(base), floors)


def map_in_batches(lengths: Sequence[int], read: Callable[[list[int]], np.ndarray]) -> np.ndarray:
    """What is read of each row, in the rows' order; rows of similar length go together, up to so many tokens.

    Args:
        lengths: of the rows.
        read: the numbers of some rows → what is read of them, # (rows, ...)
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    results, part, tokens = [], [], 0
    for count, row in enumerate(order, 1):
        part.append(row)
        tokens += lengths[row]
        if count == len(order) or tokens >= TOGETHER:
            results.append(read(part))
            part, tokens = [], 0
    return np.concatenate(results)[np.argsort(order, kind="stable")]


def embed_tokens(embed: Callable[[Batch], torch.Tensor], texts: Sequence[Sequence[int]], device: torch.device) -> np.ndarray:
    """The vectors of texts that are tokens already, texts of similar length together, # (texts, width)

    Args:
        embed: a batch → the vector of each text.
        texts: token ids of each.
        device: on which the batches lie.
    """

    def some(rows: list[int]) -> np.ndarray:
        flat = {"tokens": torch.tensor([token for row in rows for token in texts[row]])}
        lengths = torch.tensor([len(texts[row]) for row in rows])
        return embed(Batch(torch.arange(len(rows)), lengths, flat, {}).to(device)).cpu().numpy()

    return map_in_batches([len(text) for text in texts], some)


def map_examples(
    model: Any, objective: Any, examples: Sequence[Example], read: Callable[[Batch], np.ndarray], poll: Callable[[], None] = lambda: None
) -> np.ndarray:
    """What is read of each example as it is held out, in the examples' order; examples of similar size go together.

    Args:
        model: on whose device the batches lie.
        objective: collates.
        examples: of any part.
        read: a batch → what is read of it, # (examples, ...)
        poll: called before each batch; it may raise to stop.
    """
    device = next(model.parameters()).device

    def some(rows: list[int]) -> np.ndarray:
        poll()
        return read(objective.collate([examples[row] for row in rows], 0, HELD_OUT).to(device))

    return map_in_batches([example.size for example in examples], some)


def _longest(base: Base) -> int:
    """Tokens of a text that a base is given."""
    return min(READ, base.positions or READ)


def _of_texts(tokenizer: Any, texts: Sequence[str], longest: int, read: Callable[[Batch], np.ndarray]) -> np.ndarray:
    """What is read of each text, of so many tokens at most."""
    tokens = [ids or [0] for ids in tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]]

    def some(rows: list[int]) -> np.ndarray:
        lengths = torch.tensor([len(tokens[row]) for row in rows])
        flat = {"tokens": torch.tensor([token for row in rows for token in tokens[row]])}
        return read(Batch(index=torch.arange(len(rows)), lengths=lengths, flat=flat, each={}))

    return map_in_batches([len(each) for each in tokens], some)
