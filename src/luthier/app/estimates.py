"""The commands that say what a run will do, before it is trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from luthier.app.options import Input, Json, Quiet, Set, Target, Task


def prove(
    experiment: Annotated[Path, typer.Argument(help="An experiment.yaml, or a run's folder.")],
    set: Set = None,
    seconds: Annotated[float, typer.Option(help="Stop after this many seconds.")] = 60.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prove the loss on your own rows, without training."""
    from luthier.app.reporters import make_reporter
    from luthier.pilot.prove import prove as verb

    with make_reporter(quiet or as_json) as reporter:
        proofs = verb(experiment, set=set or (), seconds=seconds, reporter=reporter)
    if as_json:
        print(json.dumps([proof.model_dump() for proof in proofs], indent=2, ensure_ascii=False))
    if any(proof.held is False for proof in proofs):
        sys.exit(1)


def plan(
    experiment: Annotated[Path, typer.Argument(help="An experiment.yaml, or a run's folder.")],
    set: Set = None,
    seconds: Annotated[float, typer.Option(help="Measure for about this many seconds.")] = 30.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict the time and the memory of a run.

    Measures a few steps, in a process of its own.
    """
    from luthier.app.reporters import format_plan, make_reporter
    from luthier.pilot.plan import plan as verb

    with make_reporter(quiet or as_json) as reporter:
        estimate = verb(experiment, set=set or (), seconds=seconds, reporter=reporter)
    print(json.dumps({**estimate.forecast, "available": estimate.available}, indent=2) if as_json else "\n".join(format_plan(estimate)))


def similar(
    data: Annotated[str, typer.Argument(help="A file of rows with classes or answers, or a folder; - for standard input.")],
    bases: Annotated[
        str,
        typer.Option(
            help="Names, folders or hub ids, with commas; when not given, the known ones that are on this machine and fit the task."
        ),
    ] = "",
    target: Target = None,
    input: Input = None,
    task: Task = None,
    set: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare bases on your rows.

    Says which one suits them, how many blocks to freeze, and which learning rate to start from.
    """
    from luthier.app.reporters import format_comparison, make_reporter
    from luthier.pilot.similar import similar as verb

    with make_reporter(quiet or as_json) as reporter:
        names = [name.strip() for name in bases.split(",") if name.strip()]
        comparisons = verb(data, names, target=target, input=input, task=task, set=set or (), reporter=reporter)
    print(
        json.dumps([comparison.value() for comparison in comparisons], indent=2) if as_json else "\n".join(format_comparison(comparisons))
    )
