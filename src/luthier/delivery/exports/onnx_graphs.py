"""What an ONNX file computes, as modules that are traced: transformers' own forward pass on padded rows, and around it what the trainer adds.

Masks are made here, of four dimensions, so that none is made by code which looks at the values of its inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from luthier.core.types import Batch
from luthier.models.encode import depths_read
from luthier.models.hidden_states import capture_hidden_states, unwrap_states
from luthier.models.linear_probe import AveragedModel, LinearProbe

BY_KIND = ("qwen2", "qwen3", "gemma3_text", "smollm3")
"""Decoders whose layers look up their mask by the kind of their attention."""
LOCAL = ("modernbert",)
"""Encoders some of whose layers see near tokens alone."""
LOWEST = torch.finfo(torch.float32).min


class RowGraph(nn.Module):
    """Texts to what a network gives of them: classes, labels, a number, a vector; or of each token, labels or what was hidden.

    Args:
        model: the trainer's, in fp32; its attention is transformers' plain one from now on.
        gives: as `Family.gives`.
    """

    def __init__(self, model: Any, gives: str) -> None:
        super().__init__()
        self.model, self.gives = model, gives
        for network in networks_of(model):
            network.set_attn_implementation("eager")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Padded rows, # (rows, length) → (rows, outputs), or (rows, length, outputs)"""
        given = input_ids, attention_mask, token_type_ids
        if self.gives in ("classes", "labels", "number"):
            return self._scores(self.model, given)
        states = states_of(self.model, given)
        if self.gives == "tags":
            return self.model.label(states)
        if self.gives == "gaps":
            said = self.model.guess(states.flatten(0, 1))
            return said.reshape(input_ids.shape[0], input_ids.shape[1], said.shape[-1])
        return normalize(pool_padded(states, attention_mask, self.model.pooling), dim=-1)

    def _scores(self, model: Any, given: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
        """The scores of a classifier, of a linear probe, or of the average of both, # (rows, outputs)"""
        if isinstance(model, AveragedModel):
            both = torch.stack([self._scores(each, given).float().log_softmax(-1) for each in (model.trained, model.probe)])
            return (both.logsumexp(0) - torch.log(torch.tensor(2.0))) / model.temperature
        if not isinstance(model, LinearProbe):
            return model.classify(pool_padded(states_of(model, given), given[1], model.pooling))
        base = model.base
        poolings = ("mean", "last") if base.causal else ("mean",)
        states = [
            unwrap_states(told)
            for told in capture_hidden_states(base.blocks, depths_read(len(base.blocks)), lambda: states_of(base, given))
        ]
        features = torch.stack([pool_padded(each, given[1], pooling) for pooling in poolings for each in states], 1).flatten(1).double()
        return ((features @ model.get_buffer("weight").T + model.get_buffer("bias")) / model.temperature).float()


def networks_of(model: Any) -> list[Any]:
    """The networks of transformers in a model that packs rows."""
    if isinstance(model, AveragedModel):
        return [*networks_of(model.trained), *networks_of(model.probe)]
    packed = model.base if isinstance(model, LinearProbe) else model
    return [packed.network] if packed.packs else []


def states_of(model: Any, given: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
    """The last hidden states of padded rows, # (rows, length, width)

    Args:
        model: a `PackedNetwork`.
        given: token ids, 1 for tokens and 0 for padding, and which of two texts each token is of, # each (rows, length)
    """
    ids, seen, segments = given
    named: dict[str, Any] = {"input_ids": ids}
    if segments is not None:
        named["token_type_ids"] = segments
    if model.causal:
        named |= {"position_ids": (seen.cumsum(1) - 1).clamp(min=0), "use_cache": False}
        named["attention_mask"] = causal_masks(model.network.config, seen, ids.shape[1])
    elif model.packs:
        named["attention_mask"] = encoder_masks(model.network.config, seen)
    else:
        named["attention_mask"] = seen
    return model.body(**named).last_hidden_state


def hide_padding(seen: Tensor) -> Tensor:
    """A mask that is added to the scores, # (rows, length) → (rows, 1, 1, length)"""
    return (1.0 - seen[:, None, None, :].float()) * LOWEST


def encoder_masks(config: Any, seen: Tensor) -> Any:
    """A mask by which a token sees all others, and where some layers see those near alone also theirs; these by name.

    Args:
        config: of the network.
        seen: 1 for tokens and 0 for padding, # (rows, all)

    Returns:
        # (rows, 1, 1, all), and that of near ones (rows, 1, all, all)
    """
    full = hide_padding(seen)
    if config.model_type not in LOCAL:
        return full
    every = torch.arange(seen.shape[1], device=seen.device)
    far = (every[:, None] - every).abs() > config.sliding_window
    return {"full_attention": full, "sliding_attention": torch.where(far[None, None] | (seen[:, None, None, :] == 0), LOWEST, 0.0)}


def causal_masks(config: Any, seen: Tensor, asking: int | Tensor) -> Any:
    """Masks by which a token sees those before it, and within the window where the network has one; by kind of layer where it asks so.

    Args:
        config: of the network.
        seen: 1 for tokens and 0 for padding, those of the cache included, # (rows, all)
        asking: how many of them are new: the last ones.

    Returns:
        # (rows, 1, asking, all), or these by name
    """
    every = torch.arange(seen.shape[1], device=seen.device)
    queries = every[seen.shape[1] - asking :, None]
    hidden = (every[None] > queries)[None, None] | (seen[:, None, None, :] == 0)
    window = getattr(config, "sliding_window", None)
    near = hidden if window is None else hidden | (every[None] <= queries - window)[None, None]
    full, sliding = (torch.where(each, LOWEST, 0.0) for each in (hidden, near))
    if config.model_type in BY_KIND:
        return {"full_attention": full, "sliding_attention": sliding}
    return full if window is None else sliding


def pool_padded(states: Tensor, seen: Tensor, pooling: str) -> Tensor:
    """One vector a row, as `models.pretrained.pool` takes it of rows end to end, # (rows, length, width) → (rows, width)"""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        last = seen.cumsum(1).argmax(1)
        return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]
    weight = seen[:, :, None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1)


class ImageGraph(nn.Module):
    """Images to the scores of their classes, or to what is drawn of them.

    Args:
        model: the trainer's, in fp32.
        gives: as `Family.gives`.
    """

    def __init__(self, model: Any, gives: str) -> None:
        super().__init__()
        self.model, self.gives = model, gives

    def forward(self, pixels: Tensor) -> Any:
        """Pixels from 0 to 255, # (images, channels, side, side)"""
        rows = torch.arange(pixels.shape[0])
        said = self.model(Batch(rows, torch.ones_like(rows), {}, {"pixels": pixels}))
        if self.gives == "classes":
            return said
        drawn, code, log_variance = said
        return (drawn, code) if log_variance is None else (drawn, code, log_variance)


class DecoderGraph(nn.Module):
    """A decoder with its cache, one or several tokens at a time.

    Args:
        model: the trainer's, in fp32.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.network = model, model.network
        self.network.set_attn_implementation("eager")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """New tokens behind those of the cache.

        Args:
            input_ids: # (rows, new)
            attention_mask: 1 for tokens and 0 for padding, the cache's included, # (rows, all)
            position_ids: # (rows, new)
            past: keys and values of each layer, by turns, # each (rows, heads, cached, width)

        Returns:
            The scores, # (rows, new, vocabulary), and the cache with the new tokens in it.
        """
        from transformers.cache_utils import DynamicCache

        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        masks = causal_masks(self.network.config, attention_mask, input_ids.shape[1])
        said = self.network(input_ids=input_ids, attention_mask=masks, position_ids=position_ids, past_key_values=cache, use_cache=True)
        return (said.logits.float(), *(each for layer in cache.layers for each in (layer.keys, layer.values)))  # type: ignore[union-attr]


class EncoderGraph(nn.Module):
    """The half that reads.

    Args:
        model: the trainer's encoder–decoder, in fp32.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.network.get_encoder()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Padded sources, # (rows, length) → (rows, length, width)"""
        return self.encoder(input_ids=input_ids, attention_mask=hide_padding(attention_mask)).last_hidden_state


class TargetGraph(nn.Module):
    """The half that writes, with the output matrix.

    Args:
        model: the trainer's encoder–decoder, in fp32.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.decoder = model, model.network.get_decoder()

    def forward(self, decoder_input_ids: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor) -> Tensor:
        """What is written so far, # (rows, written) → (rows, written, vocabulary)"""
        length = decoder_input_ids.shape[1]
        every = torch.arange(length, device=decoder_input_ids.device)
        before = torch.where(every[None] > every[:, None], LOWEST, 0.0)[None, None]
        states = self.decoder(
            input_ids=decoder_input_ids, attention_mask=before, encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=hide_padding(encoder_attention_mask), use_cache=False,
        ).last_hidden_state  # fmt: skip
        weight, bias = self.model.output()
        scores = self.model.scaled(states) @ weight.t()
        return scores if bias is None else scores + bias
