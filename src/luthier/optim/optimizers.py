"""Optimizers, torch's own in their fused form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.core.component import Component

if TYPE_CHECKING:
    import torch


class _Rated(Component):
    moves_rows: ClassVar[bool] = False
    """Whether it takes a table's sparse gradient as it is, and moves the rows that are in it alone; the others make a whole table of it."""
    lr: float = Field(gt=0, description="The highest learning rate of the run (HF: learning_rate).")
    head_lr: float | None = Field(default=None, gt=0, description="The learning rate of a new head; the same as `lr` when unset.")
    weight_decay: float = Field(
        default=0.01, ge=0, description="Pull towards zero; not on biases and norms, nor on the vectors of tokens that no training row has."
    )
    clip: float = Field(default=1.0, ge=0, description="The gradient's norm is cut to this (HF: max_grad_norm); 0 never cuts.")


class AdamW(_Rated):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="How slowly the two moments forget.")
    eps: float = Field(default=1e-8, gt=0, description="Keeps the division finite.")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Torch's optimizer over groups with `params`, `lr` and `weight_decay`."""
        import torch

        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


class Adam(_Rated):
    """Adam; weight decay is added to the gradient (Kingma & Ba 2015)."""

    kind: Literal["adam"] = "adam"
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="How slowly the two moments forget.")
    eps: float = Field(default=1e-8, gt=0, description="Keeps the division finite.")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Torch's optimizer over groups with `params`, `lr` and `weight_decay`."""
        import torch

        return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


class Sgd(_Rated):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Share of the last step that is kept.")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Torch's optimizer over groups with `params`, `lr` and `weight_decay`."""
        import torch

        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=True)


class Adagrad(_Rated):
    """AdaGrad: each number's own learning rate, which falls with the gradients it has met; of a table only the rows that a step has read move (Duchi, Hazan & Singer 2011)."""

    kind: Literal["adagrad"] = "adagrad"
    moves_rows: ClassVar[bool] = True
    weight_decay: float = Field(
        default=0.0, ge=0, description="Pull towards zero; not possible where only the rows of a table move that a step has read."
    )
    eps: float = Field(default=1e-10, gt=0, description="Keeps the division finite.")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Torch's optimizer over groups with `params`, `lr` and `weight_decay`."""
        import torch

        torch.sparse.check_sparse_tensor_invariants.disable()  # as it is; said, so that torch does not warn
        return torch.optim.Adagrad(groups, lr=self.lr, eps=self.eps)


def decays(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay acts on a parameter: on matrices, not on biases and norms."""
    return parameter.ndim > 1 and not name.endswith("bias")
