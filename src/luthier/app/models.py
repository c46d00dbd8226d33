"""The commands about base models."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.app.options import Json

if TYPE_CHECKING:
    from luthier.models.disk import Entry

models_app = typer.Typer(no_args_is_help=True, help="List, fetch, describe and remove base models.", rich_markup_mode=None)


@models_app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the bases known by name."""
    from luthier.core.words import size
    from luthier.pilot.models import models as verb

    def line(row: dict[str, Any]) -> str:
        where = f"here, {size(row['bytes'])}" if row["here"] else f"{row['megabytes']} MB to {'fetch' if row['package'] else 'give'}"
        return f"{row['name']:<18} {row['kind']:<8} {row['licence']:<12} {row['language']:<13} {where:<16} {row['about']}"

    _rows(verb(), as_json, line)


@models_app.command("disk")
def list_disk(as_json: Json = False) -> None:
    """List what is kept on the disk, with sizes."""
    from luthier.core.words import size
    from luthier.pilot.models import disk as verb

    def line(row: dict[str, Any]) -> str:
        where = row["folder"] if row["kind"] == "cache" else row["name"]
        remedy = f" (luthier models remove {row['name']})" if row["kind"] == "leftover" and row["removable"] else ""
        return f"{size(row['bytes']):>8}  {where}: {row['about']}{remedy}"

    _rows(verb(), as_json, line)


@models_app.command("pull")
def pull_model(name: str) -> None:
    """Fetch a base, so that later runs need no connection."""
    from luthier.pilot.models import pull as verb

    print(verb(name, lambda line: print(line, file=sys.stderr))["folder"])


@models_app.command("show")
def show_model(name: str, as_json: Json = False) -> None:
    """Show what is known about a base."""
    from luthier.pilot.models import describe as verb

    facts = verb(name, lambda line: print(line, file=sys.stderr))
    print(json.dumps(facts, indent=2) if as_json else "\n".join(f"{key:<14} {value}" for key, value in facts.items()))


@models_app.command("remove")
def remove_model(
    name: Annotated[str, typer.Argument(help="A base that was fetched, or a leftover that `luthier models disk` lists.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a fetched base; it is fetched again when it is needed."""
    from luthier.core.errors import ModelError
    from luthier.core.words import size
    from luthier.pilot.models import remove as verb

    def ask(entry: Entry) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            raise ModelError(f"there is no terminal to ask whether {name} is to be removed", "add --yes")
        return typer.confirm(f"Remove {entry.folder} ({size(entry.bytes)})?", err=True)

    freed = verb(name, ask)
    print(f"removed {name}: {size(freed)} freed" if freed else f"{name} stays")


def _rows(rows: list[dict[str, Any]], as_json: bool, line: Any) -> None:
    for row in rows:
        print(json.dumps(row) if as_json else line(row))
