"""Parity with a server that is running: what it can be asked is compared, and what it cannot is said to be unseen."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from urllib.parse import unquote, urlsplit

from luthier.core.errors import DataError, ModelError
from luthier.core.types import Record
from luthier.delivery.exports.exporter import Say
from luthier.delivery.exports.json_http import JsonServer, Refused
from luthier.delivery.exports.llama_server import LlamaServer
from luthier.delivery.parity.check import check_parity, choose_rows
from luthier.delivery.parity.live_rows import check_rows
from luthier.delivery.parity.live_writing import check_writing
from luthier.delivery.parity.openai_endpoint import OpenAiEndpoint
from luthier.delivery.parity.record import ParityRecord
from luthier.delivery.parity.trainer import open_trainer
from luthier.families import family_of
from luthier.models.base import Base

TOKEN = "LUTHIER_ENDPOINT_TOKEN"
"""The environment variable that holds the token of an endpoint: an address with a secret would stand in logs."""
ROWS = {"text": 12}
"""What a network gives → rows that are asked if nobody says otherwise."""
MOST = 64
BITS = ((20.0, "float32"), (12.0, "float16"), (6.0, "q8_0"), (0.0, "int4"))
"""Bits a weight, at least → how the weights are rounded, where a server tells only its size."""


def check_endpoint(
    bundle: Base, url: str, records: Sequence[Record], *, metric: str | None = None, most: int | None = None, rows: str = "", precision: str = "",
    say: Say = lambda line: None,
) -> ParityRecord:  # fmt: skip
    """Compare a bundle with a server that answers with it, or should.

    Args:
        bundle: resolved.
        url: of the server: llama.cpp's, ours, vLLM's, Ollama's or another that speaks OpenAI's routes; "#NAME" behind it names one of several models.
        records: rows, with what is learned of them.
        metric: that decided the verdict.
        most: rows that are asked; evenly over all.
        rows: where they are from, for a person.
        precision: of the server's weights; empty: as far as it tells, else as if they were rounded to bfloat16.
        say: told what is looked at.

    Raises:
        DataError: there are no rows.
        ModelError: the server does not answer, or speaks none of these routes.
    """
    if not records:
        raise DataError("there are no rows to compare the server on", "give some: --rows FILE")
    name = unquote(urlsplit(url).fragment)
    server = JsonServer(url.split("#")[0], os.environ.get(TOKEN, ""))
    assert bundle.bundle is not None
    gives = family_of(bundle.bundle["task"]).gives
    part, rows = choose_rows(records, most or ROWS.get(gives, MOST), rows)
    try:
        if gives == "text" and _is_llama_server(server):
            say("a llama.cpp server: every stage but the weights")
            writer = LlamaServer(server, precision or _precision_of(server))
            return check_parity(bundle, writer, part, metric=metric, most=len(part), rows=rows, say=say)
        endpoint = OpenAiEndpoint(server, name)
        say(f"{endpoint.about}, over OpenAI's routes")
        trainer = open_trainer(bundle)
        check: Callable[..., ParityRecord] | None = (
            check_writing if gives == "text" else check_rows if gives in ("classes", "vector") else None
        )
        if check is None:
            raise ModelError(
                f"no server's routes say what {with_task(bundle)} gives", "compare an exported folder: `luthier parity RUN FOLDER`"
            )
        return check(trainer, endpoint, part, precision or "bfloat16", rows, say)
    finally:
        server.close()


def with_task(bundle: Base) -> str:
    """The model, for a message."""
    assert bundle.bundle is not None
    return f"a {bundle.bundle['task']} model"


def _is_llama_server(server: JsonServer) -> bool:
    """Whether it answers as llama.cpp's own server does."""
    try:
        return isinstance(server.get("/props"), dict)
    except Refused:
        return False


def _precision_of(server: JsonServer) -> str:
    """How a llama.cpp server's weights are rounded, by their size."""
    try:
        meta = server.get("/v1/models")["data"][0]["meta"]
        bits = 8 * float(meta["size"]) / float(meta["n_params"])
    except (Refused, KeyError, TypeError, IndexError, ZeroDivisionError):
        return "int4"
    return next(name for least, name in BITS if bits >= least)
