"""An exported network in the place of the trainer's, so that the family's own objective and `predict` ask it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luthier.core.types import Batch
from luthier.models.encode import embed_tokens

Outputs = Callable[[Batch, Tensor | None], list[np.ndarray]]
"""A batch, and which of its tokens are wanted where something is said of each, # (tokens,) → what the network gives for each row, window or image."""


class ExportedNetwork(nn.Module):
    """Answers as the trainer's network does.

    Args:
        outputs: asks the exported form.
        gives: as `Family.gives`.
        spec: what is learned; of pictures it knows how long their codes are.
        order: where it has each of the trainer's outputs; None: in the same order.
        network: of an autoencoder, whose threshold it holds; None of others.
        hidden_only: whether of a text with gaps only the hidden tokens are wanted, as in a comparison; else all.
    """

    def __init__(
        self,
        outputs: Outputs,
        gives: str,
        spec: Any,
        *,
        order: Sequence[int] | None = None,
        network: Any = None,
        hidden_only: bool = False,
    ) -> None:
        super().__init__()
        self.outputs, self.gives, self.order, self.hidden_only = outputs, gives, order, hidden_only
        self.network = network
        self.code: int = spec.code if gives == "picture" else 0
        self.answers = torch.zeros(0)

    def forward(self, batch: Batch) -> Any:
        """As the trainer's network says it."""
        if self.gives == "picture":
            pixels = batch.each["pixels"]
            results = torch.from_numpy(np.stack(self.outputs(batch, None)))
            picture, code, log_variance = results[:, : pixels[0].numel()], *results[:, pixels[0].numel() :].split(self.code, 1), None
            shape = (len(pixels), *pixels.permute(0, 2, 3, 1).shape[1:])
            return picture.view(shape).permute(0, 3, 1, 2), code, log_variance if isinstance(log_variance, Tensor) else None
        answer = torch.from_numpy(np.concatenate([np.atleast_2d(each) for each in self.outputs(batch, None)]))
        return answer if self.order is None else answer[:, list(self.order)]

    def embed(self, batch: Batch) -> Tensor:
        """The vector of each text."""
        return torch.from_numpy(np.stack(self.outputs(batch, None)))

    def embed_tokens(self, texts: Sequence[Sequence[int]]) -> Any:
        """The vectors of texts that are tokens already; a numpy array, # (texts, width)"""
        return embed_tokens(self.embed, texts, torch.device("cpu"))

    def hidden_states(self, batch: Batch) -> Tensor:
        """A number for each token, by which `guess` finds what was said of it."""
        wanted = batch.flat["hidden"] >= 0 if self.hidden_only else torch.ones_like(batch.flat["tokens"], dtype=torch.bool)
        self.answers = torch.from_numpy(np.concatenate(self.outputs(batch, wanted)))
        return (wanted.long().cumsum(0) - 1)[:, None]

    def guess(self, places: Tensor) -> Tensor:
        """What was said of the tokens with these numbers."""
        return self.answers[places[:, 0]]

    def target(self, batch: Batch) -> Tensor:
        """The pixels from -1 to 1."""
        return batch.each["pixels"].float() / 127.5 - 1
