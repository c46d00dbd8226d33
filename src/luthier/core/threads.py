"""Limit how long idle OpenMP threads spin, and count free processors; imported before torch."""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path

SPINS = "10000"
"""Turns that a thread of GNU's OpenMP spins before it sleeps; its own default is 300,000 (docs/decisions/014)."""
BLOCK_TIME = "1"
"""The same for Intel's and LLVM's OpenMP (macOS, conda): milliseconds; the default is 200."""
OWN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
"""Variables by which a person decides it."""
SAMPLE = 0.25
"""Seconds over which processors are watched."""
Jiffies = dict[int, tuple[int, int]]
"""Of each processor: idle, and all."""


@functools.cache
def bound_spinning() -> bool:
    """Let idle OpenMP threads spin only briefly, unless the person has decided how long; OpenMP reads this when torch is loaded.

    Between two parallel pieces a thread that waits keeps its processor busy. Beside another program it uses up its share so, and has to wait
    when it is needed: a step takes up to 35 times as long.

    Returns:
        Whether it holds in this process: False where torch had been loaded before the first call.
    """
    if any(name in os.environ for name in OWN):
        return True
    os.environ["GOMP_SPINCOUNT"], os.environ["KMP_BLOCKTIME"] = SPINS, BLOCK_TIME  # processes that this one starts have them too
    return "torch" not in sys.modules


def allowed_processors(root: Path = Path("/")) -> float:
    """Processors that this process may use: of the machine, of its affinity, and of its group's quota.

    Args:
        root: where proc and sys lie.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(count), *_quotas(root)])


def _quotas(root: Path) -> list[float]:
    """Processors that the control groups of this process, and those above them, are allowed at a time (a container has one)."""
    file = root / "proc/self/cgroup"
    groups = root / "sys/fs/cgroup"
    quotas = []
    for line in file.read_text().split("\n") if file.exists() else []:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if not name or (controllers and "cpu" not in controllers.split(",")):
            continue
        for top in (groups, groups / "unified") if not controllers else (groups / controllers, groups / "cpu"):
            parts = [part for part in name.split("/") if part]
            for depth in range(len(parts) + 1):
                quotas.append(_quota(top.joinpath(*parts[:depth])))
    return [quota for quota in quotas if quota]


def _quota(group: Path) -> float:
    """Processors at a time of one control group; 0 where it has no limit."""
    new, old = group / "cpu.max", group / "cpu.cfs_quota_us"
    if new.exists():
        quota, _, period = new.read_text().strip().partition(" ")
    elif old.exists():
        quota, period = old.read_text().strip(), (group / "cpu.cfs_period_us").read_text().strip()
    else:
        return 0.0
    return int(quota) / int(period or 100_000) if quota.isdigit() and int(quota) else 0.0


def free_processors(seconds: float = SAMPLE, times: int = 3) -> float | None:
    """Processors, of those this process may use, that are idle while it sleeps.

    Where one seems to be busy it looks again: a short burst of somebody else's work says nothing about the hours to come.

    Args:
        seconds: of one look.
        times: it looks at most.

    Returns:
        The most that were idle in one look; None where the system does not tell.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    most = 0.0
    for _ in range(times):
        before = _jiffies()
        time.sleep(seconds)
        after = _jiffies()
        if not before or not after:
            return None
        most = max(most, idle_between(before, after, os.sched_getaffinity(0)))
        if round(most) >= len(os.sched_getaffinity(0)):
            break
    return most


def idle_between(before: Jiffies, after: Jiffies, allowed: set[int]) -> float:
    """Processors that were idle between two looks: the sum of their idle shares.

    Args:
        before: idle and all time of each processor.
        after: the same, later.
        allowed: processors that count.
    """
    total = 0.0
    for processor in allowed & before.keys() & after.keys():
        idle, passed = (late - early for early, late in zip(before[processor], after[processor]))
        total += idle / passed if passed > 0 else 1.0
    return total


def _jiffies() -> Jiffies:
    """Idle time, waiting for a disk included, and all time of each processor since the machine was started."""
    jiffies: Jiffies = {}
    file = Path("/proc/stat")
    for line in file.read_text().split("\n") if file.exists() else []:
        name, _, rest = line.partition(" ")
        if name.startswith("cpu") and name != "cpu":
            times = [int(word) for word in rest.split()[:8]]  # what follows is contained in the first two
            jiffies[int(name.removeprefix("cpu"))] = (times[3] + times[4], sum(times))
    return jiffies
