"""The commands about base models."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer

from luthier.app.options import Json

models_app = typer.Typer(no_args_is_help=True, help="List, fetch and describe base models.", rich_markup_mode=None)


@models_app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the bases known by name."""
    from luthier.pilot.models import models as verb

    def line(row: dict[str, Any]) -> str:
        where = "here" if row["here"] else f"{row['megabytes']} MB to fetch"
        return f"{row['name']:<14} {row['kind']:<8} {row['licence']:<11} {row['language']:<13} {where:<16} {row['about']}"

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

    found = verb(name, lambda line: print(line, file=sys.stderr))
    print(json.dumps(found, indent=2) if as_json else "\n".join(f"{key:<14} {value}" for key, value in found.items()))


def _rows(rows: list[dict[str, Any]], as_json: bool, line: Any) -> None:
    for row in rows:
        print(json.dumps(row) if as_json else line(row))
