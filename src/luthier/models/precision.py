"""What a network computes in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def compute_in(network: Network, dtype: torch.dtype) -> Network:
    """Round the weights, in place, and leave the buffers as they are, as transformers loads it.

    The frequencies that positions are told by are buffers: in bf16 they would be some hundredths of a turn off at once, and whole turns after some hundred tokens.

    Args:
        network: changed; its parameters stay the same objects.
        dtype: of the weights from now on.
    """
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    return network


@contextlib.contextmanager
def precisely(network: nn.Module) -> Iterator[None]:
    """For the time of the context the network computes in fp32; its weights are what they were before and after.

    Args:
        network: all of whose weights have one dtype.
    """
    before = next(network.parameters()).dtype
    compute_in(network, torch.float32)
    try:
        yield
    finally:
        compute_in(network, before)
