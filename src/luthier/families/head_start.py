"""Where a new head begins: as a linear model of what the untouched base gives it, not with random numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.types import Example
from luthier.core.words import plural
from luthier.evaluation.baselines import MOST_ERROR, fit_probe
from luthier.evaluation.linear_heads import MOST_NUMBERS, Linear, LinearFit, fit_objective

if TYPE_CHECKING:
    from luthier.core.cache import Cache

Features = Callable[[Sequence[Example]], np.ndarray]
"""Rows → what reaches the last layer, # (examples, width)"""
HeadFit = Callable[[Features, Any, Sequence[Example], Sequence[Example], int, Callable[[], None]], Linear]
"""Features, objective, training rows, validation rows, rows to fit on at most, and what is called between fits → a linear model."""


def start_as_linear_probe(
    model: Any, objective: Any, fingerprint: str, train: Sequence[Example], validation: Sequence[Example], cache: Cache, fit: HeadFit
) -> None:
    """Set the last layer of a head to a linear model of what reaches it of the training rows while nothing has moved.

    Args:
        model: with nothing trained yet, in fp32; changed in place.
        objective: collates; it knows what is learned.
        fingerprint: SHA-256 of the base's weights.
        train: rows that the regression is fitted on.
        validation: rows that choose its regularisation.
        cache: keeps what was found, so that whoever goes on with the run begins with the same bits.
        fit: the linear model.

    Source: Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution", section 4 (linear probing, then fine-tuning).
    """
    import torch

    from luthier.models.linear_probe import last_layer

    layer = last_layer(model)
    name = f"head-{_cache_key(objective, fingerprint, model.pooling, train, validation)}"
    found = cache.get(name)
    if not found:
        cache.say(f"the head begins as a linear model of what the untouched base says, fitted on {plural(len(train), 'row')}, once")
        found = _fit(model, objective, layer, train, validation, cache, fit)
        cache.put(name, found)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(found["weight"]))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(found["bias"]))


def _fit(
    model: Any, objective: Any, layer: Any, train: Sequence[Example], validation: Sequence[Example], cache: Cache, fit: HeadFit
) -> dict[str, np.ndarray]:
    """The weight and bias of the last layer, in fp32."""
    from luthier.models.encode import map_examples
    from luthier.models.modes import eval_mode

    def features(examples: Sequence[Example]) -> np.ndarray:
        """What reaches the last layer, # (examples, width)"""
        return map_examples(model, objective, examples, lambda batch: _inputs_of(layer, model, batch), cache.poll)

    with eval_mode(model):
        weight, bias = fit(features, objective, train, validation, max(MOST_NUMBERS // layer.out_features, layer.out_features), cache.poll)
    return {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}


def fit_classes(
    features: Features, objective: Any, train: Sequence[Example], validation: Sequence[Example], most_rows: int, poll: Callable[[], None]
) -> Linear:
    """Logistic regression over the classes.

    Args:
        features: rows → what reaches the last layer, # (examples, width)
        objective: knows the classes.
        train: rows to fit on; of more than `most_rows` a part.
        validation: rows that choose the regularisation.
        most_rows: training rows to fit on, about, and one of each class at least.
        poll: called between fits; it may raise to stop.
    """
    probe = fit_probe(features, train, validation, len(objective.spec.labels), most_rows, MOST_ERROR)
    return probe.weight, probe.bias


def fit_targets(one: LinearFit) -> HeadFit:
    """A fit of what the objective's loss compares outputs with: several labels, or a number.

    Args:
        one: features and targets of the training rows and of the validation rows, and what is called between fits → weight and bias.
    """

    def fit(
        features: Features,
        objective: Any,
        train: Sequence[Example],
        validation: Sequence[Example],
        most_rows: int,
        poll: Callable[[], None],
    ) -> Linear:
        return fit_objective(one, features, objective, train, validation, most_rows, poll, MOST_ERROR)[0]

    return fit


def _inputs_of(layer: Any, model: Any, batch: Any) -> np.ndarray:
    """What a layer is given while the model reads rows, # (examples, width)"""
    import torch

    seen: list[Any] = []
    hook = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        with torch.no_grad():
            model(batch)
    finally:
        hook.remove()
    return seen[0].float().cpu().numpy().reshape(len(batch), -1)


def _cache_key(objective: Any, fingerprint: str, pooling: str, train: Sequence[Example], validation: Sequence[Example]) -> str:
    """A hash of all that decides the linear model."""
    from luthier.models.frozen_cache import FrozenLayerCache

    known = objective.spec.model_dump(mode="json", include={"kind", "labels", "mean", "spread"})
    parts = [fingerprint, pooling, json.dumps(known, sort_keys=True)]
    for examples in (train, validation):
        parts += [FrozenLayerCache.fingerprint(examples), ",".join(str(example.target) for example in examples)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
