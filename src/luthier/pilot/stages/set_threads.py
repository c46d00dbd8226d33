"""How many threads a run computes on, and what a person is told of it."""

from __future__ import annotations

import torch

from luthier.core.interfaces import Reporter
from luthier.core.run import Run
from luthier.core.threads import bound_spinning
from luthier.core.words import plural
from luthier.training.devices import choose_threads, use_threads


def set_threads(run: Run, reporter: Reporter, recorded: int | None, workers: int) -> None:
    """Compute on the threads that the experiment was or is to be trained on; where nobody knows yet, on as many as are free.

    Args:
        run: what is unusual is an event of it.
        reporter: shows the same.
        recorded: in the experiment: with another number its bytes would not come again.
        workers: that share the processors.
    """
    if recorded is not None:
        now = max(1, torch.get_num_threads() // workers)
        if now != recorded:
            run.event("threads", number=recorded, instead_of=now, why="recorded")
            reporter.say(
                f"computing on {plural(recorded, 'thread')} instead of {now}: so the experiment says, and with another number other bytes come out"
            )
        use_threads(recorded)
    else:
        threads = choose_threads(workers)
        if threads.number < threads.usual:
            run.event("threads", number=threads.number, instead_of=threads.usual, free=round(threads.free or 0.0, 2), why="busy")
            reporter.say(f"another program is busy: training with {threads.number} of {plural(threads.usual, 'thread')}")
        use_threads(threads.number)
    if torch.get_num_threads() > 1 and not bound_spinning() and not run.events_named("spin_unbounded"):
        run.event("spin_unbounded")
        reporter.say(
            "torch was loaded before luthier: beside other programs a step may take many times as long; `import luthier` before `import torch`"
        )
