"""Text by onnxruntime: the graph of a decoder with its cache, one answer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.models.decoding.one_by_one import OneByOne
from luthier.serving.generation import Engine
from luthier.serving.onnx_prediction import open_session

CHUNK = 128
"""Tokens of a prompt that go through the graph at once: it gives the scores of all tokens behind each of them."""


def open_onnx_engine(file: Path, about: str, context: int, vocabulary: int, waiting: int, threads: int) -> Engine:
    """Put the graph of a decoder behind an engine.

    Args:
        file: the .onnx of an export.
        about: what computes, for a person.
        context: tokens that a prompt and its answer may have together.
        vocabulary: token ids are below this.
        waiting: requests that may wait.
        threads: that compute.
    """
    return Engine(OneByOne(OnnxDecoder(file, threads)), about, context, vocabulary, waiting, 1, 0)


class OnnxDecoder:
    """A decoder's graph: new tokens behind those of a cache → the scores behind the last of them, and the cache with them in it.

    Args:
        file: the .onnx of an export.
        threads: that compute.
    """

    def __init__(self, file: Path, threads: int) -> None:
        self._session = open_session(file, threads)
        self._past = {each.name: each.shape for each in self._session.get_inputs() if each.name.startswith("past_key_values")}
        self._next = [each.name.replace("present", "past_key_values") for each in self._session.get_outputs()[1:]]

    def __call__(self, tokens: Sequence[int], cache: dict[str, np.ndarray] | None) -> tuple[Tensor, dict[str, np.ndarray]]:
        """See the class; the scores are # (vocabulary,)"""
        known = cache or {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in self._past.items()}
        scores: Any = None
        for start in range(0, len(tokens), CHUNK):
            new = np.array([tokens[start : start + CHUNK]], np.int64)
            before = next(iter(known.values())).shape[2]
            places = np.arange(before, before + new.shape[1], dtype=np.int64)[None]
            seen = np.ones((1, before + new.shape[1]), np.int64)
            scores, *present = self._session.run(None, {"input_ids": new, "attention_mask": seen, "position_ids": places, **known})
            known = dict(zip(self._next, present, strict=True))
        return torch.from_numpy(scores[0, -1]), known
