"""The weights as the optimizer sees them: fp32, whatever the network computes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from luthier.optim.optimizers import decays


class Masters:
    """fp32 weights, fp32 gradients and the optimizer over them.

    Where the network computes in fp32 the weights are the network's own. Where it computes in bf16, a precise copy
    is kept, each micro-batch's gradients are added up in fp32, and the result is rounded into the network once a step.

    Args:
        network: in fp32, as loaded.
        optimizer: a spec from `optim.OPTIMIZERS`.
        dtype: what the network will compute in.
        movable: names of the parameters that may ever move.
        factor: a parameter's multiple of the rate, by name.
    """

    def __init__(self, network: nn.Module, optimizer: Any, dtype: torch.dtype, movable: set[str], factor: Callable[[str], float]) -> None:
        self.spec = optimizer
        self.inner = {name: parameter for name, parameter in network.named_parameters() if name in movable}
        copies = dtype != torch.float32
        self.outer: dict[str, Tensor] = {
            name: nn.Parameter(parameter.detach().clone()) if copies else parameter for name, parameter in self.inner.items()
        }
        if copies:
            network.to(dtype)
        self.copies = copies
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

    def collect(self) -> None:
        """Add a micro-batch's gradients to the step's."""
        if not self.copies:
            return
        for name, parameter in self.inner.items():
            if parameter.grad is not None:
                master = self.outer[name]
                if master.grad is None:
                    master.grad = parameter.grad.float()
                else:
                    master.grad += parameter.grad
                parameter.grad = None

    def forget(self) -> None:
        """Throw away the gradients of a step that could not be finished."""
        for parameter in (*self.inner.values(), *self.outer.values()):
            parameter.grad = None

    def step(self, count: float, factor: float) -> float:
        """Divide the summed gradients once, clip them, and move.

        Args:
            count: what the step's summed loss is divided by; 0 moves nothing.
            factor: of the schedule.

        Returns:
            The gradient's norm before clipping.
        """
        self.before_moving()
        gradients = [master.grad for master in self.outer.values() if master.grad is not None]
        if not gradients or count == 0:
            self.optimizer.zero_grad(set_to_none=True)
            return 0.0
        norm = float(torch.nn.utils.get_total_norm(gradients)) / count
        shrink = min(1.0, self.spec.clip / (norm + 1e-6)) if self.spec.clip else 1.0
        torch.ops.aten._foreach_mul_.Scalar(gradients, shrink / count)
        for group, (scale, _) in zip(self.optimizer.param_groups, self.groups, strict=True):
            group["lr"] = self.spec.lr * scale * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.publish()
        return norm

    def publish(self) -> None:
        """Round the precise weights into the network."""
        if self.copies:
            with torch.no_grad():
                torch.ops.aten._foreach_copy_.default(list(self.inner.values()), list(self.outer.values()))

    # what a checkpoint keeps

    def weights(self) -> dict[str, Tensor]:
        """The precise weights, by name."""
        return {name: master.detach() for name, master in self.outer.items()}

    def state(self) -> dict[str, Tensor]:
        """The optimizer's moments and counters, by parameter and name."""
        kept = {}
        for name, master in self.outer.items():
            for key, value in self.optimizer.state.get(master, {}).items():
                if value is not None:
                    kept[f"{name}/{key}"] = torch.as_tensor(value).detach()
        return kept

    def restore(self, weights: dict[str, Tensor], state: dict[str, Tensor] | None = None) -> None:
        """Go back to kept weights and, where given, to the optimizer's state."""
        self.before_moving()
        with torch.no_grad():
            for name, master in self.outer.items():
                master.copy_(weights[name])
        self.publish()
        if state is not None:
            for key, value in state.items():
                name, _, field = key.rpartition("/")
                self.optimizer.state[self.outer[name]][field] = value.clone()
