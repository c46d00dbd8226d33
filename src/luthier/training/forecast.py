"""What a run will take, from a few measured steps and a model of the rest."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from luthier.core.types import Batch
from luthier.data.batches import choose_rows
from luthier.evaluation.score import score
from luthier.models.pretrained import PackedNetwork
from luthier.training.checkpoints import disk_bytes
from luthier.training.steps import Work, steps
from luthier.training.watchers import EvaluationSchedule

SAMPLED = 6
"""Steps that are measured, from the shortest to the longest."""
DEFAULT_SPREAD = 0.15
KEPT_A_SECOND = 200e6
"""Bytes of weights that are hashed and written, or read and checked, in a second; a slow disk."""


@dataclass(frozen=True)
class Forecast:
    """A run before it is paid for.

    Args:
        parameters: of the network.
        moving: those that may ever move.
        rows: training rows.
        tokens: that go through the model in training.
        steps: optimizer steps.
        evaluations: looks at the validation rows.
        seconds: of training with its evaluations.
        spread: the share by which the seconds may be off, either way, as far as the measured steps tell.
        memory: bytes of the process at its peak.
        fixed: bytes of these that do not depend on how many tokens go through the model at once.
        at_once: the most tokens that go through it at once.
        a_token: bytes that one of these takes.
        disk: bytes that the run folder grows to, at most.
        measured: tokens and seconds of each measured step.
    """

    parameters: int
    moving: int
    rows: int
    tokens: int
    steps: int
    evaluations: int
    seconds: float
    spread: float
    memory: int
    fixed: int
    at_once: int
    a_token: float
    disk: int
    measured: list[tuple[int, float]]

    def value(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def peak() -> int:
    """Bytes that this process has held at most."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.exists():  # what `getrusage` says begins with what the process held that started this one
        highest = next((line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if highest is not None:
            return int(highest) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def disk(work: Work) -> tuple[int, int]:
    """Bytes that a run folder grows to, at least and at most: checkpoints and the bundle; rows and curves are small beside them."""
    least, most = disk_bytes(work.masters)
    bundle = sum(parameter.nbytes for parameter in work.model.network.parameters())
    return least + bundle, most + bundle


def forecast(work: Work, seconds: float = 30.0) -> Forecast:
    """Measure a few steps, and reckon the whole run from them; `work` is used up.

    Args:
        work: assembled for this purpose, in a process whose memory nothing else has filled.
        seconds: after which no further step is begun (two are always taken).
    """
    training = work.experiment.training
    order = [choose_rows(step, len(work.train), training.batch_size, work.experiment.seed) for step in range(work.total)]
    sizes = np.array([example.size for example in work.train])
    tokens = np.array([int(sizes[chosen].sum()) for chosen in order])
    by_size = np.argsort(tokens, kind="stable")
    sampled_steps = by_size[np.unique(np.linspace(0, len(by_size) - 1, SAMPLED).round().astype(int))].tolist()
    first = min(work.train, key=lambda example: example.size)
    _time_step(work, [first])  # gradients and the optimizer's state exist from here on
    fixed = peak()
    longest = sampled_steps[-1]
    cold = _time_step(work, [work.train[row] for row in order[longest]])  # what is slow only once is slow here
    at_once = max(_forward_tokens(work, part) for part in work.micro_batches(_batch(work, order[longest]), training.micro_batch_tokens))
    a_token = max(0.0, (peak() - fixed) / max(at_once - first.size, 1))
    until = time.monotonic() + seconds
    measured = []
    for index in [longest, *(other for other in sampled_steps if other != longest)]:
        if len(measured) >= 2 and time.monotonic() > until:
            break
        measured.append((int(tokens[index]), _time_step(work, [work.train[row] for row in order[index]])))
    whole, spread = _over_all(measured, tokens)
    once = max(0.0, cold - measured[0][1])
    sample = work.validation[:: max(1, len(work.validation) // 64)][:64]
    score(work.model, work.objective, sorted(work.validation, key=lambda example: -example.size)[:256])  # as much at once as ever
    began = time.monotonic()
    score(work.model, work.objective, sample)
    a_look = (time.monotonic() - began) * sum(example.size for example in work.validation) / max(sum(example.size for example in sample), 1)
    looks = len(EvaluationSchedule(work))
    moving = sum(master.numel() for master in work.masters.weights().values())
    write_time = (looks + 1) * 4 * moving / KEPT_A_SECOND  # each look may be the best so far, and the best is read again
    parameters = list(work.model.network.parameters())
    return Forecast(
        parameters=sum(parameter.numel() for parameter in parameters),
        moving=moving,
        rows=len(work.train),
        tokens=int(tokens.sum()),
        steps=work.total,
        evaluations=looks,
        seconds=whole + once + looks * a_look + write_time,
        spread=spread,
        memory=peak(),
        fixed=fixed,
        at_once=at_once,
        a_token=a_token,
        disk=disk(work)[1],
        measured=measured,
    )


def _batch(work: Work, chosen: np.ndarray) -> Batch:
    return work.objective.collate([work.train[row] for row in chosen], work.experiment.seed, 0)


def _forward_tokens(work: Work, part: Batch) -> int:
    """Tokens of a piece that go through the network."""
    shared_prefix = cast(PackedNetwork, work.model).shared_prefix(part) if work.model.packs else None
    return part.size if shared_prefix is None else len(shared_prefix.kept)


def _time_step(work: Work, rows: list[Any]) -> float:
    """Seconds of one step over these rows."""
    small = Work(work.experiment.replace("training.batch_size", len(rows)).replace("training.sampling", "each"),
                 work.objective, work.model, work.masters, rows, work.validation, 1, micro_batches=work.micro_batches)  # fmt: skip
    began = time.monotonic()
    next(steps(small))
    return time.monotonic() - began


def _over_all(measured: list[tuple[int, float]], tokens: np.ndarray) -> tuple[float, float]:
    """Seconds of all steps, and by which share the measured ones differ from the line through them."""
    sizes, times = np.array([pair[0] for pair in measured], float), np.array([pair[1] for pair in measured])
    rate = float(np.median(times / sizes))
    slope, start = rate, 0.0
    if len(measured) > 2 and sizes.max() > 1.3 * sizes.min():
        pairs = [
            (times[two] - times[one]) / (sizes[two] - sizes[one])
            for one in range(len(sizes))
            for two in range(one)
            if sizes[one] != sizes[two]
        ]
        slope = float(np.clip(np.median(pairs), 0.3 * rate, rate))  # Theil–Sen: one slow step does not turn the line
        start = max(0.0, float(np.median(times - slope * sizes)))
    expected = start + slope * sizes
    spread = float(np.median(np.abs(times - expected) / expected)) * 2 if len(measured) > 2 else DEFAULT_SPREAD
    return start * len(tokens) + slope * float(tokens.sum()), max(DEFAULT_SPREAD, spread)
