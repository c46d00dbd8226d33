"""Where a new classification head begins: as logistic regression on what the untouched base gives it, not with random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.types import HELD_OUT, Example
from luthier.core.words import plural

if TYPE_CHECKING:
    from luthier.core.cache import Cache

MOST_NUMBERS = 1_500_000
"""Training rows times classes that the regression is fitted on, about: it takes seconds, not minutes."""


def start_as_linear_probe(
    model: Any, objective: Any, fingerprint: str, train: Sequence[Example], validation: Sequence[Example], cache: Cache
) -> None:
    """Set the last layer of a classifier's head to logistic regression on what reaches it of the training rows while nothing has moved.

    Args:
        model: with nothing trained yet, in fp32; changed in place.
        objective: collates; it knows the classes.
        fingerprint: SHA-256 of the base's weights.
        train: rows that the regression is fitted on.
        validation: rows that choose its regularisation.
        cache: keeps what was found, so that whoever goes on with the run begins with the same bits.

    Source: Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution", section 4 (linear probing, then fine-tuning).
    """
    import torch

    from luthier.models.linear_probe import last_layer

    layer = last_layer(model)
    name = f"head-{_cache_key(objective, fingerprint, model.pooling, train, validation)}"
    found = cache.get(name)
    if not found:
        cache.say(f"the head begins as logistic regression on the untouched base, fitted on {plural(len(train), 'row')}, once")
        found = _fit(model, objective, layer, train, validation, cache)
        cache.put(name, found)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(found["weight"]))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(found["bias"]))


def _fit(
    model: Any, objective: Any, layer: Any, train: Sequence[Example], validation: Sequence[Example], cache: Cache
) -> dict[str, np.ndarray]:
    """The weight and bias of the last layer, in fp32."""
    from luthier.evaluation.baselines import fit_probe
    from luthier.models.encode import map_in_batches
    from luthier.models.modes import eval_mode

    classes = len(objective.spec.labels)

    def features(examples: Sequence[Example]) -> np.ndarray:
        """What reaches the last layer, # (examples, width)"""

        def some(rows: list[int]) -> np.ndarray:
            cache.poll()
            return _inputs_of(layer, model, objective.collate([examples[row] for row in rows], 0, HELD_OUT))

        return map_in_batches([example.size for example in examples], some)

    with eval_mode(model):
        probe = fit_probe(features, train, validation, classes, max(MOST_NUMBERS // classes, classes))
    return {"weight": probe.weight.astype(np.float32), "bias": probe.bias.astype(np.float32)}


def _inputs_of(layer: Any, model: Any, batch: Any) -> np.ndarray:
    """What a layer is given while the model reads rows, # (examples, width)"""
    import torch

    seen: list[Any] = []
    hook = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        with torch.no_grad():
            model(batch.to(next(model.parameters()).device))
    finally:
        hook.remove()
    return seen[0].float().cpu().numpy().reshape(len(batch), -1)


def _cache_key(objective: Any, fingerprint: str, pooling: str, train: Sequence[Example], validation: Sequence[Example]) -> str:
    """A hash of all that decides the regression."""
    from luthier.models.frozen_cache import FrozenLayerCache

    parts = [fingerprint, pooling, *objective.spec.labels]
    for examples in (train, validation):
        parts += [FrozenLayerCache.fingerprint(examples), ",".join(str(example.target) for example in examples)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
