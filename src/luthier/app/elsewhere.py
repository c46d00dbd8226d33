"""The commands that come from other tools, or go to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luthier.app.columns import format_table
from luthier.app.options import Json


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command()(push)
    app.command("import")(import_config)


def push(
    run: Annotated[str, typer.Argument(help="The folder of a run, a study or a bundle, or an alias.")],
    name: Annotated[str, typer.Argument(help="owner/name on the hub; it is made where it is not there.")],
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; otherwise only its owner does.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    as_json: Json = False,
) -> None:
    """Put a bundle on the Hugging Face hub, with its card.

    The token is HF_TOKEN, or that of `hf auth login`.
    """
    from luthier.app.reporters import warn
    from luthier.pilot.push import push as verb

    result = verb(run, name, public=public, dry_run=dry_run, message=message, say=warn)
    if as_json:
        print(json.dumps(result.as_dict(), indent=2, ensure_ascii=False))
    elif dry_run:
        print("nothing was sent")
    else:
        removed = f" (removed: {', '.join(result.removed)})" if result.removed else ""
        print(f"pushed   {result.url}{removed}\nuse it   luthier predict {result.name} ROWS")


def import_config(
    file: Annotated[Path, typer.Argument(help="A YAML file of Axolotl's or LLaMA-Factory's.")],
    out: Annotated[Path, typer.Option("--out", help="The experiment to write; its rows are written beside it.")] = Path("experiment.yaml"),
    data: Annotated[str | None, typer.Option(help="Rows that take the place of those that the file names.")] = None,
    base: Annotated[str | None, typer.Option(help="A base that takes the place of the file's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write the experiment without the keys that are refused.")] = False,
    as_json: Json = False,
) -> None:
    """Make an experiment of another trainer's file.

    It says what became of each key.
    """
    from luthier.app.reporters import make_reporter
    from luthier.pilot.import_config import import_config as verb

    with make_reporter(True) as reporter:
        result = verb(file, out=out, data=data, base=base, force=force, reporter=reporter)
    if as_json:
        print(json.dumps(result.as_dict(), indent=2, ensure_ascii=False))
    else:
        rows = [(key, "→", f"{path} = {value}" + (f"  ({note})" if note else "")) for key, (path, value, note) in result.mapped.items()]
        rows += [(key, "ignored", why) for key, why in result.ignored.items()]
        rows += [(key, "refused", why) for key, why in result.refused.items()]
        print("\n".join(format_table((f"{result.trainer}: key", "is", "here"), rows)))
        if result.experiment is not None:
            print(f"\nexperiment {result.experiment}" + (f"\nrows       {result.rows}" if result.rows else ""))
            print(f"train it   luthier train {result.experiment}")
    if result.experiment is None:
        from luthier.core.errors import ExperimentError

        raise ExperimentError(
            f"nothing was written: {file} asks for what cannot be had here ({', '.join(result.refused)})",
            "change the file, or add --force to go on without these keys",
        )
