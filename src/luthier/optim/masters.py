"""Master weights: the optimizer moves fp32 copies, whatever dtype the network computes in."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from luthier.core.errors import ExperimentError
from luthier.models.buffers import Buffers
from luthier.models.kernels.compiled import Kernels
from luthier.models.kernels.word_kernels import RowGradient, WordKernels
from luthier.models.precision import round_weights_to
from luthier.optim.optimizers import Adagrad, AdamW, decays
from luthier.optim.sparse_rows import SparseRows

MET = "/met"
LARGE = 1 << 22
"""Of numbers: where the heap has no room for more (see `training.devices`), freed memory of that size goes back to the system."""

PIECE = 1 << 18
"""Numbers that are added at once."""


class Masters:
    """fp32 weights, fp32 gradients and the optimizer over them.

    Where the network computes in fp32 the weights are the network's own. Where it computes in bf16, a precise copy
    is kept, each micro-batch's gradients are added up in fp32, and the result is rounded into the network once a step.
    Of an embedding only the rows of tokens that training meets can move, so only those are kept. The network's persistent buffers stay its own, in their
    own dtype.

    Args:
        network: in fp32, as loaded.
        optimizer: a spec from `optim.OPTIMIZERS`.
        dtype: what the network will compute in.
        movable: names of the parameters that may ever move.
        factor: a parameter's multiple of the learning rate, by name.
        sparse_rows: of an embedding whose gradient is sparse, the tokens that training meets, by its name, # name → (tokens,)
        kernels: the compiled ones, where they are used: a step of AdamW is then one pass, and gradients of one micro-batch wait as they come; those of
            word vectors move rows by AdaGrad.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Any,
        dtype: torch.dtype,
        movable: set[str],
        factor: Callable[[str], float],
        sparse_rows: Mapping[str, Tensor] | None = None,
        kernels: Kernels | WordKernels | None = None,
    ) -> None:
        self.spec = optimizer
        self.inner = {name: parameter for name, parameter in network.named_parameters() if name in movable}
        self._buffers = Buffers(network)
        self.sparse_rows = {
            name: SparseRows(tokens, len(self.inner[name]), name) for name, tokens in (sparse_rows or {}).items() if name in movable
        }
        copies = dtype != torch.float32
        self.outer: dict[str, Tensor] = {name: self._outer(name, parameter, copies) for name, parameter in self.inner.items()}
        if copies:
            round_weights_to(network, dtype)
        self.copies = copies
        self._collecting = False
        self._rooms: dict[str, Tensor] = {}
        self._waiting: dict[str, Tensor] = {}  # gradients that came once, in bf16
        self._kernels: Any = kernels if copies and isinstance(optimizer, AdamW) else None
        self._row_kernels = kernels if isinstance(kernels, WordKernels) and isinstance(optimizer, Adagrad) else None
        for name in self.inner if copies else self.sparse_rows:
            self._watch(name)
        self.before_moving: Callable[[], None] = lambda: None  # whoever still reads the weights puts a wait here
        buckets: dict[tuple[float, bool], list[str]] = {}
        for name, parameter in self.outer.items():
            buckets.setdefault((factor(name), decays(name, parameter)), []).append(name)
        self.groups = buckets
        self.optimizer = optimizer.build(
            [
                {
                    "params": [self.outer[name] for name in names],
                    "lr": optimizer.lr * scale,
                    "weight_decay": optimizer.weight_decay if decay else 0.0,
                }
                for (scale, decay), names in buckets.items()
            ]
        )

    def _outer(self, name: str, parameter: nn.Parameter, copies: bool) -> Tensor:
        if name in self.sparse_rows:
            return nn.Parameter(self.sparse_rows[name].select(parameter))
        return nn.Parameter(parameter.detach().clone()) if copies else parameter

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """While a micro-batch's gradients are made, add each to the step's as soon as it is whole: none waits until all are there."""
        self._collecting = True
        try:
            yield
        finally:
            self._collecting = False

    def _watch(self, name: str) -> None:
        """Hear of a parameter's gradient; the parameter holds no reference back, so that both go when nobody needs them."""
        take, watched = weakref.WeakMethod(self._accumulate), self.inner[name]

        def heard(parameter: Tensor) -> None:
            taking = take()
            if taking is not None:
                taking(name, parameter)

        moving = watched.requires_grad
        watched.requires_grad_(True).register_post_accumulate_grad_hook(heard)  # one that moves later is heard of then
        watched.requires_grad_(moving)

    def _accumulate(self, name: str, parameter: Tensor) -> None:
        if not self._collecting or parameter.grad is None:
            return
        master, gradient = self.outer[name], parameter.grad
        parameter.grad = None
        if name in self.sparse_rows:
            master.grad = self.sparse_rows[name].add(self.sparse_rows[name].zeros(master) if master.grad is None else master.grad, gradient)
            return
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        if self._kernels is not None and master.grad is None and name not in self._waiting:
            self._waiting[name] = gradient
            return
        self._widen(name)
        if master.grad is None:
            master.grad = self._room(name, master).copy_(gradient)
        else:
            rows = max(1, PIECE * len(gradient) // gradient.numel())
            for total, piece in zip(master.grad.split(rows), gradient.split(rows), strict=True):
                total += piece  # a sum of two precisions makes a copy first, of as much as is added at once

    def _widen(self, name: str) -> None:
        """A gradient that waits becomes the first of a sum in fp32."""
        if name in self._waiting:
            master = self.outer[name]
            master.grad = self._room(name, master).copy_(self._waiting.pop(name))

    def _room(self, name: str, master: Tensor) -> Tensor:
        """Where a step's gradient goes; for the largest the same memory each time, because fresh memory comes page by page."""
        if master.numel() < LARGE:
            return torch.empty_like(master, requires_grad=False)
        if name not in self._rooms:
            self._rooms[name] = torch.empty_like(master, requires_grad=False)
        return self._rooms[name]

    def zero_grad(self, buffers: Mapping[str, Tensor] | None = None) -> None:
        """Throw away what a step that could not be finished has left: its gradients, and what its forward passes have put into the buffers.

        Args:
            buffers: what `buffers` returned before the step.
        """
        for parameter in (*self.inner.values(), *self.outer.values()):
            parameter.grad = None
        self._waiting.clear()
        if buffers is not None:
            self._buffers.restore(buffers)

    def step(self, count: float, factor: float) -> float:
        """Divide the summed gradients once, clip them, and move.

        Args:
            count: what the step's summed loss is divided by; 0 moves nothing.
            factor: of the schedule.

        Returns:
            The gradient's norm before clipping.
        """
        self.before_moving()
        gradients = [self._numbers(master) for master in self.outer.values() if master.grad is not None]
        if not (gradients or self._waiting) or count == 0:
            self.optimizer.zero_grad(set_to_none=True)
            self._waiting.clear()
            return 0.0
        norm = self._norm(gradients) / count
        shrink = min(1.0, self.spec.clip / (norm + 1e-6)) if self.spec.clip else 1.0
        if gradients:
            torch.ops.aten._foreach_mul_.Tensor(gradients, torch.tensor(shrink / count, device=gradients[0].device))
        for group, (scale, _) in zip(self.optimizer.param_groups, self.groups, strict=True):
            group["lr"] = self.spec.lr * scale * factor
        moved = self._step_in_one_pass(shrink / count)
        self._move_rows()
        if any(master.grad is not None for master in self.outer.values()):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.copy_to_model(moved)
        return norm

    def _numbers(self, master: Tensor) -> Tensor:
        """A gradient's numbers, to be scaled in place; of a table's sparse gradient those of the rows that were read, each row once.

        Raises:
            ExperimentError: weight decay is asked for, which would have to move the other rows too.
        """
        assert master.grad is not None
        if not master.grad.is_sparse:
            return master.grad
        if not self.spec.moves_rows:
            master.grad = master.grad.to_dense()
            return master.grad
        if self.spec.weight_decay:
            raise ExperimentError(
                "optimizer.weight_decay pulls at every row of a table, and here only the rows move that a step has read",
                "set optimizer.weight_decay=0",
            )
        master.grad = master.grad.coalesce()
        return master.grad._values()

    def _norm(self, gradients: list[Tensor]) -> float:
        """Of these and of those that wait."""
        norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
        if not self._waiting:
            return norm
        squares = torch.stack([self._kernels.square_sum(gradient.flatten()) for gradient in self._waiting.values()])
        return math.sqrt(norm**2 + float(squares.double().sum()))

    def _step_in_one_pass(self, scale: float) -> set[str]:
        """Take the optimizer's step for the gradients that wait, and publish what it says, in one pass a parameter.

        Args:
            scale: what the gradients are multiplied by.

        Returns:
            the names of those that are done.
        """
        if not self._waiting:
            return set()
        for group, names in zip(self.optimizer.param_groups, self.groups.values(), strict=True):
            counted, numbers = 0.0, torch.empty(0)
            for name in names:
                if name not in self._waiting:
                    continue
                master, gradient = self.outer[name].detach(), self._waiting[name]
                state = self.optimizer.state[self.outer[name]]
                if not state:
                    state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(master), exp_avg_sq=torch.zeros_like(master))
                state["step"] += 1
                steps = float(state["step"])
                if steps != counted:  # those that began together have the same
                    counted, numbers = steps, torch.tensor(self._numbers_of_step(group, scale, steps))
                rounded = self.inner[name].detach()
                flat = (tensor.view(-1) for tensor in (master, state["exp_avg"], state["exp_avg_sq"], rounded, gradient.contiguous()))
                self._kernels.adamw_(*flat, numbers)
        done = set(self._waiting)
        self._waiting.clear()
        return done

    def _numbers_of_step(self, group: Mapping[str, Any], scale: float, steps: float) -> list[float]:
        """What a step of AdamW multiplies by, as `kernels.adamw_` takes it.

        Args:
            group: of the optimizer.
            scale: of the gradients.
            steps: that a parameter has taken, with this one.
        """
        beta, beta_square = self.spec.betas
        numbers = [scale, 1 - group["lr"] * group["weight_decay"], beta, 1 - beta, beta_square, 1 - beta_square]
        return [*numbers, group["lr"] / (1 - beta**steps), math.sqrt(1 - beta_square**steps), self.spec.eps]

    def _move_rows(self) -> None:
        """Take AdaGrad's step for the sparse gradients in one pass each, where there are kernels for it."""
        if self._row_kernels is None:
            return
        for group, names in zip(self.optimizer.param_groups, self.groups.values(), strict=True):
            for name in names:
                master = self.outer[name]
                if master.grad is None or not master.grad.is_sparse:
                    continue
                state, gradient = self.optimizer.state[master], RowGradient(master.grad._indices()[0], master.grad._values())
                state["step"] += 1
                self._row_kernels.adagrad_(master.detach(), state["sum"], gradient, group["lr"], self.spec.eps)
                master.grad = None

    def copy_to_model(self, done: Collection[str] = ()) -> None:
        """Put the precise weights into the network, rounded to what it computes in; `done`: names of those that are there."""
        with torch.no_grad():
            for name, sparse_rows in self.sparse_rows.items():
                sparse_rows.copy_to_table(self.outer[name], self.inner[name])
            if self.copies:
                names = [name for name in self.inner if name not in self.sparse_rows and name not in done]
                if names:
                    torch.ops.aten._foreach_copy_.default([self.inner[name] for name in names], [self.outer[name] for name in names])

    # what a checkpoint keeps

    def weights(self) -> dict[str, Tensor]:
        """The precise weights, by name."""
        return {name: master.detach() for name, master in self.outer.items()}

    def buffers(self) -> dict[str, Tensor]:
        """A copy of the network's persistent buffers, by name: unlike the weights they move with each forward pass, not with the step."""
        return self._buffers.copy()

    def state(self) -> dict[str, Tensor]:
        """The optimizer's moments and counters, by parameter and name."""
        moments = {}
        for name, master in self.outer.items():
            for key, value in self.optimizer.state.get(master, {}).items():
                if value is not None:
                    moments[f"{name}/{key}"] = torch.as_tensor(value).detach()
        return moments

    def tokens(self) -> dict[str, Tensor]:
        """Which tokens the kept rows of an embedding belong to, by its name and `MET`."""
        return {name + MET: sparse_rows.tokens for name, sparse_rows in self.sparse_rows.items()}

    def restore(self, weights: dict[str, Tensor], state: dict[str, Tensor] | None = None) -> None:
        """Go back to kept weights and, where given, to the optimizer's state; of other rows, that meet other tokens, to what both have.

        Args:
            weights: what `weights`, `buffers` and `tokens` returned, in one.
            state: what `state` returned.

        Raises:
            RunError: a buffer of the network is not among them.
        """
        self.before_moving()
        self._buffers.restore(weights)
        then = {name: weights.get(name + MET, sparse_rows.tokens) for name, sparse_rows in self.sparse_rows.items()}
        with torch.no_grad():
            for name, master in self.outer.items():
                if name not in self.sparse_rows:
                    master.copy_(weights[name])
                    continue
                self.inner[name].index_copy_(0, then[name], weights[name].to(self.inner[name].dtype))
                self.sparse_rows[name].restore(master, weights[name], then[name])
        self.copy_to_model()
        for key, value in (state or {}).items():
            name, _, field = key.rpartition("/")
            master = self.outer[name]
            whole = value.clone()
            if value.ndim and name in self.sparse_rows:
                whole = self.sparse_rows[name].restore(torch.zeros_like(master, requires_grad=False), value, then[name])
            self.optimizer.state[master][field] = whole
