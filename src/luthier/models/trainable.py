"""The type of a network that is trained: an `nn.Module` and a `TrainableModel` at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from luthier.core.interfaces import TrainableModel

if TYPE_CHECKING:
    from luthier.models.frozen_cache import FrozenLayerCache


class TrainableNetwork(nn.Module, TrainableModel):
    """A name for annotations, because Python has no type for "both"; no network inherits it, and nobody makes one.

    A family may bring any `nn.Module` that has what `TrainableModel` asks for; `training.assemble.load_model` gives it this type, once.
    """

    frozen_cache: FrozenLayerCache | None
    """What keeps the outputs of frozen blocks, set when the training is assembled."""
