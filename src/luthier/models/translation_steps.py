"""The decoder of an encoder–decoder, one token of each text at a time: what earlier steps computed is kept, and never moved while texts change places."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from luthier.core.types import Batch
from luthier.models.encoder_decoder import EncoderDecoder
from luthier.models.halves import Attention, Block, Change, halves_of, plain_linear

ROUND = 16
"""Places that attention looks at are a multiple of this: softmax and products over fewer took up to three times as long as over sixteen."""
NARROW = 512
"""Up to this width queries, keys and values are one product with a copy of their weights; above it three products cost as much as one."""


@dataclass(frozen=True)
class Sources:
    """What the encoder made of some rows.

    Args:
        states: of the rows end to end, # (tokens, width)
        lengths: # (rows,)
        place: of each place of the padded rows its token, # (rows × longest,)
        longest: places of a padded row.
    """

    states: Tensor
    lengths: Tensor
    place: Tensor
    longest: int

    def keys_and_values(self, at: Attention) -> Tensor:
        """Of the padded rows, computed once, # (2, rows, heads, longest, width)"""
        both = torch.stack([change(self.states) for change in (at.key, at.value)])  # (2, tokens, heads × width)
        return both.index_select(1, self.place).view(2, len(self.lengths), self.longest, at.heads, -1).transpose(2, 3).contiguous()


def read_sources(model: EncoderDecoder, sources: Sequence[Sequence[int]], multiple: int) -> Sources:
    """Send rows through the encoder.

    Args:
        model: in eval mode.
        sources: token ids of each row.
        multiple: padded rows are a multiple of this long.
    """
    device = next(model.parameters()).device
    lengths = torch.tensor([len(source) for source in sources], device=device)
    flat = {"tokens": torch.tensor([token for source in sources for token in source], device=device)}
    states = model.encode(Batch(torch.arange(len(sources), device=device), lengths, flat, {}))
    longest = -(-max(len(source) for source in sources) // multiple) * multiple
    columns, starts = torch.arange(longest, device=device), lengths.cumsum(0) - lengths
    return Sources(states, lengths, (starts[:, None] + columns.minimum(lengths[:, None] - 1)).flatten(), longest)


class Steps(ABC):
    """A decoder behind its sources, one token of each text at a time.

    The keys and values of a row's texts lie side by side: place × texts + text. When a text goes on from another one, nothing is copied; it is noted which of
    the texts wrote each place of its past, and attention is closed to the others.

    Args:
        model: in eval mode.
        beams: texts a row.
        writers: of each place of each text's past, that text of its row which wrote it, # (rows, beams, longest)
    """

    def __init__(self, model: EncoderDecoder, beams: int, writers: Tensor) -> None:
        self.model, self.beams, self.step, self.writers = model, beams, 0, writers

    @abstractmethod
    def likeliest(self, tokens: Tensor) -> list[int]:
        """The likeliest next token of each text; of equals the first.

        Args:
            tokens: the newest of each text, # (texts,)
        """

    @abstractmethod
    def candidates(self, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The likeliest next tokens of each text, with their log-probabilities among all tokens.

        Args:
            tokens: the newest of each text, # (texts,)
            count: of each text.

        Returns:
            # (texts, count) fp32, (texts, count)
        """

    @abstractmethod
    def keep_rows(self, rows: Tensor) -> None:
        """Go on with some of the rows alone."""

    def follow(self, order: Tensor) -> None:
        """Let each text go on from another one of its row.

        Args:
            order: for each text, which it goes on from, # (texts,)
        """
        if self.beams > 1:
            self.writers = self.writers.flatten(0, 1).index_select(0, order).view_as(self.writers)


class TorchSteps(Steps):
    """A decoder in torch's operations.

    Args:
        model: in eval mode.
        sources: token ids of each row.
        longest: tokens that a text may have.
        beams: texts a row.
        never: tokens that are never written.
    """

    def __init__(self, model: EncoderDecoder, sources: Sequence[Sequence[int]], longest: int, beams: int, never: Sequence[int]) -> None:
        device = next(model.parameters()).device
        super().__init__(model, beams, torch.zeros(len(sources), beams, longest, dtype=torch.long, device=device))
        self.never = torch.tensor(never, dtype=torch.long, device=device)
        read = read_sources(model, sources, ROUND)
        states, self.device = read.states, read.states.device
        self.half = halves_of(model.network)[1]
        places = _rounded(longest * beams)
        self.blocks = [_Block(block.attention, crossing_of(block), read, places) for block in self.half.blocks]
        columns = torch.arange(read.longest, device=self.device)
        self.closed = _closed((columns >= read.lengths[:, None])[:, None], states.dtype)  # (rows, 1, source length)
        self.texts = torch.arange(beams, device=self.device)
        self.weight, self.bias = model.output()
        self.scores = torch.empty(len(sources) * beams, len(self.weight), dtype=states.dtype, device=self.device)
        """Where each step's scores lie: memory that is new each time would be cleared by the system first, a tenth of a step."""

    def next_scores(self, tokens: Tensor) -> Tensor:
        """The score of every token behind each text, # (texts,) → (texts, vocabulary) fp32, overwritten by the next step"""
        half = self.half
        self.writers[:, :, self.step] = self.texts
        values = half.embed(tokens, torch.full_like(tokens, self.step))
        open_to = self._closed_past(values.dtype)
        for block, parts in zip(half.blocks, self.blocks, strict=True):
            own, crossing = parts.own, parts.crossing
            added = parts.within(own.norm(values) if half.before else values, self.step, self.beams, open_to)
            values = values + added if half.before else own.norm(values + added)
            added = parts.across(crossing.norm(values) if half.before else values, self.beams, self.closed)
            values = values + added if half.before else crossing.norm(values + added)
            values = values + block.feed(block.norm(values)) if half.before else block.norm(values + block.feed(values))
        self.step += 1
        scores = torch.mm(self.model.scale(half.last(values)), self.weight.t(), out=self.scores[: len(tokens)]).float()
        return scores if self.bias is None else scores.add_(self.bias)

    def likeliest(self, tokens: Tensor) -> list[int]:
        """On a processor by numpy, whose argmax takes a tenth of the time of torch's."""
        scores = self.next_scores(tokens).index_fill_(1, self.never, -math.inf)
        return scores.numpy().argmax(-1).tolist() if scores.device.type == "cpu" else scores.argmax(-1).tolist()

    def candidates(self, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See `Steps`."""
        shares = self.next_scores(tokens).log_softmax(-1)
        shares.index_fill_(1, self.never, -math.inf)  # behind the softmax, as transformers does it: texts are compared as they are likely
        values, found = shares.topk(count)
        return values, found

    def _closed_past(self, dtype: torch.dtype) -> Tensor:
        """What is added to the scores of places: of those that another text wrote, and of those not yet written, minus infinity.

        Returns:
            # (rows or 1, heads or 1, beams, places)
        """
        count, used = self.step + 1, _rounded((self.step + 1) * self.beams)
        if self.beams == 1:
            closed = (torch.arange(used, device=self.device) >= count)[None, None, None]
        else:
            closed = (self.writers[:, :, :count, None] != self.texts).flatten(2)  # (rows, beams, places written)
            closed = nn.functional.pad(closed, (0, used - closed.shape[-1]), value=True)[:, None]
        added = _closed(closed, dtype)
        if self.half.bias is None:
            return added
        bias = self.half.bias(1, count, self.step).repeat_interleave(self.beams, -1)  # (1, heads, 1, places written)
        return added + nn.functional.pad(bias, (0, used - bias.shape[-1]))

    def keep_rows(self, rows: Tensor) -> None:
        """Their past is copied."""
        self.writers, self.closed = self.writers.index_select(0, rows), self.closed.index_select(0, rows)
        used = _rounded(self.step * self.beams)
        for block in self.blocks:
            block.keep_rows(rows, used)


class _Block:
    """One block's keys and values, and its products.

    Args:
        own: attention within the texts.
        crossing: attention to the source.
        read: the sources.
        places: room for each row's keys and values.
    """

    def __init__(self, own: Attention, crossing: Attention, read: Sources, places: int) -> None:
        self.own, self.crossing, self.places = own, crossing, places
        self.project = side_by_side((own.query, own.key, own.value))
        self.source = read.keys_and_values(crossing)
        self.past: Tensor | None = None
        """Keys and values of the texts; zeros where nothing is written, for what is closed is multiplied by 0, # (2, rows, heads, places, width)"""

    def within(self, inputs: Tensor, step: int, beams: int, closed: Tensor) -> Tensor:
        """What each text's newest token makes of those before it.

        Args:
            inputs: # (texts, width)
            step: tokens before it.
            beams: texts a row.
            closed: added to the scores, # (rows or 1, heads or 1, beams, places)
        """
        heads, rows = self.own.heads, len(inputs) // beams
        parts = self.project(inputs)
        parts = parts.view(rows, beams, 3, heads, parts.shape[-1] // (3 * heads)).permute(2, 0, 3, 1, 4)  # (3, rows, heads, beams, width)
        if self.past is None:
            self.past = parts.new_zeros(2, rows, heads, self.places, parts.shape[-1])
        self.past[:, :, :, step * beams : (step + 1) * beams] = parts[1:]
        used = closed.shape[-1]
        mixed = _attend(parts[0], self.past[0, :, :, :used], self.past[1, :, :, :used], closed, self.own.scale)
        return self.own.out(mixed.transpose(1, 2).reshape(len(inputs), -1))

    def across(self, inputs: Tensor, beams: int, closed: Tensor) -> Tensor:
        """What each text's newest token makes of the source: the beams of a row ask together.

        Args:
            inputs: # (texts, width)
            beams: texts a row.
            closed: added to the scores, # (rows, 1, source length)
        """
        heads = self.crossing.heads
        asked = self.crossing.query(inputs)
        asked = asked.view(len(inputs) // beams, beams, heads, asked.shape[-1] // heads).transpose(1, 2)
        mixed = _attend(asked, self.source[0], self.source[1], closed[:, None], self.crossing.scale)
        return self.crossing.out(mixed.transpose(1, 2).reshape(len(inputs), -1))

    def keep_rows(self, rows: Tensor, used: int) -> None:
        """Go on with some of the rows alone; only what is written of their past is copied."""
        self.source = self.source.index_select(1, rows)
        if self.past is not None:
            kept = self.past.new_zeros(2, len(rows), *self.past.shape[2:])
            kept[:, :, :, :used] = self.past[:, :, :, :used].index_select(1, rows)
            self.past = kept


def _attend(query: Tensor, key: Tensor, value: Tensor, closed: Tensor, scale: float) -> Tensor:
    """Softmax attention as one product a row and head.

    Args:
        query: # (rows, heads, beams, width)
        key: # (rows, heads, places, width)
        value: the same.
        closed: added to the scores, # (rows or 1, heads or 1, beams or 1, places)
        scale: of the scores.

    Returns:
        # (rows, heads, beams, width)
    """
    rows, heads, beams, width = query.shape
    added = closed.expand(rows, heads, beams, -1).reshape(rows * heads, beams, -1)
    score = torch.baddbmm(added, query.reshape(-1, beams, width), key.flatten(0, 1).transpose(1, 2), alpha=scale)
    share = score.softmax(-1, dtype=torch.float32).to(value.dtype)
    return torch.bmm(share, value.flatten(0, 1)).view(query.shape)


def side_by_side(changes: Sequence[Change]) -> Change:
    """Several layers of the same input as one, their outputs behind each other: one product where all are plain and narrow.

    Args:
        changes: plain linear layers, or anything else.
    """
    layers = [plain_linear(change) for change in changes]
    known = [layer for layer in layers if layer is not None]
    if len(known) < len(layers) or max(layer[0].shape[1] for layer in known) > NARROW:
        return lambda values: torch.cat([change(values) for change in changes], -1)
    weight = torch.cat([weight for weight, _ in known])
    biases = [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in known]
    bias = None if all(bias is None for _, bias in known) else torch.cat(biases)
    return lambda values: nn.functional.linear(values, weight, bias)


def crossing_of(block: Block) -> Attention:
    """Attention from a decoder's block to the source."""
    assert block.crossing is not None
    return block.crossing


def _closed(closed: Tensor, dtype: torch.dtype) -> Tensor:
    """Minus infinity where places are closed, else 0."""
    return torch.zeros(closed.shape, dtype=dtype, device=closed.device).masked_fill_(closed, -math.inf)


def _rounded(count: int) -> int:
    return -(-count // ROUND) * ROUND
