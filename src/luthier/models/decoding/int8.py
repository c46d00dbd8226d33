"""Weights in int8: each output of a product has a scale for every 64 inputs, and what is multiplied by the weights stays in fp32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PANEL = 64
"""Outputs whose weights lie together, as in kernels.cpp."""
GROUP = 64
"""Inputs that share a scale."""


def quantise_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights to int8, symmetrically, with one scale for each output and each 64 inputs.

    Args:
        weight: # (outputs, inputs) fp32

    Returns:
        the numbers, # (outputs, inputs) int8, and their scales, # (outputs, groups) fp32
    """
    outputs, inputs = weight.shape
    groups = -(-inputs // GROUP)
    grouped = functional.pad(weight, (0, groups * GROUP - inputs)).view(outputs, groups, GROUP)
    scale = grouped.abs().amax(2).clamp(min=1e-30) / 127
    numbers = (grouped / scale[:, :, None]).round().clamp(-127, 127).to(torch.int8)
    return numbers.view(outputs, -1)[:, :inputs], scale


def lay_in_panels(weight: Tensor) -> Tensor:
    """Weights as the compiled products read them, the last panel filled with zeros, # (outputs, inputs) → (panels, inputs, 64)"""
    outputs, inputs = weight.shape
    panels = -(-outputs // PANEL)
    if panels * PANEL != outputs:
        weight = torch.cat([weight, weight.new_zeros(panels * PANEL - outputs, inputs)])
    return weight.view(panels, PANEL, inputs).transpose(1, 2).contiguous()
