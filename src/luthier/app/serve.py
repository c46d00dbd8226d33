"""The command that serves a bundle over HTTP."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from luthier.app.options import Quiet


def serve(
    bundle: Annotated[str, typer.Argument(help="RUN/bundle, the run's folder, or an alias.")],
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="LUTHIER_TOKEN",
            help="That clients have to give; made and kept when not given. Better in LUTHIER_TOKEN: others see a command's words.",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="What computes: torch; llama.cpp (its llama-server, for decoders); onnx (onnxruntime). The last two export the bundle at the first start, and prove it. auto takes torch."
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="In which torch writes text: fp32; int8, faster, in less memory, and not quite the trained model (how near is measured at the start, and told); auto gives the tokens of fp32."
        ),
    ] = "auto",
    name: Annotated[str | None, typer.Option(help="By which clients ask for the model; the run's name when not given.")] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            envvar="LUTHIER_ALLOW_HOST",
            help="A further Host that is answered, such as models.example:8000; may be given again.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Serve a model over HTTP.

    OpenAI's routes for text and vectors, vLLM's for classes and scores, /predict for every family, and a page to try it. Ends by Ctrl-C or SIGTERM, once running requests are through.
    """
    from luthier.app.server.listen import serve as verb

    def print_line(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    os.environ.pop("LUTHIER_TOKEN", None)  # no child process needs it
    verb(
        bundle,
        port=port,
        host=host,
        token=token,
        engine=engine,
        precision=precision,
        name=name,
        allow_host=allow_host or (),
        say=print_line,
        log=None if quiet else print_line,
    )
