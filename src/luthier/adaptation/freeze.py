"""Full fine-tuning, freezing below a depth, and gradual unfreezing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.component import Component
from luthier.core.errors import ExperimentError
from luthier.core.interfaces import TrainableModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn


class Full(Component):
    """Every parameter moves."""

    kind: Literal["full"] = "full"
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="Each block below the top learns at this multiple of the learning rate of the block above it."
    )

    def attach(self, model: TrainableModel) -> None:
        """Let everything move."""
        freeze_below(model, 0)

    def on_progress(self, model: TrainableModel, share: float) -> None:
        """Nothing changes on the way."""

    def frozen_blocks(self, model: TrainableModel, share: float) -> int:
        """How many blocks are frozen at this share of the run."""
        return 0


class Freeze(Component):
    """The embeddings and the first `depth` blocks keep the base's weights and run in eval mode."""

    kind: Literal["freeze"] = "freeze"
    depth: int = Field(
        default=-1, ge=-1, description="Blocks kept, counted from the bottom; -1 keeps them all, so that only the head moves."
    )
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="Each block below the top learns at this multiple of the learning rate of the block above it."
    )

    def attach(self, model: TrainableModel) -> None:
        """Freeze the prefix.

        Raises:
            ExperimentError: the model has fewer blocks, or nothing would be left to move.
        """
        count = len(model.blocks)
        if not count:
            raise ExperimentError("this network has no blocks that could be frozen", "leave adaptation.kind=full")
        if self.depth > count:
            raise ExperimentError(f"adaptation.depth is {self.depth}, but the base has {count} blocks", f"choose 0 to {count}")
        if self.depth in (-1, count) and not model.head:
            raise ExperimentError(
                "with all blocks frozen this model has nothing left to learn", f"choose a depth below {count}, or adaptation.kind=lora"
            )
        freeze_below(model, self.frozen_blocks(model, 0.0))

    def on_progress(self, model: TrainableModel, share: float) -> None:
        """Nothing changes on the way."""

    def frozen_blocks(self, model: TrainableModel, share: float) -> int:
        """How many blocks are frozen at this share of the run."""
        return len(model.blocks) if self.depth == -1 else self.depth


class Gradual(Component):
    """The head alone first; then one block after another, from the top (Howard & Ruder 2018, section 3.3)."""

    kind: Literal["gradual"] = "gradual"
    depth: int = Field(default=0, ge=0, description="Blocks that stay frozen to the end; 0 frees the embeddings too.")
    over: float = Field(default=0.5, gt=0, le=1, description="Share of the run after which everything above `depth` moves.")
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="Each block below the top learns at this multiple of the learning rate of the block above it."
    )

    def attach(self, model: TrainableModel) -> None:
        """Freeze what is frozen at the start.

        Raises:
            ExperimentError: the model has fewer blocks.
        """
        if self.depth > len(model.blocks):
            raise ExperimentError(
                f"adaptation.depth is {self.depth}, but the base has {len(model.blocks)} blocks", f"choose 0 to {len(model.blocks)}"
            )
        freeze_below(model, self.frozen_blocks(model, 0.0))

    def on_progress(self, model: TrainableModel, share: float) -> None:
        """Free the blocks whose turn has come: a pure function of the share, so resuming is free."""
        freeze_below(model, self.frozen_blocks(model, share))

    def frozen_blocks(self, model: TrainableModel, share: float) -> int:
        """How many blocks are frozen at this share of the run."""
        count = len(model.blocks)
        start = count if model.head else count - 1
        return max(self.depth, start - int(min(share / self.over, 1.0) * (start - self.depth)))


def freeze_below(model: TrainableModel, depth: int) -> None:
    """Freeze the embeddings and the first `depth` blocks (nothing when 0) and set train and eval mode to match.

    A weight that the head shares with the embeddings is frozen with them. A batch norm whose weights do not move keeps its statistics too, inside of
    the blocks or outside.
    """
    model.network.train()
    for parameter in model.network.parameters():
        parameter.requires_grad_(True)
    if depth == 0:
        return
    above = {id(parameter) for block in list(model.blocks)[depth:] for parameter in block.parameters()}
    above |= {id(parameter) for module in model.head for parameter in module.parameters()}
    above |= {id(parameter) for module in _final_norms(model) for parameter in module.parameters()}
    for parameter in model.network.parameters():
        parameter.requires_grad_(id(parameter) in above)
    for module in model.network.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
    first = next(iter(model.blocks))
    below = True
    for name, module in model.network.named_modules():
        below = below and module is not first
        if name.endswith("embeddings") or (below and not any(True for _ in module.parameters())):  # dropout before the first block
            module.eval()
    keep_statistics(model, (*list(model.blocks)[depth:], *_final_norms(model)))


def keep_statistics(model: TrainableModel, moving: Sequence[nn.Module] = ()) -> None:
    """Put each batch norm whose weights do not move into eval mode: it normalises by the statistics that it has, and they stay.

    Args:
        model: which parameters move is set.
        moving: modules, beside the head, inside which a batch norm without weights keeps moving.
    """
    from luthier.models.modes import has_statistics  # torch, which a spec does without

    inside = {id(module) for part in (*moving, *model.head) for module in part.modules()}
    for module in model.network.modules():
        if not has_statistics(module):
            continue
        own = list(module.parameters())
        if not any(parameter.requires_grad for parameter in own) and (own or id(module) not in inside):
            module.eval()


FINAL_NORMS = (".norm", ".final_layernorm", ".layernorm", ".final_norm", ".final_layer_norm", ".ln_f")
"""How transformers calls the norm behind the last block."""


def _final_norms(model: TrainableModel) -> list[nn.Module]:
    """The norm between the last block and the head: outside of the blocks, and registered behind them."""
    modules = list(model.network.named_modules())
    inside = {id(module) for block in model.blocks for module in block.modules()}
    last = max((index for index, (_, module) in enumerate(modules) if id(module) in inside), default=-1)
    return [module for name, module in modules[last + 1 :] if f".{name}".endswith(FINAL_NORMS) and ".layers." not in name]
