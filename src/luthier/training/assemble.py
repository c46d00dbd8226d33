"""Assemble what a training run needs: objective, model, adaptation, optimizer, rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch

from luthier.core.cache import Cache
from luthier.core.errors import ExperimentError
from luthier.core.interfaces import Adaptation, Objective, TrainableModel
from luthier.core.types import Example, Record
from luthier.core.words import with_article
from luthier.data.lazy_examples import Joined
from luthier.evaluation.metric_choice import AUTO, metrics_at_evaluations
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.models.base import Base
from luthier.models.frozen_cache import MOST, FrozenLayerCache
from luthier.models.trainable import TrainableNetwork
from luthier.optim.masters import Masters
from luthier.training.devices import device
from luthier.training.steps import Work


def load_model(experiment: Experiment, base: Base | None) -> TrainableNetwork:
    """The experiment's network, in fp32, on the device."""
    spec: Any = experiment.objective
    model = cast(TrainableNetwork, family_of(spec.kind).load(spec, experiment.model, base, experiment.seed))  # any family's: see the type
    return model.to(device())


def open_objective(experiment: Experiment, processor: Any) -> Any:
    """The experiment's objective, at work with this tokenizer."""
    spec: Any = experiment.objective
    family = family_of(spec.kind)
    objective = spec.open(processor, experiment.data.input, experiment.data.target)
    first = experiment.training.metric
    if first not in (AUTO, objective.metrics[0]):
        objective.metrics = metrics_at_evaluations(first, objective.metrics, family)
    if experiment.augment.share:
        if not objective.varies:
            raise ExperimentError(
                f"augment changes texts or images that have a class or a number: {with_article(family.name)} model would learn broken answers",
                "leave augment.share at 0",
            )
        objective.augment = experiment.augment
    return objective


def assemble(experiment: Experiment, base: Base | None, processor: Any, parts: Mapping[str, Sequence[Record]]) -> Work:
    """Build everything that a run needs, from the rows on.

    Args:
        experiment: resolved: task, columns and dtype are set.
        base: from the store; None where the network is made from scratch.
        processor: the base's tokenizer.
        parts: the records of train and validation.
    """
    objective = open_objective(experiment, processor)
    return build(experiment, base, objective, objective.prepare(parts["train"]), objective.prepare(parts["validation"]))


FrozenLayerCaches = dict[tuple[Any, ...], FrozenLayerCache]
"""What was computed of frozen blocks, by depth, width of numbers and rows: trials on the same base share it."""


def build(
    experiment: Experiment,
    base: Base | None,
    objective: Objective,
    train: Sequence[Example],
    validation: Sequence[Example],
    frozen_caches: FrozenLayerCaches | None = None,
    cache: Cache | None = None,
) -> Work:
    """Build everything that a run needs, for examples that are prepared.

    Args:
        experiment: resolved: task, columns and dtype are set.
        base: from the store; None where the network is made from scratch.
        objective: knows what a batch means.
        train: the examples that are learned from.
        validation: the examples that choose the checkpoint.
        frozen_caches: frozen-layer caches that earlier works on the same base have filled; it grows.
        cache: what the objective has to compute of the untouched model once; None keeps it for this work alone.
    """
    adaptation: Any = experiment.adaptation
    optimizer: Any = experiment.optimizer
    objective.fit(train)
    if experiment.training.sampling == "balanced" and any(example.stratum is None for example in train):
        raise ExperimentError("training.sampling=balanced needs classes, and these rows have none", "leave it at each")
    model, cache = load_model(experiment, base), cache or Cache()
    spec: Any = experiment.objective
    family = family_of(spec.kind)
    if not family.trains_base and adaptation.frozen_blocks(model, 1.0) < len(model.blocks):
        raise ExperimentError(
            f"adaptation.kind={adaptation.kind} moves the base, and {with_article(family.name)} model learns what a base says that stays as it is",
            "leave adaptation.kind at freeze, and adaptation.depth out",
        )
    family.start_head(model, objective, base.fingerprint if base is not None else "", train, validation, cache)
    adaptation.attach(model)
    adaptation.on_progress(model, 1.0)  # by the end everything that may ever move is free
    movable = {name for name, parameter in model.network.named_parameters() if parameter.requires_grad}
    adaptation.on_progress(model, 0.0)
    factor = lr_multipliers(model, optimizer, adaptation)
    dtype = getattr(torch, experiment.training.dtype)
    load_kernels = getattr(model, "load_kernels", None)  # of networks that have compiled ones
    kernels = load_kernels() if load_kernels is not None and experiment.training.kernels == "compiled" else None
    sparse = {} if experiment.augment.share else sparse_tokens(model, train, objective)
    masters = Masters(model.network, optimizer, dtype, movable, factor, sparse, kernels)
    model.frozen_cache = make_frozen_cache(
        experiment, model, Joined(train, validation), dtype, {} if frozen_caches is None else frozen_caches
    )
    objective.begin(model, Joined(train, validation), cache)
    planned, total = experiment.planned_steps(len(train)), experiment.total_steps(len(train))
    return Work(experiment, objective, model, masters, train, validation, total, planned=planned, micro_batches=model.micro_batches)


def make_frozen_cache(
    experiment: Experiment, model: TrainableModel, examples: Sequence[Example], dtype: torch.dtype, known: FrozenLayerCaches
) -> FrozenLayerCache | None:
    """Where blocks stay frozen to the end, what keeps their output; None where none do, rows change in each step or are padded, or it would be too much to keep."""
    adaptation: Any = experiment.adaptation
    depth = adaptation.frozen_blocks(model, 1.0)
    if not depth or not model.packs or experiment.augment.share:
        return None
    network: Any = model.network  # of transformers, which has no type
    width = network.config.hidden_size
    if FrozenLayerCache.bytes(examples, width, dtype) > MOST:
        return None
    key = (depth, dtype, experiment.model.base, FrozenLayerCache.fingerprint(examples))
    if key not in known:
        known[key] = FrozenLayerCache(depth, examples, width, dtype)
    return known[key]


def sparse_tokens(model: TrainableModel, examples: Sequence[Example], objective: Objective) -> dict[str, torch.Tensor]:
    """The tokens that training will meet, in the examples or drawn in `collate`, by the name of the embedding; none where rows are no tokens, or where the same weights also say what comes next, for that moves all of them.

    The embedding's gradient becomes sparse.
    """
    network: Any = model.network
    if not model.packs and (not hasattr(network, "get_input_embeddings") or "tokens" not in examples[0].inputs):
        return {}  # every network of transformers has the method; one that reads no tokens refuses it
    embedding = network.get_input_embeddings()
    head = network.get_output_embeddings()
    if head is not None and head.weight is embedding.weight:
        embedding.sparse = not embedding.weight.is_cuda  # added to the head's: no second table, most of it zeros
        return {}
    embedding.sparse = True
    (name,) = (name for name, parameter in network.named_parameters() if parameter is embedding.weight)
    seen = np.zeros(len(embedding.weight), dtype=bool)  # one example at a time: together they may be more than memory holds
    if objective.drawn_tokens is not None:
        seen[np.asarray(objective.drawn_tokens)] = True
    for example in examples:
        seen[np.asarray(example.tokens)] = True
    return {name: torch.from_numpy(np.flatnonzero(seen)).to(embedding.weight.device)}


def lr_multipliers(model: TrainableModel, optimizer: Any, adaptation: Adaptation) -> Callable[[str], float]:
    """Return a function from a parameter's name to its multiple of the learning rate: the head may have its own, lower blocks may learn more slowly."""
    names = {id(parameter): name for name, parameter in model.network.named_parameters()}
    heads = {names[id(parameter)] for module in getattr(model, "head", []) for parameter in module.parameters()}
    blocks = list(model.blocks)
    height = {names[id(parameter)]: index for index, block in enumerate(blocks) for parameter in block.parameters()}

    def factor(name: str) -> float:
        if name in heads:
            return (optimizer.head_lr or optimizer.lr) / optimizer.lr
        below = len(blocks) - 1 - height[name] if name in height else (len(blocks) if "embed" in name else 0)
        return adaptation.layer_decay**below

    return factor
