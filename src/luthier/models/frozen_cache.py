"""A cache of the frozen blocks' outputs: computed once for each row, used in every epoch, trial and evaluation."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luthier.core.types import Batch, Example

MOST = 8 << 30
"""Bytes that may be kept; above, nothing is. The same on every machine, because what is kept rounds a little differently from what is computed in each step."""
IN_MEMORY = 1 << 30
"""Above, a file takes it, that has no name and goes with the process."""
READ = ("tokens", "segments", "place")
"""What a network reads of a row's inputs."""
CHUNK = 2048
"""Tokens that are computed together, always the same rows: so a row's states have the same bits in every run, step and trial."""


class FrozenLayerCache:
    """Hidden states behind the first `depth` blocks, by the content of a row.

    Args:
        depth: blocks that stay frozen for the whole run.
        examples: whose states are kept; any others go through all blocks.
        width: of a hidden state.
        dtype: that the network computes in.
    """

    def __init__(self, depth: int, examples: Sequence[Example], width: int, dtype: torch.dtype) -> None:
        self.depth = depth
        self.spans: dict[bytes, tuple[int, int, int]] = {}  # a row's key → from where to where it lies, and in which chunk
        self.chunks: list[list[Example]] = [[]]
        self.starts = [0]
        self.computed: set[int] = set()
        self.boxed = False
        tokens = 0
        for example in examples:
            key = row_key(example.inputs)
            if key in self.spans:
                continue
            end = tokens + example.size
            if self.chunks[-1] and end - self.starts[-1] > CHUNK:
                self.chunks.append([])
                self.starts.append(tokens)
            self.spans[key] = (tokens, end, len(self.chunks) - 1)
            self.chunks[-1].append(example)
            tokens = end
        self.states = _allocate(tokens, width, dtype)

    @staticmethod
    def bytes(examples: Sequence[Example], width: int, dtype: torch.dtype) -> int:
        """What keeping these rows takes."""
        return sum(example.size for example in examples) * width * dtype.itemsize

    @staticmethod
    def fingerprint(examples: Sequence[Example]) -> str:
        """A hash of what the rows say to the model."""
        digest = hashlib.sha256()
        for example in examples:
            digest.update(row_key(example.inputs) + b"\n")
        return digest.hexdigest()

    def _compute(self, chunk: int, model: Any) -> None:
        batch = _batch(self.chunks[chunk]).to(next(model.network.parameters()).device)
        states, self.boxed = model.hidden_states_at(batch, self.depth)
        self.states[self.starts[chunk] : self.starts[chunk] + len(states)] = states.to(self.states.device)
        self.computed.add(chunk)

    def of(self, batch: Batch, model: Any) -> Tensor | None:
        """The states of a batch's rows end to end, # (tokens, width); None where one of them is not kept.

        Args:
            batch: with `flat["tokens"]`.
            model: computes what is asked for first.
        """
        keys = row_keys(batch)
        if any(key not in self.spans for key in keys):
            return None
        spans = [self.spans[key] for key in keys]
        for chunk in sorted({chunk for _, _, chunk in spans} - self.computed):
            self._compute(chunk, model)
        states = torch.cat([self.states[start:end] for start, end, _ in spans])
        return states.to(batch.flat["tokens"].device)

    @contextlib.contextmanager
    def skipping(self, blocks: nn.ModuleList, states: Tensor) -> Iterator[None]:
        """For the time of the context, the frozen blocks say what is kept and compute nothing.

        Args:
            blocks: all of the network's.
            states: of the batch, # (tokens, width)
        """
        last: Any = (states[None],) if self.boxed else states[None]
        passed = list(blocks)[: self.depth]
        before = [vars(block).get("forward") for block in passed]  # that of compiled passes stands there
        for number, block in enumerate(passed):
            block.forward = _return_states(last) if number == self.depth - 1 else _pass_through(self.boxed)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for block, forward in zip(passed, before, strict=True):
                if forward is None:
                    del block.forward
                else:
                    block.forward = forward


def _return_states(states: Any) -> Any:
    return lambda *_, **__: states


def _pass_through(boxed: bool) -> Any:
    return (lambda hidden, *_, **__: (hidden,)) if boxed else (lambda hidden, *_, **__: hidden)


def _allocate(tokens: int, width: int, dtype: torch.dtype) -> Tensor:
    size = tokens * width * dtype.itemsize
    if size <= IN_MEMORY:
        return torch.empty(tokens, width, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        mapping = np.memmap(file, dtype=np.uint8, mode="w+", shape=(size,))  # the mapping outlives the handle
    return torch.from_numpy(mapping).view(dtype).view(tokens, width)


def row_key(inputs: Mapping[str, Any]) -> bytes:
    """What tells one row from another, as far as a network sees it.

    Args:
        inputs: of the row: `tokens`; where two texts are read together `segments`, and where it is in windows `place`, # each (tokens,)
    """
    return b"|".join(np.asarray(inputs[name]).astype(np.int32).tobytes() for name in READ if name in inputs)


def row_keys(batch: Batch) -> list[bytes]:
    """The same of each row of a batch."""
    flat = {name: batch.flat[name].cpu().numpy() for name in READ if name in batch.flat}
    ends = batch.lengths.cumsum(0).tolist()
    return [row_key({name: values[start:end] for name, values in flat.items()}) for start, end in zip([0, *ends], ends, strict=False)]


def _batch(examples: Sequence[Example]) -> Batch:
    flat = {"tokens": torch.tensor([token for example in examples for token in example.tokens])}
    for name in ("segments", "place"):
        if name in examples[0].inputs:
            flat[name] = torch.tensor([value for example in examples for value in example.inputs[name]])
    lengths = torch.tensor([example.size for example in examples])
    return Batch(index=torch.arange(len(examples)), lengths=lengths, flat=flat, each={})
