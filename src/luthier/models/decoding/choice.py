"""Which code writes text on this machine: measured when an engine is opened."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from luthier.core.errors import LuthierError, ModelError
from luthier.models.decoding.compiled_step import CompiledDecoder
from luthier.models.decoding.continuous_batching import ContinuousBatch
from luthier.models.decoding.network import DecodeNetwork
from luthier.models.decoding.pages import PAGE, PagePool
from luthier.models.decoding.precision import PrecisionParity, compare_decoders
from luthier.models.decoding.request import GenerationRequest
from luthier.models.decoding.step import Cache, Decoder, Span, make_cache
from luthier.models.decoding.torch_step import TorchDecoder

DRAFT = 4
"""Tokens of a draft, when it is measured whether drafting pays."""
ACCEPTED = 0.8
"""Share of drafted tokens that are taken to be right: less than was measured (0.9 and more), so that drafting must pay clearly."""
TIMES = 3
"""Passes of which the fastest counts."""
WRITTEN, WRITTEN_TEXTS = 64, 4
"""Tokens of a text, and texts, that a network writes itself to be compared with another precision."""


@dataclass(frozen=True)
class Choice:
    """What computes.

    Args:
        decoder: whose tokens are given.
        drafter: guesses tokens; None where that does not pay.
        why: in words.
        parity: how near a lesser precision is to fp32; None where the tokens are those of fp32.
    """

    decoder: Decoder
    drafter: Decoder | None
    why: str
    parity: PrecisionParity | None = None


def choose_decoder(network: DecodeNetwork, cache: Cache, precision: str, rows: Sequence[Sequence[int]] = ()) -> Choice:
    """Take compiled code where it can be had, else torch's operations, and draft in int8 where that is faster.

    Args:
        network: as read.
        cache: of keys and values; measuring writes to its first pages.
        precision: auto, fp32 or int8.
        rows: token ids of texts on which int8 is compared with fp32; without them the network writes some itself.

    Raises:
        ModelError: int8 is asked for, and compiled code cannot be had.
    """
    try:
        decoder = CompiledDecoder(network, cache, "int8" if precision == "int8" else "fp32")
    except LuthierError as problem:
        if precision == "int8":
            raise ModelError(f"int8 needs compiled code: {problem.message}", f"{problem.remedy}, or use precision fp32") from None
        torch_decoder = TorchDecoder(network, cache)
        return Choice(torch_decoder, None, f"{torch_decoder.about} (no compiled code: {problem.message})")
    if precision == "int8":
        parity = _compare_with_fp32(network, decoder, rows)
        return Choice(decoder, None, f"{decoder.about} ({parity})", parity)
    if precision == "fp32":
        return Choice(decoder, None, decoder.about)
    drafter = CompiledDecoder(network, cache, "int8")
    one, several, draft = _seconds(decoder, 1), _seconds(decoder, DRAFT + 1), _seconds(drafter, 1)
    drafted = (DRAFT * draft + several) / (1 + DRAFT * ACCEPTED)
    measured = f"a token {one * 1e3:.0f} ms, in int8 {draft * 1e3:.0f} ms, {DRAFT + 1} rows {several * 1e3:.0f} ms"
    if drafted < one:
        return Choice(decoder, drafter, f"{decoder.about}, up to two texts drafted in int8 ({measured})")
    return Choice(decoder, None, f"{decoder.about}, not drafted ({measured})")


def _compare_with_fp32(network: DecodeNetwork, reduced: CompiledDecoder, rows: Sequence[Sequence[int]]) -> PrecisionParity:
    """How near a decoder is to the exact one, which is let go afterwards."""
    room = min(reduced.cache.context, reduced.cache.keys.shape[1] * PAGE)
    cut = [list(row[:room]) for row in rows if len(row) > 1]
    length = max([WRITTEN, *map(len, cut)])
    pages = WRITTEN_TEXTS * -(-length // PAGE)
    exact = CompiledDecoder(network, make_cache(network, pages, length))
    return compare_decoders(exact, reduced, cut or [text[:room] for text in write_texts(exact)])


def write_texts(decoder: Decoder) -> list[list[int]]:
    """Texts that a network writes itself, drawn with fixed seeds."""
    batch = ContinuousBatch(decoder, PagePool(decoder.cache.keys.shape[1]), WRITTEN_TEXTS)
    made = [batch.join(GenerationRequest((number + 1,), WRITTEN - 1, 1.0, seed=number)) for number in range(WRITTEN_TEXTS)]
    while batch.texts:
        batch.step()
    return [text.tokens for text in made if text is not None]


def _seconds(decoder: CompiledDecoder, rows: int) -> float:
    """The fastest of some passes over so many tokens of one text."""
    fastest = float("inf")
    rows = min(rows, decoder.cache.context)
    for _ in range(TIMES):
        before = time.perf_counter()
        decoder.step([Span([0] * rows, 0, [0], rows)])
        fastest = min(fastest, time.perf_counter() - before)
    return fastest
