"""Where it runs: the only file that knows devices, dtypes, threads and processors."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils import deterministic


def choose_dtype(asked: str) -> str:
    """What the model computes in, decided once.

    bfloat16 where the processor has matrix units for it (AMX tiles, or a GPU that supports it); without them bf16
    products are several times slower than fp32 on a CPU.
    """
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if torch.cpu._is_amx_tile_supported() else "float32"


def device() -> torch.device:
    """The accelerator where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def environment() -> dict[str, Any]:
    """What must be equal for a resumed run to give the same bits."""
    import transformers

    return {
        "luthier": version("luthier"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "matrix_units": bool(torch.cpu._is_amx_tile_supported()),
    }


def differences(then: dict[str, Any]) -> list[str]:
    """How this environment differs from an earlier one, a line each."""
    return [f"{name}: was {then.get(name)!r}, is {value!r}" for name, value in environment().items() if then.get(name) != value]


@contextlib.contextmanager
def shared(workers: int) -> Iterator[None]:
    """The processor's threads divided among so many workers, of which this process is one."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def exact() -> None:
    """Ask torch for the same bits each time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    # filling fresh memory with NaN finds bugs in torch, and costs a tenth of a step
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def available() -> int:
    """Bytes of memory that a new process could have: of the machine, and of the group it runs in."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        line = next((line for line in meminfo.read_text().split("\n") if line.startswith("MemAvailable")), "")
        found = int(line.split()[1]) * 1024 if line else found
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        found = min(found, int(limit.read_text()) - int(used.read_text()))
    return found
