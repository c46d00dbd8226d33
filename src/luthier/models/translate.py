"""Texts from an encoder–decoder: the likeliest token each time, or beam search, with what earlier steps computed kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from luthier.core.types import Batch
from luthier.models.encoder_decoder import EncoderDecoder, attend
from luthier.models.halves import Attention, halves_of
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
    steps = _Steps(model, [source for source, _ in rows], max(limit for _, limit in rows), how.beams)
    tokens = torch.full((len(rows) * how.beams,), model.start, device=steps.device)
    while True:
        scores = steps.next_scores(tokens)
        chosen = beams.advance(scores.view(-1, how.beams, scores.shape[-1]))
        if not beams.going:
            return [cast(list[int], text) for text in beams.texts]
        tokens, order = chosen
        steps.follow(order)
        if len(beams.gone) > LEAVING * len(beams.going):
            stays = torch.tensor(beams.leave(), device=steps.device)
            tokens = tokens.view(-1, how.beams).index_select(0, stays).flatten()
            steps.keep_rows(stays)


class _Steps:
    """The decoder, one token of each text at a time.

    Args:
        model: in eval mode.
        sources: token ids of each row.
        longest: tokens that a text may have.
        beams: texts a row.
    """

    def __init__(self, model: EncoderDecoder, sources: Sequence[Sequence[int]], longest: int, beams: int) -> None:
        self.model, self.beams, self.longest, self.step = model, beams, longest, 0
        self.device = next(model.parameters()).device
        lengths = torch.tensor([len(source) for source in sources], device=self.device)
        flat = {"tokens": torch.tensor([token for source in sources for token in source], device=self.device)}
        states = model.encode(Batch(torch.arange(len(sources), device=self.device), lengths, flat, {}))
        self.half = halves_of(model.network)[1]
        columns = torch.arange(int(lengths.max()), device=self.device)
        starts = lengths.cumsum(0) - lengths
        source = (starts[:, None] + columns.minimum(lengths[:, None] - 1)).flatten()
        self.visible = (columns < lengths[:, None])[:, None, None, :]  # (rows, 1, 1, length)
        self.crossed: list[tuple[Tensor, Tensor]] = []
        self.kept: list[tuple[Tensor, Tensor]] = []
        for block in self.half.blocks:
            crossing = block.crossing
            assert crossing is not None
            key, value = (
                change(states).index_select(0, source).view(len(sources), len(columns), crossing.heads, -1).transpose(1, 2).contiguous()
                for change in (crossing.key, crossing.value)
            )
            self.crossed.append((key, value))
            width = key.shape[-1]
            room = (len(sources) * beams, block.attention.heads, longest, width)
            self.kept.append((key.new_empty(room), key.new_empty(room)))
        self.weight, self.bias = model.output()

    def next_scores(self, tokens: Tensor) -> Tensor:
        """The score of every token behind each text, # (texts,) → (texts, vocabulary) fp32"""
        half, at = self.half, self.step
        values = half.embed(tokens, torch.full_like(tokens, at))
        bias = half.bias(1, at + 1, at) if half.bias is not None else None
        for block, cached, crossed in zip(half.blocks, self.kept, self.crossed, strict=True):
            own, crossing = block.attention, block.crossing
            assert crossing is not None
            inputs = own.norm(values) if half.before else values
            added = self._within(own, inputs, cached, bias)
            values = values + added if half.before else own.norm(values + added)
            inputs = crossing.norm(values) if half.before else values
            added = self._across(crossing, inputs, crossed)
            values = values + added if half.before else crossing.norm(values + added)
            values = values + block.feed(block.norm(values)) if half.before else block.norm(values + block.feed(values))
        self.step += 1
        scores = (self.model.scale(half.last(values)) @ self.weight.t()).float()
        return scores if self.bias is None else scores + self.bias.float()

    def _within(self, own: Attention, inputs: Tensor, cached: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        """What each text's newest token makes of those before it."""
        at, texts = self.step, len(inputs)
        for change, table in zip((own.key, own.value), cached, strict=True):
            table[:, :, at] = change(inputs).view(texts, own.heads, -1)
        query = own.query(inputs).view(texts, own.heads, 1, -1)
        attended = attend(query, cached[0][:, :, : at + 1], cached[1][:, :, : at + 1], None, bias, own.scale)
        return own.out(attended.reshape(texts, -1))

    def _across(self, crossing: Attention, inputs: Tensor, crossed: tuple[Tensor, Tensor]) -> Tensor:
        """What each text's newest token makes of the source: the beams of a row ask together."""
        rows = len(inputs) // self.beams
        query = crossing.query(inputs).view(rows, self.beams, crossing.heads, -1).transpose(1, 2)
        attended = attend(query, *crossed, self.visible, None, crossing.scale)
        return crossing.out(attended.transpose(1, 2).reshape(len(inputs), -1))

    def follow(self, order: Tensor) -> None:
        """Let each text go on from another one of its row.

        Args:
            order: for each text, which it goes on from, # (texts,)
        """
        if self.beams == 1 or torch.equal(order, torch.arange(len(order), device=order.device)):
            return
        for cached in self.kept:
            for table in cached:
                past = table[:, :, : self.step]
                past.copy_(past.index_select(0, order))

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with some of the rows alone."""
        texts = (rows[:, None] * self.beams + torch.arange(self.beams, device=rows.device)).flatten()
        self.visible = self.visible.index_select(0, rows)
        self.crossed = [(key.index_select(0, rows), value.index_select(0, rows)) for key, value in self.crossed]
        self.kept = [(key.index_select(0, texts), value.index_select(0, texts)) for key, value in self.kept]


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

    def advance(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Take the next token of each text.

        Args:
            scores: # (rows that go on, beams, vocabulary)

        Returns:
            The tokens, and for each text which it goes on from, # (texts,), (texts,)
        """
        beams, vocabulary = self.how.beams, scores.shape[-1]
        self.length += 1
        shares = scores.log_softmax(-1) if beams > 1 else scores
        shares[..., list(self.how.never)] = -torch.inf  # behind the softmax, as transformers does it: texts are compared as they are likely
        if beams == 1:
            return self._advance_greedily(shares[:, 0])
        before = torch.full(shares.shape[:2], -1e9, device=shares.device)
        for index, row in enumerate(self.going):
            for beam, (score, _) in enumerate(row.running):
                before[index, beam] = score
        best, where = (shares + before[:, :, None]).flatten(1).topk(2 * beams)
        tokens, order = [], []
        for index, (row, values, indices) in enumerate(zip(self.going, best.tolist(), where.tolist(), strict=True)):
            candidates = [(value, *divmod(at, vocabulary)) for value, at in zip(values, indices, strict=True)]
            chosen = [(self.how.end, 0)] * beams if index in self.gone else self._advance_row(index, row, candidates)
            tokens += [token for token, _ in chosen]
            order += [index * beams + beam for _, beam in chosen]
        return self._settle(scores, tokens, order)

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

    def _advance_greedily(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        tokens = scores.argmax(-1).tolist()
        for index, (row, token) in enumerate(zip(self.going, tokens, strict=True)):
            if index in self.gone:
                continue
            text = row.running[0][1]
            if token != self.how.end:
                text.append(token)
            if token == self.how.end or self.length >= row.limit:
                self.texts[row.number] = text
                self.gone.add(index)
        return self._settle(scores, tokens, list(range(len(tokens))))

    def _settle(self, scores: Tensor, tokens: list[int], order: list[int]) -> tuple[Tensor, Tensor]:
        if len(self.gone) == len(self.going):
            self.going = []
        return torch.tensor(tokens, device=scores.device), torch.tensor(order, device=scores.device)

    def leave(self) -> list[int]:
        """Take out the rows that are through; which of the others stay, by their places."""
        stays = [index for index in range(len(self.going)) if index not in self.gone]
        self.going, self.gone = [self.going[index] for index in stays], set()
        return stays
