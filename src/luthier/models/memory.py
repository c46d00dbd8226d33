"""Recognise out-of-memory errors, free memory, and retry with smaller pieces."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from luthier.core.errors import OutOfMemory

Item = TypeVar("Item")
Found = TypeVar("Found")

SAID = ("can't allocate memory", "not enough memory", "std::bad_alloc", "out of memory")


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an exception says that memory could not be had."""
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(problem, RuntimeError) and any(words in str(problem) for words in SAID)


def release_memory() -> None:
    """Free what a failed attempt or a finished run has left behind; call it outside of the `except` block, whose traceback holds tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library than glibc knows no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def gc_frozen() -> Iterator[None]:
    """Exempt existing objects from garbage collection while training: collecting took 3 % of a step and freed nothing.

    Where somebody has frozen objects already, they stay frozen and no others are: unfreezing knows only all of them.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def retry_halved(work: Callable[[Sequence[Item]], Found], items: Sequence[Item], what: str) -> list[Found]:
    """Do work that needs no gradients; where memory does not suffice, in halves, and halves of these.

    Args:
        work: items → a result.
        items: at least one.
        what: names the work, for a person.

    Raises:
        OutOfMemory: even one item is too much.
    """
    try:
        return [work(items)]
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
    release_memory()
    if len(items) == 1:
        raise OutOfMemory(
            f"there is not enough memory for {what}, even of one row", "shorten the rows (objective.max_length), or take a smaller base"
        )
    middle = len(items) // 2
    return [*retry_halved(work, items[:middle], what), *retry_halved(work, items[middle:], what)]


def smaller_limit(limit: int, rows: int, pieces: Callable[[int], int]) -> int:
    """A token limit that cuts a step's rows into more pieces than this one does, or 0 where each stands alone already.

    Args:
        limit: tokens that went through the model at once.
        rows: of the step.
        pieces: token limit → into how many pieces it cuts them.
    """
    so_far = pieces(limit)
    while so_far < rows and limit > 1:
        limit //= 2
        if pieces(limit) > so_far:
            return limit
    return 0
