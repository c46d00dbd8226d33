"""The commands that export a bundle and prove the export."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.app.options import Json, Quiet

Rows = Annotated[str | None, typer.Option("--rows", help="Rows on which both are compared, with what is learned of them; the sealed test rows of the run when not given.")]  # fmt: skip
Most = Annotated[int | None, typer.Option("--most", min=1, help="Compare on so many rows, evenly over all.")]


def export(
    bundle: Annotated[str, typer.Argument(help="The run's folder, or RUN/bundle.")],
    to: Annotated[str, typer.Option("--to", help="safetensors, onnx, int8, gguf, word2vec, sentence-transformers.")],
    out: Annotated[Path, typer.Option("--out", help="The folder that is made.")],
    dtype: Annotated[
        str, typer.Option("--dtype", help="What weights are rounded to: fp32, bf16, and what else the format takes.")
    ] = "auto",
    rows: Rows = None,
    most: Most = None,
    parity: Annotated[bool, typer.Option("--parity/--no-parity", help="Prove that the export says what the trainer says.")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a bundle to another format, and prove the export.

    It is proven that the export says what the trainer says. Where it does not, the stage is named, the files are put aside and the command fails.
    """
    from luthier.app.reporters import make_reporter
    from luthier.core.words import plural
    from luthier.delivery.parity.record import lines_of
    from luthier.pilot.export import PartsError
    from luthier.pilot.export import export as verb

    with make_reporter(quiet or as_json) as reporter:
        try:
            result = verb(bundle, to=to, out=out, dtype=dtype, rows=rows, most=most, parity=parity, reporter=reporter)
        except PartsError as problem:
            print(
                json.dumps({"folder": str(problem.folder), "parity": problem.record}, indent=2)
                if as_json
                else "\n".join(lines_of(problem.record))
            )
            raise
    if as_json:
        print(json.dumps(result.as_data(), indent=2, ensure_ascii=False))
        return
    print("\n".join(lines_of(result.parity) if result.parity else ["not proven: --no-parity"]))
    print(f"files   {result.folder}: {_sizes(result.files)} in {plural(len(result.files), 'file')}")
    print(f"use it  {result.usage}")


def parity(
    bundle: Annotated[str, typer.Argument(help="The run's folder, or RUN/bundle.")],
    exported: Annotated[str, typer.Argument(help="The folder of an export, or the address of a server: http://127.0.0.1:8000.")],
    rows: Rows = None,
    most: Most = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare a bundle with an export of it, or with a server.

    The server answers with the bundle or an export; both are compared stage by stage.
    """
    from luthier.app.reporters import make_reporter
    from luthier.delivery.parity.record import lines_of
    from luthier.pilot.export import parity as verb

    with make_reporter(quiet or as_json) as reporter:
        record: dict[str, Any] = verb(bundle, exported, rows=rows, most=most, reporter=reporter)
    print(json.dumps(record, indent=2, ensure_ascii=False) if as_json else "\n".join(lines_of(record)))
    if not record["same"]:
        sys.exit(1)


def _sizes(files: dict[str, int]) -> str:
    """All bytes, and the largest file."""
    total = sum(files.values())
    return f"{total / 1e6:,.1f} MB"
