"""In which precision a server's own engine writes text: who may ask for one, and the record of how near int8 is to fp32."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, ExperimentError, ModelError, RunError, nearest
from luthier.delivery.exports.exporter import facts_of
from luthier.delivery.parity.tolerances import tolerance_of
from luthier.families import FAMILIES, family_of
from luthier.models.base import Base
from luthier.models.decoding.request import PRECISIONS
from luthier.pilot.stages.opened_bundle import Say
from luthier.pilot.stages.parity_rows import rows_for_parity

if TYPE_CHECKING:
    from luthier.models.decoding.precision import PrecisionParity

OTHERS = {"llama.cpp": "float16", "onnx": "fp32"}
"""Engine → the precision that it always has."""
ROWS = 8
"""Rows on which int8 is compared with fp32."""
LONGEST = 128
"""Tokens of each: together about as many as are read in a few seconds."""


def check_precision(precision: str, engine: str, base: Base | None = None) -> None:
    """Refuse a precision that is not known, or that what is served cannot be written in.

    Args:
        precision: as after `--precision`.
        engine: as after `--engine`.
        base: the bundle; None asks for the names alone.

    Raises:
        ExperimentError: it is none of `PRECISIONS`, or another engine than torch is chosen.
        ModelError: the bundle writes no text.
    """
    if precision not in PRECISIONS:
        raise ExperimentError(f"there is no precision {precision!r}", nearest(precision, PRECISIONS))
    if precision == "auto":
        return
    if engine in OTHERS:
        raise ExperimentError(
            f"--precision {precision} is for the engine torch: {engine} computes in {OTHERS[engine]}",
            "leave --precision out, or serve with --engine torch",
        )
    if base is None:
        return
    task = facts_of(base)["task"]
    if family_of(task).gives != "text":
        able = ", ".join(name for name in FAMILIES if FAMILIES[name].gives == "text")
        raise ModelError(
            f"--precision {precision} is for decoders that write text ({able}), and this is a {task} model", "leave --precision out"
        )


def texts_to_compare(base: Base, objective: Any, say: Say) -> tuple[list[list[int]], str]:
    """Token ids of texts on which two precisions are compared, and where they are from.

    Args:
        base: the bundle.
        objective: of it, with its tokenizer.
        say: told what takes long.

    Returns:
        The beginnings of some of the run's sealed test rows; where there are none, no text, for which the network writes some itself.
    """
    from luthier.data.chat import render

    where = "texts that the model wrote itself"
    try:
        records = rows_for_parity(base, None)[0][:ROWS]
    except (DataError, RunError) as problem:
        say(f"comparing int8 with fp32 on {where}: {problem.message}")
        return [], where
    texts: list[list[int]] = []
    for example in objective.prepare(records):
        talk = example.facts.get("messages")
        tokens = render(objective.tokenizer, talk).tokens if talk else example.tokens
        texts.append([int(token) for token in tokens[:LONGEST]])
    texts = [text for text in texts if len(text) > 1][:ROWS]
    if texts:
        where = f"{len(texts)} of the run's sealed test rows"
    say(f"comparing int8 with fp32 on {where}")
    return texts, where


def record_int8(parity: PrecisionParity, where: str) -> dict[str, Any]:
    """The record of how near int8 is, for `/info`.

    Args:
        parity: of int8 and fp32.
        where: the texts are from.

    Raises:
        ModelError: it is farther than rounding to int8 explains.
    """
    allowed = tolerance_of("int8")
    same = parity.mean <= allowed.mean and parity.largest <= allowed.log_probability
    verdict = f"int8 beside fp32 on {where}: {parity}"
    if not same:
        raise ModelError(
            f"int8 does not say what the trainer says: {verdict}; rounding explains {allowed.mean:g} and {allowed.log_probability:g}",
            "serve with --precision auto, which gives the tokens of fp32",
        )
    return {"same": same, "verdict": verdict, "precision": "int8", "rows": where, **dataclasses.asdict(parity)}
