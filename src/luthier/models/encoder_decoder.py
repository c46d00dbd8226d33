"""Encoder–decoders of transformers (Marian, Pegasus, BART, T5), on rows end to end: nothing but attention ever meets padding."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import luthier.core.hub  # noqa: F401  # keeps transformers offline; before it is imported

# isort: split
import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PegasusConfig, PegasusForConditionalGeneration

from luthier.core.errors import ModelError, nearest
from luthier.core.types import Batch
from luthier.models.base import TRANSLATORS, Base
from luthier.models.dropout import attach, dropout_scale, site_key
from luthier.models.halves import Attention, Half, halves_of
from luthier.models.modes import eval_mode
from luthier.models.opened import open_network
from luthier.models.pairs import Layout, Side, lay_out

TARGET = "target"
"""The stream that the decoder reads."""
LONGEST = 512
"""Positions that a network from scratch knows."""


class EncoderDecoder(nn.Module):
    """A network that reads one text and writes another, as the loop, the adaptations and the checkpoints see it.

    Dropout acts behind the embeddings and behind each attention and each feed-forward layer, on both sides; not on attention's probabilities.

    Args:
        network: of transformers, for sequence to sequence.
        dropout: share of activations dropped while training.
    """

    adapter_task = "SEQ_2_SEQ_LM"
    packs = False
    """Frozen blocks' outputs are not kept by row."""
    causal = False

    def __init__(self, network: Any, dropout: float) -> None:
        super().__init__()
        self.network = network
        self.dropout = dropout
        for half in halves_of(network):
            positions = getattr(half.module, "embed_positions", None)
            if positions is not None and not positions.weight.requires_grad:
                table = positions.weight.detach().clone()  # sines never move: as a buffer nobody can let them
                del positions.weight
                positions.register_buffer("weight", table)
        self.dropout_keys = attach(network, dropout, {"decoder": TARGET, "model.decoder": TARGET})
        for name, module in network.named_modules():
            module.luthier_site = name
        self.frozen_cache: Any = None

    @property
    def blocks(self) -> nn.ModuleList:
        """The encoder's blocks, then the decoder's."""
        return nn.ModuleList([block.module for half in halves_of(self.network) for block in half.blocks])

    @property
    def head(self) -> list[nn.Module]:
        """Nothing is new here."""
        return []

    @property
    def start(self) -> int:
        """The token that the decoder begins from."""
        config = self.network.config
        return int(config.pad_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id)

    @contextlib.contextmanager
    def for_generation(self) -> Iterator[Any]:
        """The network as transformers itself computes it, in eval mode and one dtype, for the time of the context."""
        dtype = next(self.network.parameters()).dtype
        tables = [(module, name, buffer) for module in self.network.modules() for name, buffer in module.named_buffers(recurse=False)]
        for module, name, buffer in tables:
            setattr(module, name, buffer.to(dtype) if buffer.is_floating_point() else buffer)
        try:
            with eval_mode(self), torch.no_grad():
                yield self.network
        finally:
            for module, name, buffer in tables:
                setattr(module, name, buffer)

    def micro_batches(self, batch: Batch, limit: int) -> list[Batch]:
        """The batch in micro-batches that cost at most so much."""
        return batch.split(limit)

    def encode(self, batch: Batch) -> Tensor:
        """The encoder's last state of every source token, # (tokens, width)

        Args:
            batch: with `flat["tokens"]`.
        """
        return self._encode(batch, lay_out(batch.lengths, batch.lengths))

    def hidden_states(self, batch: Batch) -> Tensor:
        """The decoder's last state of every target token, as the output matrix reads it, # (target tokens, width)

        Args:
            batch: with `flat["tokens"]` and the stream "target" with `shown`, what the decoder reads; -1 where a row begins.
        """
        target = batch.streams[TARGET]
        inputs = target.values["shown"]
        inputs = inputs.masked_fill(inputs < 0, self.start)
        layout = lay_out(batch.lengths, target.lengths)
        source = self._encode(batch, layout)
        half = halves_of(self.network)[1]
        crossed = [
            (block.crossing.key(source), block.crossing.value(source)) for block in half.blocks if block.crossing is not None
        ]  # of the source: before the target's keys of dropout are in their place
        with self.dropout_keys.stream(TARGET):
            values = self._drop(half.embed(inputs, places_in(target.lengths)), half.module, "embeddings")
            for block, (key, value) in zip(half.blocks, crossed, strict=True):
                assert block.crossing is not None
                own, crossing = block.attention, block.crossing
                values = self._around(half, values, own, block.module, "attention",
                                      lambda x, own=own: self._within(half, own, x, layout, 1))  # fmt: skip
                values = self._around(half, values, crossing, block.module, "crossing",
                                      lambda x, crossing=crossing, key=key, value=value: self._look(crossing, crossing.query(x), key, value, layout, (1, 0), None, False))  # fmt: skip
                values = self._around(half, values, block, block.module, "feed", block.feed)
        return self.scale(half.last(values))

    def scale(self, values: Tensor) -> Tensor:
        """States as the output matrix reads them."""
        config = self.network.config
        return values * config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else values

    def output(self) -> tuple[Tensor, Tensor | None]:
        """The output matrix, and what is added to its scores, # (vocabulary, width), (vocabulary,)"""
        bias = getattr(self.network, "final_logits_bias", None)
        return self.network.get_output_embeddings().weight, None if bias is None or not bool(bias.any()) else bias[0]

    def _encode(self, batch: Batch, layout: Layout) -> Tensor:
        half = halves_of(self.network)[0]
        values = self._drop(half.embed(batch.flat["tokens"], places_in(batch.lengths)), half.module, "embeddings")
        for block in half.blocks:
            own = block.attention
            values = self._around(half, values, own, block.module, "attention",
                                  lambda x, own=own: self._within(half, own, x, layout, 0))  # fmt: skip
            values = self._around(half, values, block, block.module, "feed", block.feed)
        return half.last(values)

    def _around(self, half: Half, values: Tensor, at: Any, module: nn.Module, site: str, change: Callable[[Tensor], Tensor]) -> Tensor:
        """What a layer adds, with dropout and the norm before or behind it."""
        if half.before:
            return values + self._drop(change(at.norm(values)), module, site)
        return at.norm(values + self._drop(change(values), module, site))

    def _within(self, half: Half, at: Attention, values: Tensor, layout: Layout, side: int) -> Tensor:
        """Attention within one side; a decoder's tokens see those before them."""
        return self._look(at, at.query(values), at.key(values), at.value(values), layout, (side, side), half, side == 1)

    def _look(
        self,
        at: Attention,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        sides: tuple[int, int],
        half: Half | None,
        causal: bool,
    ) -> Tensor:
        """Attention in each group of rows, and what its output layer makes of it."""
        results = []
        for group in layout.groups:
            asking, looked_at = group[sides[0]], group[sides[1]]
            rows = (asking.heads(query, at.heads), looked_at.heads(key, at.heads), looked_at.heads(value, at.heads))
            bias = half.bias(asking.length, looked_at.length, 0) if half is not None and half.bias is not None else None
            results.append(asking.tokens(attend(*rows, _visible(asking, looked_at, causal), bias, at.scale)))
        back = layout.back[sides[0]]
        return at.out(results[0] if back is None else torch.cat(results).index_select(0, back))

    def _drop(self, values: Tensor, module: nn.Module, site: str) -> Tensor:
        """Dropout keyed by seed, step, row, side and place."""
        if not self.dropout or not module.training:
            return values
        keys = self.dropout_keys.of(values) ^ site_key(f"{cast(Any, module).luthier_site}.{site}")
        return values * dropout_scale(keys, values.shape[-1], self.dropout, values.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, bias: Tensor | None, scale: float) -> Tensor:
    """Softmax attention of padded rows.

    Args:
        query: # (rows, heads, asking, width)
        key: # (rows, heads, length, width)
        value: the same.
        visible: which places may be looked at; None: all, # (rows or 1, 1, asking or 1, length)
        bias: added to the scores, # (1, heads, asking, length)
        scale: of the scores.

    Returns:
        # (rows, heads, asking, width)
    """
    score = (query * scale) @ key.transpose(-1, -2)
    if bias is not None:
        score = score + bias
    if visible is not None:
        score = score.masked_fill(~visible, torch.finfo(score.dtype).min)
    return score.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


def _visible(asking: Side, looked_at: Side, causal: bool) -> Tensor | None:
    """Which places may be looked at: padding never; padding comes last, so where a token sees those before it alone no token sees any."""
    if not causal:
        return looked_at.seen
    every = torch.arange(asking.length, device=asking.source.device)
    return (every[None] <= every[:, None])[None, None]


def places_in(lengths: Tensor) -> Tensor:
    """The place of each token within its row, # (rows,) → (tokens,)"""
    starts = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum()), device=lengths.device) - starts.repeat_interleave(lengths)


def load_translator(base: Base, dropout: float) -> EncoderDecoder:
    """A network that is there: a bundle, a folder, or one of the hub.

    Raises:
        ModelError: the base does not read one text and write another.
    """
    if base.kind != "encoder-decoder":
        raise ModelError(
            f"{base.name} is no encoder–decoder: it cannot read one text and write another",
            f"leave --base out (the network is made from scratch), or take one of {', '.join(TRANSLATORS)}; {nearest(base.family, TRANSLATORS)}",
        )
    return EncoderDecoder(open_network(AutoModelForSeq2SeqLM, base.folder, attn_implementation="eager")[0], dropout)


def make_translator(vocabulary: int, layers: int, width: int, dropout: float, seed: int) -> EncoderDecoder:
    """A small Transformer that knows nothing, with one matrix for both embeddings and the output: Pegasus' classes, whose norms stand before their layers.

    With norms behind the layers, as Marian has them, the same steps taught far less: a validation loss of 5.46 where it was 4.39 (300 steps of 64 pairs).

    Its first weights are Glorot's, those of the embeddings such that a token's vector has a length of about 1.

    Source: Vaswani et al. 2017, section 3; Wu et al. 2021, "Good for Misconceived Reasons", appendix (the tiny size: 4 layers, 128 wide, 4 heads).

    Args:
        vocabulary: tokens of the tokenizer.
        layers: blocks of the encoder, and of the decoder.
        width: numbers a token; a multiple of 32.
        dropout: share of activations dropped while training.
        seed: of its first weights.
    """
    from luthier.models.translation_tokenizer import END, PAD

    torch.manual_seed(seed)
    heads = max(1, width // 32)
    marks: dict[str, Any] = {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": None, "forced_eos_token_id": None}
    config = PegasusConfig(
        vocab_size=vocabulary, d_model=width, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=2 * width, decoder_ffn_dim=2 * width, activation_function="relu",
        max_position_embeddings=LONGEST, scale_embedding=True, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        decoder_start_token_id=PAD, **marks,
    )  # fmt: skip
    config._attn_implementation = "eager"
    network = PegasusForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("shared.weight"):
                parameter.normal_(0.0, 1 / math.sqrt(width))
            elif parameter.ndim == 2 and "embed" not in name:
                nn.init.xavier_uniform_(parameter)
    return EncoderDecoder(network, dropout)
