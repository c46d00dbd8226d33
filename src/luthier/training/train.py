"""A run from its first (or next) step to its best weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.core.errors import RunError, Stopped
from luthier.core.interfaces import Face, Watcher
from luthier.core.run import Run
from luthier.training import checkpoints
from luthier.training.steps import Work, steps
from luthier.training.watchers import Checkpointer, EarlyStop, Evaluator, Finite, MetricsFile, Signals


def fit(run: Run, work: Work, face: Face, signals: Signals, more: Sequence[Watcher] = ()) -> dict[str, Any]:
    """Train to the end, from the newest checkpoint where there is one, and leave the model at its best.

    Args:
        run: owned; metrics, evaluations and checkpoints go there.
        work: the parts, as assembled.
        face: is told.
        signals: asked after each step.
        more: watchers that see each step last.

    Returns:
        The best evaluation: its step and metrics.

    Raises:
        Stopped: a signal came; a checkpoint of the last finished step has been written.
        Diverged: the loss is not a number.
        OutOfMemory: one row alone is too much.
    """
    work.shrunk = {event["step"] - 1: event["tokens"] for event in run.happened("shrunk")}  # what was decided once is obeyed
    work.told = lambda step, tokens: _shrunk(run, face, step, tokens)
    metrics = MetricsFile(run)
    evaluator = Evaluator(work, run, metrics, face, signals.poll)
    checkpointer = Checkpointer(work, run, evaluator)
    start = _resume(run, work, evaluator)
    done = run.happened("trained")
    if done:
        return _best(run, work, done[-1]["best"])
    last = start
    watchers: list[Watcher] = [metrics, Finite(work, metrics), evaluator, checkpointer, face.step, *more]
    try:
        if start and evaluator.due(start) and evaluator.evaluated != start:
            evaluator.evaluate(start)  # the stop came between the step and its evaluation
        for step in steps(work, start):
            last = step.number
            for watch in watchers:
                watch(step)
            signals.poll()
    except EarlyStop:
        pass
    except Stopped:
        checkpointer.save(last)
        raise
    finally:
        metrics.flush()
    run.event("trained", step=last, best=evaluator.best)
    return _best(run, work, evaluator.best)


def _shrunk(run: Run, face: Face, step: int, tokens: int) -> None:
    run.event("shrunk", step=step + 1, tokens=tokens)
    face.say(
        f"step {step + 1}: not enough memory, so from here on {tokens:,} tokens at once; the rows of a step and what they teach stay the same"
    )


def _resume(run: Run, work: Work, evaluator: Evaluator) -> int:
    """Go to the newest whole checkpoint and take back what was written after it."""
    found = checkpoints.newest(run)
    start = 0
    if found is not None:
        found.restore(work.masters)
        evaluator.restore(found.state)
        start = found.state["step"]
        run.event("resumed", step=start)
    if not run.happened("trained"):
        for name in ("metrics.jsonl", "timing.jsonl", "samples.jsonl"):
            run.cut(name, start)
        for file in (run.folder / "validation_losses").glob("step-*.safetensors"):
            if int(file.stem[5:]) > start:
                file.unlink()
    return start


def _best(run: Run, work: Work, best: dict[str, Any]) -> dict[str, Any]:
    """Put the best weights into the model.

    Raises:
        RunError: they are no longer there.
    """
    folder = run.folder / "checkpoints" / checkpoints.name_of(best["step"])
    if not folder.is_dir():
        raise RunError(f"the best checkpoint, {folder}, is gone", "start again in another folder")
    checkpoints.verify(folder).restore(work.masters)
    return best
