"""The dtype that a network computes in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from luthier.models.modes import has_statistics

Network = TypeVar("Network", bound=nn.Module)


def precise_dtype(values: Tensor) -> torch.dtype:
    """The dtype that sums and exponentials of some values are taken in: fp32, or fp64 where they are fp64 themselves."""
    return torch.promote_types(values.dtype, torch.float32)


def round_weights_to(network: Network, dtype: torch.dtype) -> Network:
    """Round the weights, in place, and leave the buffers as they are, as transformers loads it.

    The frequencies that positions are told by are buffers: in bf16 they would be some hundredths of a turn off at once, and whole turns after some hundred tokens.
    A batch norm stays in fp32 whole: torch wants its weights as precise as its statistics, and takes rounded inputs all the same.

    Args:
        network: changed; its parameters stay the same objects.
        dtype: of the weights from now on.
    """
    precise = {id(parameter) for module in network.modules() if has_statistics(module) for parameter in module.parameters(recurse=False)}
    for parameter in network.parameters():
        if id(parameter) not in precise:
            parameter.data = parameter.data.to(dtype)
    return network


@contextlib.contextmanager
def in_fp32(network: nn.Module) -> Iterator[None]:
    """For the time of the context the network computes in fp32; its weights are what they were before and after.

    Args:
        network: all of whose weights have one dtype.
    """
    before = next(network.parameters()).dtype
    round_weights_to(network, torch.float32)
    try:
        yield
    finally:
        round_weights_to(network, before)
