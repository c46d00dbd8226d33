"""The compiled code of this processor for what transformers compute between their large products, and its plain reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.models import decoder_kernels, shared_library, tile_kernels
from luthier.models.decoder_kernels import DecoderKernels
from luthier.models.kernels import KERNELS
from luthier.models.tile_kernels import TileKernels


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


def are_kept() -> bool:
    """Whether the code for this processor need not be compiled any more."""
    return all(shared_library.library_file(each.NAME, each.SOURCE).is_file() for each in _parts())


def can_be_had() -> bool:
    """Whether there is code for this processor; it is compiled first where it is not kept, in some seconds."""
    return tile_kernels.can_be_had() if torch.cpu._is_amx_tile_supported() else decoder_kernels.can_be_had()


def load() -> DecoderKernels:
    """The code for this processor; compiled first where it is not kept.

    Raises:
        LuthierError: there is no compiler, or it failed.
    """
    return TileKernels() if torch.cpu._is_amx_tile_supported() else DecoderKernels()


DECODERS = shared_library.OwnKernels(
    ("bfloat16",), lambda: can_be_had(), lambda: are_kept(), lambda: torch.cpu._is_avx512_bf16_supported()
)  # fmt: skip
"""Of decoders from scratch: where the processor multiplies in bf16, with tiles or with vectors; without either bf16 is slow."""
ENCODERS = shared_library.OwnKernels(("bfloat16",), lambda: can_be_had(), lambda: are_kept(), lambda: torch.cpu._is_amx_tile_supported())
"""Of encoders from scratch: on tiles alone."""


def _parts() -> list[Any]:
    return [decoder_kernels, *([tile_kernels] if torch.cpu._is_amx_tile_supported() else [])]
