"""Dropout whose mask is a pure function of (seed, step, example, site, position)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor, nn

from luthier.core.errors import ModelError, nearest
from luthier.core.randomness import mix
from luthier.models.unkeyed import refuse_unkeyed

LEVELS = 1 << 16
TABLES = ("pos_dropout",)
"""What transformers calls dropout over a table that all rows read, not over the rows themselves."""
_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - (1 << 32))


def _as_signed(values: np.ndarray) -> np.ndarray:
    return (values & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.int32)


@cache
def _columns(count: int) -> Tensor:
    return torch.from_numpy(_as_signed(mix("dropout column", np.arange(count))))


def _number(value: int) -> Tensor:
    """As torch takes it without making a tensor of it and converting that, each time."""
    return torch.tensor(value, dtype=torch.int32)


_SHIFTS = tuple((_number(shift), _number((1 << (32 - shift)) - 1)) for shift in (15, 16))
_FACTORS = tuple(map(_number, _MULTIPLIERS))


def _keep_mask(keys: Tensor, width: int, probability: float) -> Tensor:
    """Which of `width` entries a row keeps; it depends on the row's key and the entry's place alone.

    The words are hashed with the two-round multiply-xorshift of "hash prospector" (lowbias32) and each gives two
    16-bit draws, so the probability is met to 1 / 65,536.

    Args:
        keys: one 32-bit integer a row, # (…,) int32
        width: entries in a row.
        probability: share that is dropped, 0 ≤ p < 1.

    Returns:
        1 where the entry is kept, else 0, # (…, width rounded up to an even number) int16
    """
    word = keys.unsqueeze(-1) ^ _columns(-(-width // 2)).to(keys.device)
    for factor, (shift, positive) in zip(_FACTORS, _SHIFTS, strict=True):
        word *= factor
        word ^= (word >> shift).bitwise_and_(positive)
    return word.view(torch.int16).ge_(_least_kept(probability))


def _least_kept(probability: float) -> int:
    """The smallest 16-bit draw that is kept."""
    return round(probability * LEVELS) - LEVELS // 2


def scale_kept(probability: float) -> float:
    """What the kept entries are multiplied by, so that the mean stays."""
    return LEVELS / (LEVELS - round(probability * LEVELS))


def dropout_scale(keys: Tensor, width: int, probability: float, dtype: torch.dtype) -> Tensor:
    """What dropout multiplies by: 0, or what keeps the mean, # (…, width); see `_keep_mask` for the other arguments."""
    mask, scale = _keep_mask(keys, width, probability), scale_kept(probability)
    if dtype.itemsize == mask.itemsize:  # the one number's bits in place of the ones: a conversion costs ten times that
        return mask.mul_(_bits(scale, dtype)).view(dtype)[..., :width].contiguous()
    return mask[..., :width].to(dtype).mul_(scale)


def _bits(value: float, dtype: torch.dtype) -> int:
    return int(torch.tensor(value, dtype=dtype).view(torch.int16))


@dataclass(frozen=True)
class RowDropout:
    """Dropout of rows, as compiled code draws it: each row by its key.

    Args:
        keys: of each row, int32, # (rows,)
        width: entries of a row at most.
        probability: share that is dropped, 0 < p < 1.
    """

    keys: Tensor
    width: int
    probability: float

    @cached_property
    def columns(self) -> Tensor:
        """What the words of pairs of places are made of, as many as fill whole words of 32 places, # (…,) int32"""
        return _columns(-(-self.width // 32) * 16)

    def factor(self, dtype: torch.dtype) -> float:
        """What the kept entries are multiplied by, rounded to a dtype as `dropout_scale` rounds it."""
        return float(torch.tensor(scale_kept(self.probability), dtype=dtype))

    @property
    def least(self) -> int:
        """The smallest draw that is kept."""
        return _least_kept(self.probability)


@dataclass
class Stream:
    """The keys of one stream of tokens of a micro-batch.

    Args:
        tokens: a key for each token, # (tokens,) int32; None while nothing passes through.
        laid: how many rows the tokens are laid out in, all as long; 0 where they are a stream.
        examples: what the keys of each example are made of, # (examples,) uint64
    """

    tokens: Tensor | None = None
    laid: int = 0
    examples: np.ndarray | None = None
    _maps: dict[tuple[int, ...], Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, examples: np.ndarray, lengths: Tensor, device: torch.device) -> Stream:
        """The keys of a stream: each token's is made of its example's and its place within it.

        Args:
            examples: # (examples,) uint64
            lengths: tokens of each, # (examples,)
            device: where the keys go.
        """
        sizes = lengths.cpu().numpy()
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        tokens = mix(np.repeat(examples, sizes), within)
        return cls(torch.from_numpy(_as_signed(tokens)).to(device), 0, examples)

    def is_map(self, shape: Sequence[int]) -> bool:
        """Whether values of this shape come example by example, as the maps of a convolution do, rather than as a stream or as padded rows.

        Args:
            shape: (examples, channels, height, width), (examples, length, channels), or any other with three axes or more.
        """
        if self.laid or self.examples is None or len(shape) < 3 or shape[0] != len(self.examples):
            return False
        if len(shape) > 3 or len(self.examples) > 1 or self.tokens is None:
            return True
        return len(self.tokens) != shape[1]  # otherwise the stream of one example

    def of_map(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """A key for each row of a map, made of its example and of its place along every axis but the last: padding behind a row changes none.

        Args:
            shape: whose first axis is the examples.
            device: where the keys go.

        Returns:
            # (all axes but the last, flat) int32
        """
        axes = tuple(shape[1:-1])
        if axes not in self._maps:
            assert self.examples is not None
            keys = self.examples
            for size in axes:
                keys = mix(keys[..., None], np.arange(size))
            self._maps[axes] = torch.from_numpy(_as_signed(keys.reshape(-1))).to(device)
        return self._maps[axes]


@dataclass
class DropoutKeys:
    """Where the dropout of a model finds the keys of the rows that are passing through.

    Most models read one stream of tokens. One that reads several (the source and the target of a translation) names the others in `set_keys`; a layer
    finds its own by its `Dropout.stream` or by the context `stream`.

    Args:
        examples: a key for each example, # (examples,) int32
        tables: what a key for each row of a table is made of: the same for every micro-batch of a step.
        main: the stream that has no name, or the one that a context put in its place.
        named: the other streams.
    """

    examples: Tensor | None = None
    tables: tuple[int | str, ...] = ()
    main: Stream = field(default_factory=Stream)
    named: dict[str, Stream] = field(default_factory=dict)

    @property
    def tokens(self) -> Tensor | None:
        """A key for each token of the stream that has no name, # (tokens,) int32"""
        return self.main.tokens

    @contextlib.contextmanager
    def set_keys(self, seed: int, step: int, index: Tensor, lengths: Tensor, streams: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Set the keys of a micro-batch for the time of its forward pass.

        Args:
            seed: of the experiment.
            step: counted from 0.
            index: which examples, # (examples,)
            lengths: tokens of each, # (examples,)
            streams: of further streams, by name, the tokens of each example, # name → (examples,)
        """
        device = index.device
        examples = mix(seed, "dropout", step, index.cpu().numpy())
        self.examples = torch.from_numpy(_as_signed(examples)).to(device)
        self.main = Stream.of(examples, lengths, device)
        self.named = {name: Stream.of(mix(examples, "stream", name), sizes, device) for name, sizes in (streams or {}).items()}
        self.tables = (seed, "dropout table", step)
        try:
            yield
        finally:
            self.examples, self.main, self.named, self.tables = None, Stream(), {}, ()

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[None]:
        """For the time of the context, what passes belongs to the stream of this name.

        Args:
            name: as in `set_keys`.

        Raises:
            ModelError: the micro-batch has no such stream.
        """
        before, self.main = self.main, self._find(name)
        try:
            yield
        finally:
            self.main = before

    @contextlib.contextmanager
    def use_layout(self, source: Tensor, rows: int, stream: str = "") -> Iterator[None]:
        """For the time of the context, the tokens are those of padded rows, or of another stream.

        Args:
            source: where each place takes its token from, # (rows × length,)
            rows: how many; 0: a stream.
            stream: whose tokens; "": of the one that has no name.
        """
        own = self._find(stream)
        before = own.tokens, own.laid
        own.laid = rows
        if own.tokens is not None:
            own.tokens = own.tokens.index_select(0, source)
        try:
            yield
        finally:
            own.tokens, own.laid = before

    def _find(self, name: str) -> Stream:
        """The stream of this name."""
        if not name or self.examples is None:  # nothing is keyed: nothing is dropped
            return self.main
        if name not in self.named:
            raise ModelError(
                f"dropout met the stream {name!r}, which this micro-batch does not have: {nearest(name, self.named)}",
                "name its lengths where the keys are set: `set_keys(…, streams={name: lengths})`",
            )
        return self.named[name]

    def rows(self, count: int, stream: str = "") -> Tensor:
        """The keys that fit `count` rows: tokens, examples, or each head's view of padded rows, # (rows × heads × length,)"""
        own = self._find(stream)
        for keys in (own.tokens, self.examples):
            if keys is not None and len(keys) == count:
                return keys
        if own.laid and own.tokens is not None and count % len(own.tokens) == 0:
            return by_head(own.tokens, own.laid, count // len(own.tokens)).flatten()
        raise RuntimeError(f"dropout met {count} rows, but no keys were set for that many")

    def of(self, values: Tensor, stream: str = "") -> Tensor:
        """The keys of what passes, one for each of its rows.

        Args:
            values: # (tokens, width), (1, tokens, width), (rows, length, width) of padded rows, (examples, width), or maps: (examples, …, width)
            stream: that they belong to.

        Returns:
            # (rows,) int32
        """
        own = self._find(stream)
        if own.is_map(values.shape):
            return own.of_map(values.shape, values.device)
        return self.rows(math.prod(values.shape[:-1]), stream)

    def table(self, count: int) -> Tensor:
        """A key for each row of a table that all examples read, # (count,)"""
        if not self.tables:
            raise RuntimeError("dropout met a table, but no keys were set")
        return torch.from_numpy(_as_signed(mix(*self.tables, np.arange(count))))


@cache
def site_key(name: str) -> int:
    """The constant that keeps two places in a model from drawing the same mask."""
    return int(_as_signed(mix("dropout site", name))[()])


@cache
def head_keys(heads: int) -> Tensor:
    """What keeps heads from drawing the same mask, # (heads,) int32"""
    return torch.tensor([site_key(f"head {head}") for head in range(heads)], dtype=torch.int32)


def by_head(tokens: Tensor, rows: int, heads: int) -> Tensor:
    """Keys that keep the heads of one attention from drawing the same mask, # (rows × length,) → (rows, heads, length)"""
    return tokens.view(rows, 1, -1) ^ head_keys(heads).to(tokens.device).view(1, -1, 1)


class Dropout(nn.Module):
    """Takes the place of `nn.Dropout`; identity in eval mode.

    Args:
        p: share of entries set to zero, 0 ≤ p < 1.
        dropout_keys: where the keys of the passing rows are found.
        site: this place's name.
        table: what passes is a table that all examples read.
        stream: which of the micro-batch's streams the rows belong to; "": the one that has no name.
    """

    def __init__(self, p: float, dropout_keys: DropoutKeys, site: str, table: bool = False, stream: str = "") -> None:
        super().__init__()
        self.p = p
        self.dropout_keys = dropout_keys
        self.site = site_key(site)
        self.table = table
        self.stream = stream

    def forward(self, values: Tensor) -> Tensor:
        """Drop entries of `values`, # (…, width) with one row a token or an example, or maps, whose first axis is the examples."""
        if not self.training or self.p == 0:
            return values
        width = values.shape[-1]
        keys = (
            self.dropout_keys.table(values.numel() // width).to(values.device) if self.table else self.dropout_keys.of(values, self.stream)
        )
        return values * dropout_scale(keys ^ self.site, width, self.p, values.dtype).view(values.shape)


def attach(model: nn.Module, probability: float, streams: Mapping[str, str] | None = None) -> DropoutKeys:
    """Replace every `nn.Dropout` of a model by ours.

    Args:
        model: changed in place.
        probability: for all of them, except inside low-rank adapters, which bring their own.
        streams: of a model that reads several streams, the beginning of a dotted module name → the name of the stream that passes there.

    Returns:
        The handle that sets the keys.

    Raises:
        ModelError: a layer draws random numbers that cannot be keyed.
    """
    refuse_unkeyed(model)
    dropout_keys = DropoutKeys()
    for name, module in list(model.named_modules()):
        if isinstance(module, Dropout):
            module.dropout_keys = dropout_keys
            continue
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                site = f"{name}.{child_name}"
                setattr(
                    module,
                    child_name,
                    Dropout(probability, dropout_keys, site, child_name in TABLES, _stream_at(site.lstrip("."), streams)),
                )
    return dropout_keys


def _stream_at(site: str, streams: Mapping[str, str] | None) -> str:
    """The stream of the longest prefix that a site's name begins with; "" where none does."""
    prefixes = [prefix for prefix in streams or {} if f"{site}.".startswith(f"{prefix.rstrip('.')}.")]
    return (streams or {})[max(prefixes, key=len)] if prefixes else ""
