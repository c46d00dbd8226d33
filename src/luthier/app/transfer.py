"""The command that says what transfer is worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.app.columns import format_table
from luthier.app.options import Input, Json, Quiet, Set, Target, Task


def transfer(
    data: Annotated[str, typer.Argument(help="A file of rows, or a folder; - for standard input.")],
    starts: Annotated[
        str,
        typer.Option(
            "--from",
            help="What models begin from, with commas: scratch, names of bases, folders, runs; scratch:BASE is a base's network with new weights.",
        ),
    ],
    rows: Annotated[str, typer.Option(help='Numbers of labelled training rows, and "all", with commas.')] = "50,200,1000,all",
    seeds: Annotated[int, typer.Option(help="Models for each start and number of rows, each on other training rows.")] = 3,
    target: Target = None,
    input: Input = None,
    task: Task = None,
    metric: Annotated[str | None, typer.Option(help="What is compared; what suits the rows when not given.")] = None,
    validation: Annotated[Path | None, typer.Option(help="A file of validation rows, where the split is given.")] = None,
    test: Annotated[Path | None, typer.Option(help="A file of test rows, where the split is given.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="The most that all of it may take, with its unit: 90s, 5m, 2h; what does not fit is left out, and said."),
    ] = None,
    most_test: Annotated[int, typer.Option(help="Test rows that every model is asked about, at most.")] = 1000,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder; transfers/<time> when not given. Given again, finished models are kept.")
    ] = None,
    set: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what a base is worth on your rows.

    Fine-tunes each start on the same few and many labelled rows, and compares them on the same test rows.
    """
    from luthier.app.reporters import make_reporter
    from luthier.pilot.transfer import transfer as verb

    with make_reporter(quiet or as_json) as reporter:
        result = verb(data, starts, rows=rows, seeds=seeds, target=target, input=input, task=task, metric=metric, validation=validation, test=test,
                      budget=budget, most_test=most_test, out=out, set=set or (), reporter=reporter)  # fmt: skip
    if as_json:
        print(json.dumps({"folder": str(result.folder), **result.found}, indent=2, ensure_ascii=False))
        return
    print("\n".join([*_table(result.found), "", *result.found["sentences"]]))
    if result.found["left_out"]:
        print(f"left out for lack of time: {'; '.join(result.found['left_out'])}")
    print(f"{result.folder / 'report.html'}")


def _table(found: Mapping[str, Any]) -> list[str]:
    """The starts over the rows, as lines of text."""
    from luthier.evaluation.verdict import format_interval

    metric, lines = found["metric"], found["table"]
    counts = sorted({line["rows"] for line in lines})
    cells = {(line["start"], line["rows"]): format_interval(metric, line) for line in lines}
    rows = [(start, *(cells.get((start, count), "–") for count in counts)) for start in dict.fromkeys(line["start"] for line in lines)]
    return format_table((f"{metric}, {found['test_rows']:,} test rows", *(f"{count:,} rows" for count in counts)), rows)
