"""The commands about runs that are finished: list, note, compare, promote, roll back."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.app.columns import format_table
from luthier.app.options import Json


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    for command in (runs, compare, note, promote, rollback, aliases):
        app.command()(command)


def runs(
    folder: Annotated[
        list[Path] | None, typer.Argument(help="Where to look; runs and studies here when not given. Of a study its trials are listed.")
    ] = None,
    sort: Annotated[str, typer.Option(help="date, verdict, metric, or cost.")] = "date",
    family: Annotated[str | None, typer.Option(help="Only runs of this family, such as classification.")] = None,
    as_json: Json = False,
) -> None:
    """List runs and studies: verdicts, costs, notes and aliases."""
    from luthier.core.run import as_json_value
    from luthier.pilot.runs import runs as verb

    rows = verb(folder or None, sort=sort, family=family)
    if as_json:
        print(json.dumps(as_json_value(rows), indent=2, ensure_ascii=False))
    elif not rows:
        print("no runs here: `luthier run DATA` makes one", file=sys.stderr)
    else:
        width = shutil.get_terminal_size((160, 24)).columns if sys.stdout.isatty() else None
        print("\n".join(format_table(HEAD, [cells_of(row) for row in rows], width)))


def compare(
    runs: Annotated[
        list[str], typer.Argument(help="Two or more runs, studies or aliases; the first is what the others are compared with.")
    ],
    metric: Annotated[str | None, typer.Option(help="What is compared; when not given, what decided the first run.")] = None,
    as_json: Json = False,
) -> None:
    """Compare runs: what differs, and by how much one is better.

    The difference is taken on the test rows that they share.
    """
    from luthier.app.reporters import warn
    from luthier.core.run import as_json_value
    from luthier.pilot.compare_runs import compare as verb
    from luthier.pilot.compare_runs import difference_sentence, show_value

    found = verb(*runs, metric=metric, say=warn)
    if as_json:
        print(json.dumps(as_json_value(found.as_dict()), indent=2, ensure_ascii=False))
        return
    cells = [cells_of(entry.as_dict() | {"aliases": []}) for entry in found.runs]
    lines = [(name, *(show_value(value) for value in values)) for name, values in found.fields.items()]
    lines += [("ships", *(entry.ships for entry in found.runs))]
    lines += [(HEAD[place], *(cell[place] for cell in cells)) for place in (3, 4, 5, 7, 8)]
    print("\n".join(format_table(("", *(entry.folder for entry in found.runs)), lines)))
    print(
        "\n".join(
            [
                "",
                *found.data,
                *map(difference_sentence, found.differences),
                *filter(None, [found.refused and f"not compared: {found.refused}"]),
            ]
        )
    )


def note(
    run: Annotated[str, typer.Argument(help="The run's folder, or an alias.")],
    text: Annotated[str | None, typer.Argument(help="The note; an empty one removes it; the note is printed when not given.")] = None,
) -> None:
    """Write a note about a run, which `luthier runs` shows."""
    from luthier.pilot.runs import note as verb

    print(verb(run, text))


def promote(
    run: Annotated[str, typer.Argument(help="The folder of the run, the study or the bundle, or another alias.")],
    name: Annotated[str, typer.Argument(help="The alias, such as production.")],
    force: Annotated[bool, typer.Option("--force", help="Also where the verdict is worse than a baseline, or there is none.")] = False,
) -> None:
    """Give a run a name, such as production.

    predict, chat, serve and --base understand it.
    """
    from luthier.core.aliases import read_alias
    from luthier.pilot.promote import describe_promotion
    from luthier.pilot.promote import promote as verb

    before = read_alias(name)
    print("\n".join(describe_promotion(verb(run, name, force=force), before)))


def rollback(name: Annotated[str, typer.Argument(help="The alias, such as production.")]) -> None:
    """Give a name back to the run that bore it before."""
    from luthier.pilot.promote import describe_promotion
    from luthier.pilot.promote import rollback as verb

    print("\n".join(describe_promotion(*verb(name))))


def aliases(
    name: Annotated[str | None, typer.Argument(help="Show all that happened to this one; all aliases when not given.")] = None,
    as_json: Json = False,
) -> None:
    """List the aliases, or the history of one."""
    from luthier.pilot.promote import aliases as verb

    found = verb(name)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    if not found:
        print("no aliases here: `luthier promote RUN production` makes one", file=sys.stderr)
        return
    forced = {True: " (forced)", None: ""}
    rows = [(each["name"], str(each.get("event", "")), each.get("run") or f"from {each['from']}", each.get("sha256", "")[:12],
             each["at"] + forced[each.get("forced")], STATES.get(str(each.get("state")), "")) for each in found]  # fmt: skip
    print("\n".join(format_table(("alias", "event", "run", "bundle", "since", "now"), rows)))


STATES = {"gone": "gone: put it back, promote another run, or roll back", "another bundle": "another bundle is there now"}
"""What is said of an alias whose bundle is not the one that was promoted."""
HEAD = ("run", "family", "data", "verdict", "test metric", "over the baseline", "base", "time", "size", "alias, note")


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """A run as the cells of its line in the table."""
    from luthier.core.words import duration, size
    from luthier.delivery.page import title_of
    from luthier.evaluation.verdict import format_interval

    metric, difference = row["metric"], row["difference"]
    verdict = row["verdict"].replace("_", " ") if row["verdict"] and row["state"] in ("finished", "running") else row["state"]
    value = over = ""
    if None not in (row["value"], row["low"], row["high"]):
        value = f"{metric} {format_interval(metric, row)}"
    if row["value"] is not None and None not in difference.values():
        over = f"{_points(metric, difference['value'])} [{', '.join(_points(metric, difference[end]) for end in ('low', 'high'))}]"
    said = ", ".join(row["aliases"]) + (" · " if row["aliases"] and (row["note"] or row["why"]) else "") + (row["why"] or row["note"])
    name = row["folder"] + (" (study)" if row["kind"] == "study" else "")
    cost = "" if row["seconds"] is None else duration(row["seconds"])
    data = title_of(row["data"]) if row["data"] else ""
    return name, row["family"], data, verdict, value, over, short_name(row["base"]), cost, size(row["bytes"]) if row["bytes"] else "", said


def _points(metric: str, value: float) -> str:
    """A difference, where more is better, without its unit."""
    from luthier.evaluation.verdict import format_value

    return format_value(metric, value, signed=True).removesuffix(" points")


def short_name(base: str) -> str:
    """A base's name as a table shows it: of a folder its last two parts."""
    parts = Path(base).parts
    return "/".join(parts[-2:]) if len(parts) > 2 else base
