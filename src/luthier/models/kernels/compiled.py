"""The compiled code of this processor for what transformers compute between their large products, and its plain reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from luthier.models.kernels import decoder_kernels, shared_library, tile_kernels
from luthier.models.kernels.decoder_kernels import DecoderKernels
from luthier.models.kernels.plain import KERNELS
from luthier.models.kernels.shared_library import CompiledCode
from luthier.models.kernels.tile_kernels import TileKernels


class Plain:
    """The kernels as plain functions: what the compiled ones are measured by.

    Args:
        dtype: that networks compute in by them.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def fits(self, head_width: int) -> bool:
        """Whether heads of this width can be rotated."""
        return True

    def weight_gradient(self, d_said: Tensor, x: Tensor) -> Tensor:
        """See `DecoderKernels.weight_gradient`."""
        return d_said.t() @ x

    def column_sums(self, values: Tensor) -> Tensor:
        """See `DecoderKernels.column_sums`."""
        return values.float().sum(0)

    def __getattr__(self, name: str) -> Any:
        return KERNELS[name].function


Kernels = DecoderKernels | Plain


def is_kept() -> bool:
    """Whether the code for this processor need not be compiled any more."""
    parts = [decoder_kernels, *([tile_kernels] if torch.cpu._is_amx_tile_supported() else [])]
    return all(shared_library.is_kept(each.NAME, each.SOURCE) for each in parts)


def load() -> DecoderKernels:
    """The code for this processor; compiled first where it is not kept.

    Raises:
        LuthierError: there is no compiler, or it failed.
    """
    return TileKernels() if torch.cpu._is_amx_tile_supported() else DecoderKernels()


def _where(suits: Callable[[], bool]) -> CompiledCode:
    return CompiledCode(("bfloat16",), lambda: load(), lambda: is_kept(), suits)


DECODERS = _where(lambda: torch.cpu._is_avx512_bf16_supported())
"""Of decoders from scratch: where the processor multiplies in bf16, with tiles or with vectors; without either bf16 is slow."""
ENCODERS = BASES = _where(lambda: torch.cpu._is_amx_tile_supported())
"""Of encoders from scratch, and of bases: on tiles alone, where products are so fast that what lies between them takes most of a step."""
