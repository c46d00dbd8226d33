"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Set = Annotated[list[str] | None, typer.Option("--set", help="A change to the experiment, path=value; one or several.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Plain lines, no progress bar.")]
