"""Texts from an encoder–decoder: the likeliest token each time, or beam search, with what earlier steps computed kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from luthier.models.encoder_decoder import EncoderDecoder
from luthier.models.kernels.compiled_translation import open_steps
from luthier.models.memory import retry_halved
from luthier.models.modes import eval_mode

LEAVING = 0.25
"""Share of the rows that are through from which on they leave the batch."""


@dataclass(frozen=True)
class Writing:
    """How texts are written.

    Args:
        end: the token that ends a text.
        never: tokens that are never written.
        beams: texts that are kept for each row; 1: the likeliest token each time.
        length_penalty: a text's log-probability is divided by its length to this power.
    """

    end: int
    never: tuple[int, ...] = ()
    beams: int = 1
    length_penalty: float = 1.0


def write(model: EncoderDecoder, sources: Sequence[Sequence[int]], limits: Sequence[int], how: Writing) -> list[list[int]]:
    """What a model writes for a few sources at once, without the token that ends it.

    Args:
        model: changed to eval mode meanwhile.
        sources: token ids.
        limits: tokens that each text may have, the end's included; 1 or more.
        how: beams and marks.

    Raises:
        OutOfMemory: even one source is too much.
    """
    rows = list(zip(sources, limits, strict=True))
    with eval_mode(model), torch.no_grad():
        return [text for part in retry_halved(lambda few: _write(model, few, how), rows, "writing a translation") for text in part]


def _write(model: EncoderDecoder, rows: Sequence[tuple[Sequence[int], int]], how: Writing) -> list[list[int]]:
    beams = _Beams([limit for _, limit in rows], how)
    steps = open_steps(model, [source for source, _ in rows], max(limit for _, limit in rows), how.beams, how.never)
    count = min(2 * how.beams, len(model.output()[0]))
    tokens = torch.full((len(rows) * how.beams,), model.start, device=next(model.parameters()).device)
    while True:
        one_each = how.beams == 1
        found, order = beams.advance_greedily(steps.likeliest(tokens)) if one_each else beams.advance(*steps.candidates(tokens, count))
        if not beams.going:
            return [cast(list[int], text) for text in beams.texts]
        tokens = torch.tensor(found, device=tokens.device)
        steps.follow(torch.tensor(order, device=tokens.device))
        if len(beams.gone) > LEAVING * len(beams.going):
            stays = torch.tensor(beams.leave(), device=tokens.device)
            tokens = tokens.view(-1, how.beams).index_select(0, stays).flatten()
            steps.keep_rows(stays)


@dataclass
class _Row:
    """One row's texts: those that go on, and those that have ended."""

    number: int
    limit: int
    running: list[tuple[float, list[int]]]
    ended: list[tuple[float, list[int]]] = field(default_factory=list)


class _Beams:
    """Which texts go on.

    A text that ends among the best `beams` of a step is kept with its log-probability divided by its length; a row is through when so many have
    ended and none that goes on can become better, or at its limit.

    Source: Wu et al. 2016, section 7; the rules are those of transformers' `generate` with `early_stopping=False`.

    Args:
        limits: tokens that each row's texts may have.
        how: beams and marks.
    """

    def __init__(self, limits: Sequence[int], how: Writing) -> None:
        self.how, self.length = how, 0
        self.going = [_Row(number, limit, [(0.0, [])]) for number, limit in enumerate(limits)]
        self.texts: list[list[int] | None] = [None] * len(limits)
        self.gone: set[int] = set()

    def advance(self, values: Tensor, found: Tensor) -> tuple[list[int], list[int]]:
        """Take the next token of each text.

        Args:
            values: log-probabilities of each text's likeliest tokens, # (texts, candidates)
            found: these tokens, # (texts, candidates)

        Returns:
            The tokens, and for each text which it goes on from, (texts,), (texts,)
        """
        beams, wide = self.how.beams, found.shape[1]
        self.length += 1
        before = [[score for score, _ in row.running] + [-1e9] * (beams - len(row.running)) for row in self.going]
        sums = values.view(-1, beams, wide) + torch.tensor(before, device=values.device)[:, :, None]
        best, where = sums.flatten(1).topk(min(2 * beams, beams * wide))
        token_at = found.view(-1, beams * wide).gather(1, where)
        tokens, order = [], []
        for index, (row, *each) in enumerate(zip(self.going, best.tolist(), where.tolist(), token_at.tolist(), strict=True)):
            candidates = [(value, at // wide, token) for value, at, token in zip(*each, strict=True)]
            chosen = [(self.how.end, 0)] * beams if index in self.gone else self._advance_row(index, row, candidates)
            tokens += [token for token, _ in chosen]
            order += [index * beams + beam for _, beam in chosen]
        return self._settle(tokens, order)

    def _advance_row(self, index: int, row: _Row, candidates: Sequence[tuple[float, int, int]]) -> list[tuple[int, int]]:
        """The tokens with which a row's texts go on, and which text each goes on from."""
        beams, last = self.how.beams, self.length >= row.limit
        going: list[tuple[float, list[int]]] = []
        chosen: list[tuple[int, int]] = []
        for rank, (value, beam, token) in enumerate(candidates):
            text = row.running[beam][1] if beam < len(row.running) else []
            if token == self.how.end or last:
                if rank < beams and value > -1e8:
                    finished = text if token == self.how.end else [*text, token]
                    row.ended.append((value / self.length**self.how.length_penalty, finished))
            elif len(going) < beams:
                going.append((value, [*text, token]))
                chosen.append((token, beam))
        row.ended = sorted(row.ended, key=lambda each: -each[0])[:beams]
        row.running = going or row.running
        enough = len(row.ended) == beams and going and going[0][0] / self.length**self.how.length_penalty <= row.ended[-1][0]
        if last or enough:
            self.texts[row.number] = row.ended[0][1] if row.ended else row.running[0][1]
            self.gone.add(index)
        return (chosen + [(self.how.end, 0)] * beams)[:beams]

    def advance_greedily(self, tokens: list[int]) -> tuple[list[int], list[int]]:
        """Take the likeliest token of each row's only text; returns as `advance` does."""
        self.length += 1
        for index, (row, token) in enumerate(zip(self.going, tokens, strict=True)):
            if index in self.gone:
                continue
            text = row.running[0][1]
            if token != self.how.end:
                text.append(token)
            if token == self.how.end or self.length >= row.limit:
                self.texts[row.number] = text
                self.gone.add(index)
        return self._settle(tokens, list(range(len(tokens))))

    def _settle(self, tokens: list[int], order: list[int]) -> tuple[list[int], list[int]]:
        if len(self.gone) == len(self.going):
            self.going = []
        return tokens, order

    def leave(self) -> list[int]:
        """Take out the rows that are through; which of the others stay, by their places."""
        stays = [index for index in range(len(self.going)) if index not in self.gone]
        self.going, self.gone = [self.going[index] for index in stays], set()
        return stays
