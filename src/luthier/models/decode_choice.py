"""Which code writes text on this machine: measured when an engine is opened."""

from __future__ import annotations

import time
from dataclasses import dataclass

from luthier.core.errors import ModelError
from luthier.models import decode_native
from luthier.models.decode_native import NativeDecoder
from luthier.models.decode_network import DecodeNetwork
from luthier.models.decode_step import Cache, Decoder, Span
from luthier.models.decode_torch import TorchDecoder

PRECISIONS = ("auto", "fp32", "int8")
"""In which weights are held; auto gives the tokens of fp32."""
DRAFT = 4
"""Tokens of a draft, when it is measured whether drafting pays."""
ACCEPTED = 0.8
"""Share of drafted tokens that are taken to be right: less than was measured (0.9 and more), so that drafting must pay clearly."""
TIMES = 3
"""Passes of which the fastest counts."""


@dataclass(frozen=True)
class Choice:
    """What computes.

    Args:
        decoder: whose tokens are given.
        drafter: guesses tokens; None where that does not pay.
        why: in words.
    """

    decoder: Decoder
    drafter: Decoder | None
    why: str


def choose_decoder(network: DecodeNetwork, cache: Cache, precision: str) -> Choice:
    """Take compiled code where there is a compiler, and draft in int8 where that is faster.

    Args:
        network: as read.
        cache: of keys and values; measuring writes to its first pages.
        precision: auto, fp32 or int8.

    Raises:
        ModelError: int8 is asked for, and there is no compiler.
    """
    if not decode_native.can_load():
        if precision == "int8":
            raise ModelError("int8 needs compiled code, and there is no C++ compiler", "install g++, or use precision fp32")
        torch_decoder = TorchDecoder(network, cache)
        return Choice(torch_decoder, None, f"{torch_decoder.about} (no C++ compiler)")
    decoder = NativeDecoder(network, cache, "int8" if precision == "int8" else "fp32")
    if precision != "auto":
        return Choice(decoder, None, decoder.about)
    drafter = NativeDecoder(network, cache, "int8")
    one, several, draft = _seconds(decoder, 1), _seconds(decoder, DRAFT + 1), _seconds(drafter, 1)
    drafted = (DRAFT * draft + several) / (1 + DRAFT * ACCEPTED)
    measured = f"a token {one * 1e3:.0f} ms, in int8 {draft * 1e3:.0f} ms, {DRAFT + 1} rows {several * 1e3:.0f} ms"
    if drafted < one:
        return Choice(decoder, drafter, f"{decoder.about}, up to two texts drafted in int8 ({measured})")
    return Choice(decoder, None, f"{decoder.about}, not drafted ({measured})")


def _seconds(decoder: Decoder, rows: int) -> float:
    """The fastest of some passes over so many tokens of one text."""
    fastest = float("inf")
    for _ in range(TIMES):
        before = time.perf_counter()
        decoder.step([Span([0] * rows, 0, [0], rows)])
        fastest = min(fastest, time.perf_counter() - before)
    return fastest
