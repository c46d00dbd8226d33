"""Predictions by onnxruntime: the graph of an export, asked about rows of similar length together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from luthier.core.types import Batch
from luthier.models.pooling import segment_lengths

PADDING = 0.2
"""Share of what goes through the graph together that may be padding."""


def open_session(file: Path, threads: int) -> Any:
    """A graph in onnxruntime.

    Args:
        file: the .onnx.
        threads: that compute; between two calls they sleep, for others want the processors too.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])


class OnnxPredictor:
    """The graph of a network that says something of a row or image, for `models.exported_network`.

    Args:
        file: the .onnx of an export.
        threads: that compute.
    """

    def __init__(self, file: Path, threads: int) -> None:
        self._session = open_session(file, threads)
        self._inputs = {each.name for each in self._session.get_inputs()}

    def outputs(self, batch: Batch, wanted: Tensor | None = None) -> list[np.ndarray]:
        """What the network gives for each row, window or image, in their order.

        Args:
            batch: with `each["pixels"]` of images, else `flat["tokens"]`.
            wanted: of which tokens something is wanted, where the graph says something of each, # (tokens,)
        """
        if "pixels" in batch.each:
            return self._of_images(batch.each["pixels"].numpy())
        lengths: list[int] = segment_lengths(batch).tolist()
        tokens = [each.numpy() for each in batch.flat["tokens"].split(lengths)]
        segments = [each.numpy() for each in batch.flat["segments"].split(lengths)] if "segments" in batch.flat else None
        keeps = None if wanted is None else [each.numpy() for each in wanted.split(lengths)]
        results: list[Any] = [None] * len(lengths)
        for rows in groups_of(lengths):
            (answer,) = self._session.run(None, self._pad(rows, tokens, segments))
            for row, said in zip(rows, answer, strict=True):
                own = said[: lengths[row]] if answer.ndim == 3 else said  # of each token, or of the row
                results[row] = own if keeps is None else own[keeps[row]]
        return results

    def _pad(self, rows: Sequence[int], tokens: list[np.ndarray], segments: list[np.ndarray] | None) -> dict[str, np.ndarray]:
        """Some rows, each as long as the longest of them."""
        shape = len(rows), max(len(tokens[row]) for row in rows)
        ids, seen, kinds = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(tokens[row])] = tokens[row]
            seen[place, : len(tokens[row])] = 1
            if segments is not None:
                kinds[place, : len(tokens[row])] = segments[row]
        return {
            name: each for name, each in (("input_ids", ids), ("attention_mask", seen), ("token_type_ids", kinds)) if name in self._inputs
        }

    def _of_images(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Of a classifier its scores; else the picture, and the code behind it."""
        answer = self._session.run(None, {"pixels": pixels})
        if len(answer) == 1:
            return list(answer[0])
        parts = [answer[0].transpose(0, 2, 3, 1).reshape(len(pixels), -1), *answer[1:]]
        return list(np.concatenate(parts, 1))


def groups_of(lengths: Sequence[int]) -> list[list[int]]:
    """Rows that go through a graph together: the longest first, as many as leave little padding.

    Args:
        lengths: of the rows.
    """
    groups: list[list[int]] = []
    longest = held = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        held += lengths[row]
        if not groups or held < (1 - PADDING) * longest * (len(groups[-1]) + 1):
            groups.append([])
            longest = held = lengths[row]
        groups[-1].append(row)
    return groups
