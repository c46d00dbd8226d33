"""Code in C++ that is compiled once for a machine, kept beside the models, and loaded in milliseconds."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from luthier.core.cache import cache_folder
from luthier.core.errors import LuthierError, ModelError
from luthier.core.run import AGAIN, name_disk_errors

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
"""Of the compiler."""
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
"""That any of the sources may include."""
PROCESSOR = ("vendor_id", "cpu family", "model", "model name", "flags", "CPU implementer", "CPU part", "Features")
"""Lines of /proc/cpuinfo by which processors are told apart: code for one may end the process on another."""
Library = TypeVar("Library")


@dataclass(frozen=True)
class CompiledCode:
    """Code that may stand in for torch's operations in the steps of a training on a processor.

    Args:
        computes_in: the dtypes that the model may compute in.
        load: loads it, and compiles it first where it is not kept.
        is_kept: whether it need not be compiled any more.
        suits: whether it is the faster one on this processor.
    """

    computes_in: tuple[str, ...]
    load: Callable[[], Any]
    is_kept: Callable[[], bool]
    suits: Callable[[], bool] = lambda: True

    def can_be_had(self) -> bool:
        """Whether it can be loaded."""
        try:
            self.load()
        except LuthierError:
            return False
        return True


def library_file(name: str, source: Path) -> Path:
    """Where the code for this processor lies, whether it is there or not: below `LUTHIER_KERNELS`, else beside the models.

    Args:
        name: that the file begins with.
        source: in C++.
    """
    key = hashlib.sha256(
        "\0".join([source.read_text(), *(header.read_text() for header in HEADERS), *FLAGS, describe_processor()]).encode()
    ).hexdigest()[:16]
    return Path(os.environ.get("LUTHIER_KERNELS") or cache_folder() / "kernels") / f"{name}-{key}.so"


def describe_processor() -> str:
    """The model of this machine's processor and the instructions that it knows: several machines may share a home."""
    lines: dict[str, str] = {}
    for line in _processor_lines():
        name, _, value = line.partition(":")
        if name.strip() in PROCESSOR:
            lines.setdefault(name.strip(), value.strip())
    return "\n".join([platform.machine(), *(f"{name}: {lines[name]}" for name in sorted(lines))])


def _processor_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().split("\n") if file.exists() else [f"model name: {platform.processor()}"]


def can_compile() -> bool:
    """Whether there is a C++ compiler."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def build(name: str, source: Path) -> Path:
    """Compile, unless it is there; takes some seconds.

    Args:
        name: that the file begins with.
        source: in C++.

    Raises:
        LuthierError: there is no compiler, it failed, or there is no place for what it makes.
    """
    file = library_file(name, source)
    if file.is_file():
        return file
    if not file.is_absolute():
        raise ModelError(f"LUTHIER_KERNELS names a relative folder, {file.parent}", "give an absolute one")
    if not can_compile():
        raise ModelError("there is no C++ compiler", "install g++")
    with name_disk_errors(str(file.parent), AGAIN):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as room:
            made = Path(room) / file.name
            command = [os.environ.get("CXX", "g++"), *FLAGS, f"-I{Path(__file__).parent}", "-o", str(made), str(source)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not made.is_file():
                raise ModelError(f"{source.name} could not be compiled: {done.stderr.strip()[-500:]}", "install another C++ compiler (g++)")
            made.replace(file)  # another process may have been faster: the same code
    return file


def is_kept(name: str, source: Path) -> bool:
    """Whether the code for this processor need not be compiled any more.

    Args:
        name: that the file begins with.
        source: in C++.
    """
    return library_file(name, source).is_file()


def declare(file: Path, takes: Mapping[str, Sequence[Any]]) -> Any:
    """A library whose functions return nothing, and take the number of threads behind their other arguments.

    Args:
        file: compiled.
        takes: of each function, without `luthier_` before its name, the types of these arguments.
    """
    library = ctypes.CDLL(str(file))
    for name, arguments in takes.items():
        function = getattr(library, f"luthier_{name}")
        function.argtypes, function.restype = [*arguments, ctypes.c_int], None
    return library


def load(name: str, source: Path, opened: Callable[[Path], Library]) -> Library:
    """The compiled code, compiled first where it is not there.

    Args:
        name: that the file begins with.
        source: in C++.
        opened: loads a file and says what its functions take.

    Raises:
        LuthierError: it cannot be had.
    """
    try:
        return opened(build(name, source))
    except OSError as problem:  # also of the dynamic loader
        raise ModelError(f"compiled code cannot be had: {problem}", f"remove {library_file(name, source)}: it is compiled again") from None
