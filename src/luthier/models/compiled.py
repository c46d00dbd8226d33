"""Kernels compiled once for a machine and kept beside the models; loading them takes milliseconds and no compiler."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.core.run import AGAIN, name_disk_errors
from luthier.models import kernels
from luthier.models.decoder_kernels import DecoderKernels
from luthier.models.kernels import KERNELS, Kernel
from luthier.models.store import home

TYPES = {"b": torch.bfloat16, "f": torch.float32, "i": torch.int64}
EXAMPLE_SIZES = {"tokens": 160, "width": 576, "asking": 480, "length": 112, "heads": 9, "vocabulary": 4096, "numbers": 4160}
"""Lengths of the axes while compiling: the code is made for any."""
OPTIONS: dict[str, Any] = {"cpp.dynamic_threads": True, "aot_inductor.compile_wrapper_opt_level": "O0"}


FEW = 3
"""Kernels that one process compiles sooner than two: each first compiles torch's headers."""
CHILD = "import sys; from luthier.core.collector import collect_seldom; collect_seldom(); from luthier.models.compiled import compile_kernels; compile_kernels(sys.argv[1], sys.argv[2:])"


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

    def __getattr__(self, name: str) -> Any:
        return KERNELS[name].function


class Compiled:
    """The kernels, each under its name; takes and returns tensors as the plain function does.

    Args:
        folder: where they are kept.
    """

    dtype = torch.bfloat16

    def fits(self, head_width: int) -> bool:
        """Whether heads of this width can be rotated."""
        return head_width == KERNELS["rotary"].shapes[0][-1]

    def __init__(self, folder: Path) -> None:
        packages: Any = torch._C  # torch's own `aoti_load_package` loads its whole compiler first: seconds, and 200 MB
        opened = packages._aoti.AOTIModelPackageLoader
        self._loaded = {file.stem: opened(str(file), "model", False, 1, -1) for file in folder.glob("*.pt2")}

    def __getattr__(self, name: str) -> Any:
        run = self.__dict__["_loaded"][name].boxed_run

        def call(*tensors: Tensor) -> Any:
            outputs = run([tensor.contiguous() for tensor in tensors])  # the code was made for tensors that lie in one piece
            return (outputs[0] if len(outputs) == 1 else tuple(outputs)) if outputs else None

        self.__dict__[name] = call
        return call


Kernels = Compiled | Plain | DecoderKernels


def cache_folder() -> Path:
    """Where the kernels of this processor, torch and source are kept, whether they are there or not: below `LUTHIER_KERNELS`, else beside the models."""
    source = Path(kernels.__file__).read_bytes()
    parts = [torch.__version__, torch.backends.cpu.get_cpu_capability(), str(torch.cpu._is_amx_tile_supported()), str(OPTIONS)]
    return (
        Path(os.environ.get("LUTHIER_KERNELS") or home().parent / "kernels")
        / hashlib.sha256(b"\0".join([source, *(name.encode() for name in parts)])).hexdigest()[:16]
    )


def are_cached() -> bool:
    """Whether the kernels need not be compiled any more."""
    return cache_folder().is_dir()


def load() -> Compiled:
    """The kernels; compiled first where they are not kept, which takes about a minute.

    Raises:
        ModelError: there is no compiler, or it failed.
    """
    folder = cache_folder()
    if not folder.is_dir():
        build(folder, list(KERNELS))
    return Compiled(folder)


def build(folder: Path, names: Sequence[str]) -> None:
    """Compile kernels, in processes of their own: the compiler's Python part takes memory that training needs.

    Args:
        folder: appears when all of them are there.
        names: of them.

    Raises:
        ModelError: the compiler failed.
    """
    with name_disk_errors(str(folder.parent), AGAIN):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as room:
        halves = [names[::2], names[1::2]] if len(names) > FEW else [names]
        running = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD, room, *half],
                env={**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": f"{room}/work{number}"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number, half in enumerate(halves)
        ]
        errors = [process.communicate()[1] for process in running]
        if any(process.returncode for process in running):
            raise ModelError(
                f"the kernels could not be compiled: {''.join(errors).strip()[-500:]}",
                "install a C++ compiler (g++), or set training.kernels=plain",
            )
        for number in range(len(halves)):
            shutil.rmtree(f"{room}/work{number}", ignore_errors=True)
        if not folder.is_dir():  # another run may have been faster
            shutil.copytree(room, folder.with_suffix(".new"), dirs_exist_ok=True)
            folder.with_suffix(".new").rename(folder)


def compile_kernels(folder: str, names: Sequence[str]) -> None:
    """Compile kernels in this process, each to a file of its own.

    Args:
        folder: for the files.
        names: of the kernels.
    """
    for name in names:
        _compile(KERNELS[name], Path(folder) / f"{name}.pt2")


def _compile(kernel: Kernel, target: Path) -> None:
    """Compile for axes of any length, but for those that are fixed."""
    from torch._inductor import aoti_compile_and_package
    from torch.export import Dim, export

    class Module(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Any:
            return kernel.function(*tensors)

    tensors = [_example(shape, TYPES[letter]) for shape, letter in zip(kernel.shapes, kernel.types, strict=True)]
    anyhow = {name: Dim(name, min=1) for shape in kernel.shapes for name in shape if isinstance(name, str)}
    axes = [{axis: anyhow[name] for axis, name in enumerate(shape) if isinstance(name, str)} for shape in kernel.shapes]
    with torch.no_grad():
        made = export(Module(), tuple(tensors), dynamic_shapes=(tuple(axes),), strict=False)
        aoti_compile_and_package(made, package_path=str(target), inductor_configs=OPTIONS)


def _example(shape: Sequence[str | int], dtype: torch.dtype) -> Tensor:
    lengths = [EXAMPLE_SIZES[name] if isinstance(name, str) else name for name in shape]
    return torch.ones(lengths, dtype=dtype) if dtype == torch.int64 or not lengths else torch.randn(lengths).to(dtype)


if __name__ == "__main__":
    load()
