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
from luthier.models.halves import halves_of
from luthier.models.hidden_states import capture_hidden_states, unwrap_states
from luthier.models.linear_probe import AveragedModel, LinearProbe, average_outputs

BY_KIND = ("qwen2", "qwen3", "gemma3_text", "smollm3")
"""Decoders whose layers look up their mask by the kind of their attention."""
LOCAL = ("modernbert",)
"""Encoders some of whose layers see near tokens alone."""
LOWEST = torch.finfo(torch.float32).min


class RowGraph(nn.Module):
    """Texts to what a network gives of them: classes, labels, a number, a vector, a vector and what is rebuilt of it; or of each token, labels or what was hidden.

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
        padded = input_ids, attention_mask, token_type_ids
        if self.gives in ("classes", "labels", "number"):
            return self._scores(self.model, padded)
        states = states_of(self.model, padded)
        if self.gives == "rebuilt":
            own = self.model.network.autoencoder
            target = (normalize(pool_padded(states, attention_mask, self.model.pooling), dim=-1) - own.mean) / own.spread
            return torch.cat([own(target), target], 1)
        if self.gives == "tags":
            return self.model.label(states)
        if self.gives == "gaps":
            answer = self.model.guess(states.flatten(0, 1))
            return answer.reshape(input_ids.shape[0], input_ids.shape[1], answer.shape[-1])
        return normalize(pool_padded(states, attention_mask, self.model.pooling), dim=-1)

    def _scores(self, model: Any, padded: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
        """The scores of a classifier, of a linear probe, or of the average of both, # (rows, outputs)"""
        if isinstance(model, AveragedModel):
            both = [self._scores(each, padded).float() for each in (model.trained, model.probe)]
            return average_outputs(both, model.link) / model.temperature
        if not isinstance(model, LinearProbe):
            return model.classify(pool_padded(states_of(model, padded), padded[1], model.pooling))
        base = model.base
        poolings = ("mean", "last") if base.causal else ("mean",)
        states = [
            unwrap_states(result)
            for result in capture_hidden_states(base.blocks, depths_read(len(base.blocks)), lambda: states_of(base, padded))
        ]
        features = torch.stack([pool_padded(each, padded[1], pooling) for pooling in poolings for each in states], 1).flatten(1).double()
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
    ids, mask, segments = given
    arguments: dict[str, Any] = {"input_ids": ids}
    if segments is not None:
        arguments["token_type_ids"] = segments
    if model.causal:
        arguments |= {"position_ids": (mask.cumsum(1) - 1).clamp(min=0), "use_cache": False}
        arguments["attention_mask"] = causal_masks(model.network.config, mask, ids.shape[1])
    elif model.packs:
        arguments["attention_mask"] = encoder_masks(model.network.config, mask)
    else:
        arguments["attention_mask"] = mask
    return model.body(**arguments).last_hidden_state


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
    """One vector a row, as `models.pooling.pool` takes it of rows end to end, # (rows, length, width) → (rows, width)"""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        last = seen.cumsum(1).argmax(1)
        return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]
    weight = seen[:, :, None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1)


class ImageGraph(nn.Module):
    """Images to the scores of their classes, to a number, or to what is drawn of them.

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
        answer = self.model(Batch(rows, torch.ones_like(rows), {}, {"pixels": pixels}))
        if self.gives != "picture":
            return answer
        picture, code, log_variance = answer
        return (picture, code) if log_variance is None else (picture, code, log_variance)


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
        answer = self.network(input_ids=input_ids, attention_mask=masks, position_ids=position_ids, past_key_values=cache, use_cache=True)
        return (answer.logits.float(), *(each for layer in cache.layers for each in (layer.keys, layer.values)))  # type: ignore[union-attr]


class EncoderGraph(nn.Module):
    """The half that reads, and the keys and values of the source that the half that writes attends to: they are the same for each of its tokens.

    Args:
        model: the trainer's encoder–decoder, in fp32.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = model.network.get_encoder(), model.network.get_decoder()  # whose projections are traced
        self.crossings = crossings_of(model)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Padded sources, # (rows, length) → (rows, length, width), and by turns keys and values, # each (rows, heads, length, head width)"""
        states = self.encoder(input_ids=input_ids, attention_mask=hide_padding(attention_mask)).last_hidden_state
        projected = [project(states) for crossing in self.crossings for project in (crossing.key, crossing.value)]
        heads = self.crossings[0].heads
        return (states, *(each.view(*each.shape[:2], heads, each.shape[2] // heads).transpose(1, 2) for each in projected))


class TargetGraph(nn.Module):
    """The half that writes, with its cache and the output matrix, one or several tokens at a time.

    Args:
        model: the trainer's encoder–decoder, in fp32.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.decoder = model, model.network.get_decoder()
        model.network.set_attn_implementation("eager")

    def forward(self, decoder_input_ids: Tensor, encoder_attention_mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """New tokens behind those of the cache.

        Args:
            decoder_input_ids: # (rows, new)
            encoder_attention_mask: 1 for tokens of the source and 0 for padding, # (rows, length)
            past: of each layer the keys and values of the target, # each (rows, heads, cached, head width), then of each those of the source,
                # each (rows, heads, length, head width)

        Returns:
            The scores, # (rows, new, vocabulary), and the target's cache with the new tokens in it.
        """
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache

        half = len(past) // 2
        own, source = DynamicCache(), DynamicCache()
        for layer in range(half // 2):
            own.update(past[2 * layer], past[2 * layer + 1], layer)
            source.update(past[half + 2 * layer], past[half + 2 * layer + 1], layer)
        cache = EncoderDecoderCache(own, source)
        cache.is_updated = dict.fromkeys(range(half // 2), True)
        new, cached = decoder_input_ids.shape[1], past[0].shape[2]
        every = torch.arange(cached + new, device=decoder_input_ids.device)
        before = torch.where(every[None] > every[cached:, None], LOWEST, 0.0)[None, None]
        shape_of_source = past[half].transpose(1, 2).flatten(2)  # whose keys and values are in the cache already: only its shape is read
        states = self.decoder(
            input_ids=decoder_input_ids, attention_mask=before, encoder_hidden_states=shape_of_source,
            encoder_attention_mask=hide_padding(encoder_attention_mask), past_key_values=cache, use_cache=True,
        ).last_hidden_state  # fmt: skip
        weight, bias = self.model.output()
        scores = self.model.scale(states) @ weight.t()
        scores = scores if bias is None else scores + bias
        return (scores, *(each for layer in own.layers for each in (layer.keys, layer.values)))  # type: ignore[union-attr]


def crossings_of(model: Any) -> list[Any]:
    """The attention of each decoder block to the source.

    Args:
        model: the trainer's encoder–decoder.
    """
    return [block.crossing for block in halves_of(model.network)[1].blocks]
