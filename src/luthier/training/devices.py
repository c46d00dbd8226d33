"""Devices, dtypes, threads and processors: the only file that knows them."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch.utils import deterministic

from luthier.core.errors import ExperimentError
from luthier.core.threads import allowed_processors, free_processors
from luthier.experiment import Experiment
from luthier.models.base import COMPILED, Base
from luthier.models.kernels import compiled
from luthier.models.kernels.shared_library import CompiledCode

AT_ONCE, AT_ONCE_COMPILED, AT_ONCE_NARROW, AT_ONCE_ACCELERATED = 1024, 4096, 4096, 16_384
NARROW = 128
"""Width up to which the products of 1,024 tokens are so small that calling them takes a good part of a step."""
MMAP_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -4, -3, -1  # glibc's malloc.h
VERY_LARGE, MOST_MMAPS = 1 << 24, 1 << 16
MADV_HUGEPAGE = 14  # Linux's mman.h
HEAP, STRETCH = 8 << 30, 1 << 29
SERVED_KERNELS = "64"
"""Compiled products that a server keeps."""


def decide_device_fields(experiment: Experiment, base: Base | None = None) -> Experiment:
    """The experiment with what it leaves to the machine: what the model computes in, by which kernels, and how many tokens go through it at once.

    More tokens at once than keep an accelerator's units busy, or than a processor's caches hold, only take memory; compiled kernels and narrow networks take less of it a token.

    Args:
        experiment: whose `training` may hold auto and 0.
        base: that is trained; where none is given, kernels stay plain unless they are asked for or the objective has its own, and the width is that of the objective's settings.
    """
    training = experiment.training
    dtype = choose_dtype(training.dtype)
    objective: Any = experiment.objective
    kernels = choose_kernels(training.kernels, dtype, compiled_code(experiment, base))
    width = base.width if base is not None else getattr(objective, "wide", getattr(objective, "width", 0))
    on_processor = AT_ONCE_COMPILED if kernels == "compiled" else AT_ONCE_NARROW if 0 < width <= NARROW else AT_ONCE
    at_once = training.micro_batch_tokens or (AT_ONCE_ACCELERATED if torch.cuda.is_available() else on_processor)
    chosen = {"dtype": dtype, "kernels": kernels, "micro_batch_tokens": at_once}
    return experiment.set({f"training.{name}": value for name, value in chosen.items()})


def compiled_code(experiment: Experiment, base: Base | None) -> CompiledCode | None:
    """The code that may stand in for torch's operations in the steps of an experiment; None where there is none for it.

    Args:
        experiment: whose objective may have some of its own.
        base: that is trained.
    """
    objective: Any = experiment.objective
    own = objective.compiled_code(base) if hasattr(objective, "compiled_code") else None
    if own is not None:
        return own
    return compiled.BASES if base is not None and base.family in COMPILED else None


def is_faster(code: CompiledCode, dtype: str) -> bool:
    """Whether compiled code would be the faster one here.

    Args:
        code: for the experiment.
        dtype: what the model computes in, or auto.
    """
    return choose_dtype(dtype) in code.computes_in and not torch.cuda.is_available() and code.suits()


def choose_kernels(asked: str, dtype: str, code: CompiledCode | None) -> str:
    """Which kernels the model computes by: compiled ones where there are some, they are faster and can be had.

    Args:
        asked: auto, plain or compiled.
        dtype: what the model computes in.
        code: there is for it.

    Raises:
        ExperimentError: compiled kernels are asked for where they cannot be used.
    """
    computes_in = code.computes_in if code else ("bfloat16",)
    if asked == "compiled" and (dtype not in computes_in or torch.cuda.is_available()):
        raise ExperimentError(
            f"training.kernels=compiled is for {' or '.join(computes_in)} on a processor here, and this run computes in {dtype} on {device().type}",
            "set training.kernels=auto",
        )
    if asked != "auto":
        return asked
    return "compiled" if code is not None and is_faster(code, dtype) and code.can_be_had() else "plain"


def choose_dtype(asked: str) -> str:
    """What the model computes in.

    bfloat16 where the processor has instructions for it (AMX tiles, AVX-512 BF16, or a GPU that supports it): its products
    are then four to six times as fast as fp32; without them bf16 is several times slower on a CPU.
    """
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "float32" if bfloat16_units() == "none" else "bfloat16"


def bfloat16_units() -> str:
    """What of the processor multiplies in bf16: tiles, vectors, or none."""
    if torch.cpu._is_amx_tile_supported():
        return "tiles"
    return "vectors" if torch.cpu._is_avx512_bf16_supported() else "none"


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
        "bfloat16": bfloat16_units(),
    }


def environment_differences(then: dict[str, Any]) -> list[str]:
    """How this environment differs from an earlier one, a line each; not in the number of threads, which is set again (`use_threads`)."""
    return [
        f"{name}: was {then.get(name)!r}, is {value!r}"
        for name, value in environment().items()
        if name != "threads" and then.get(name) != value
    ]


@dataclass(frozen=True)
class Threads:
    """How many threads a run computes on.

    Args:
        number: of them.
        usual: of them, where nothing else is at work.
        free: processors that were idle; None where nobody looked.
    """

    number: int
    usual: int
    free: float | None


def choose_threads(workers: int = 1) -> Threads:
    """As many threads as processors are free, and no more than torch would take or this process is allowed.

    A thread that has no processor to itself holds up the others at the end of every product. What a person has set (OMP_NUM_THREADS, or
    `torch.set_num_threads` to another number than torch's own) is taken.

    Args:
        workers: that share the processors, of which this process is one.
    """
    now, allowed = torch.get_num_threads(), allowed_processors()
    if any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")) or now not in _torchs_own():
        return Threads(max(1, now // workers), max(1, now // workers), None)
    usual = max(1, min(now, int(allowed)))
    free = free_processors() if usual > 1 else None
    count = usual if free is None else max(1, min(usual, round(free)))
    return Threads(max(1, count // workers), max(1, usual // workers), free)


def _torchs_own() -> set[int]:
    """Numbers of threads that torch may have taken by itself: the processors, or half of them where two are one core's."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {affinity, (affinity + 1) // 2, os.cpu_count() or 1}


def use_threads(number: int) -> None:
    """Compute on so many threads from now on: torch, and the linear algebra of NumPy and SciPy; the order of sums, so the bits, follow it.

    Args:
        number: also more than there are processors, as where a run that began on more is resumed.
    """
    torch.set_num_threads(number)
    os.environ["OPENBLAS_NUM_THREADS"] = str(number)  # of SciPy, where it is loaded later
    threadpool_limits(number, user_api="blas")


@contextlib.contextmanager
def restore_threads() -> Iterator[None]:
    """Give back the number of threads that was in use before, whatever is set meanwhile."""
    before, variable, pools = torch.get_num_threads(), os.environ.get("OPENBLAS_NUM_THREADS"), threadpool_limits(None, user_api="blas")
    try:
        yield
    finally:
        torch.set_num_threads(before)
        pools.restore_original_limits()
        os.environ.pop("OPENBLAS_NUM_THREADS", None)
        if variable is not None:
            os.environ["OPENBLAS_NUM_THREADS"] = variable


def configure_torch() -> None:
    """Make torch give the same bits each time, and keep the memory that it will need again."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")  # its 1,024 kept kernels, one for each shape, come to a gigabyte
    _keep_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch._C._set_deterministic_algorithms(True, warn_only=True)  # torch's own call of it loads a compiler first: a second, and 70 MB
    torch.backends.cudnn.benchmark = False
    # filling fresh memory with NaN finds bugs in torch, and costs a tenth of a step
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def keep_few_kernels() -> None:
    """Let a process that serves keep few compiled products; to be called before it computes anything.

    In bf16 oneDNN compiles a product for each shape (a third of a megabyte of code), and both it and torch keep 1,024 of them, each in a store of its own. Texts of ever new lengths, alone and
    together, are ever new shapes of attention: memory would grow for hours. A pass needs some ten.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, SERVED_KERNELS)


@functools.cache
def _keep_memory() -> None:
    """Let freed memory stay with the process; said once, it holds as long as that lives.

    A step asks for the same blocks as the one before. Given back to the system each time, they come again page by page,
    filled with zeros: an eighth of a step.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library than glibc knows no mallopt
        library = ctypes.CDLL(None)
        library.mallopt(MMAP_THRESHOLD, VERY_LARGE)
        library.mallopt(TRIM_THRESHOLD, -1)
        _in_large_pages(library)


def _in_large_pages(library: Any) -> None:
    """Let the heap come in pages of 2 MiB, where the system has such on request.

    In a virtual machine a page costs microseconds when it comes, and time whenever it is looked up. One request speaks for
    the addresses that the heap has by then, so it is given many at once (addresses, not memory); where those are rationed
    it stays as it is. The blocks that stretch the heap are few: each writes down its size at its beginning, and around
    what has been written no large page comes.
    """
    start, end = _heap()
    size = min(HEAP, _free_memory() // 2)
    if not start or end - start >= size or _addresses_are_rationed():
        return
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.mallopt(MMAP_MAX, 0)  # however large they are, they shall lie in the heap
    blocks = [library.malloc(STRETCH) for _ in range((size - (end - start)) // STRETCH)]
    library.mallopt(MMAP_MAX, MOST_MMAPS)
    start, end = _heap()
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.madvise(start, end - start, MADV_HUGEPAGE)
    for block in blocks:
        library.free(block)


def _heap() -> tuple[int, int]:
    """Where this process' heap begins and ends; 0 where that is not known."""
    maps = Path("/proc/self/maps")
    for line in maps.read_text().split("\n") if maps.exists() else []:
        if line.endswith("[heap]"):
            start, _, end = line.split()[0].partition("-")
            return int(start, 16), int(end, 16)
    return 0, 0


def _addresses_are_rationed() -> bool:
    strict = Path("/proc/sys/vm/overcommit_memory")
    if strict.exists() and strict.read_text().strip() == "2":
        return True
    return any(resource.getrlimit(limit)[0] != resource.RLIM_INFINITY for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA))


def available_memory() -> int:
    """Bytes of memory that a new process could have: of the machine, and of the group it runs in."""
    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else _free_memory()


def _free_memory() -> int:
    """Of this machine, without its accelerator."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        line = next((line for line in meminfo.read_text().split("\n") if line.startswith("MemAvailable")), "")
        available = int(line.split()[1]) * 1024 if line else available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    return available
