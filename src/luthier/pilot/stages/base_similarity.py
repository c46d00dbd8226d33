"""Compare bases on the rows before training: probes for classes, bits per byte for answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from luthier.core.errors import ExperimentError
from luthier.core.interfaces import Reporter
from luthier.core.randomness import permutation
from luthier.core.run import Clock
from luthier.core.types import Example, Record
from luthier.core.words import plural
from luthier.data.dataset import Dataset
from luthier.data.split import folds
from luthier.evaluation.score import score
from luthier.families import family_of
from luthier.models.base import Base
from luthier.models.encode import layer_vectors
from luthier.models.precision import round_weights_to
from luthier.models.pretrained import load_generator, load_tokenizer
from luthier.objectives.objective import fit_length
from luthier.studies.similarity import (
    FOLDS,
    MOST_ROWS,
    PLAIN,
    BitsPerByte,
    Depth,
    LayerProbe,
    Nearness,
    best_base_probability,
    best_generator_probability,
    depth,
    depth_for,
    domain_shift,
    nearness,
    probe_layers,
)
from luthier.training.devices import choose_dtype

TIE = 0.2
"""A base whose chance to be the best is this great is as good as the best as far as frozen states can tell: the largest of them is proposed, because more of it can move (docs/log/2026-11.md#bases-and-depths-against-training)."""
MOST_BYTES = 30_000
"""Of conversations, that are read: a generator takes its time."""


@dataclass(frozen=True)
class BaseSimilarity:
    """What a base knows of a task.

    Args:
        base: its name.
        megabytes: of its weights.
        floors: what each floor tells of the classes; empty for text.
        fluency: how well it foresees the answers; None for classes.
        near: whether the task is a close cousin or a far turn.
        depth: how many blocks may stay frozen.
        learning_rate: to start from, with so many blocks frozen.
        seconds: it took.
        rows: that were read.
        chance: of being the best of those looked at.
    """

    base: str
    megabytes: float
    floors: list[LayerProbe]
    fluency: BitsPerByte | None
    near: Nearness
    depth: Depth
    learning_rate: float
    seconds: float
    rows: int
    chance: float = 1.0

    @property
    def best(self) -> LayerProbe | None:
        """The floor whose probe is right most often."""
        return max(self.floors, key=lambda floor: floor.probe, default=None)

    def value(self) -> dict:
        """As JSON can hold it."""
        fields = {name: value for name, value in vars(self).items() if name not in ("floors", "fluency", "near", "depth")}
        return {
            **fields,
            "near": vars(self.near),
            "depth": vars(self.depth),
            "floors": [{name: value for name, value in vars(floor).items() if name != "right"} for floor in self.floors],
            "fluency": self.fluency and {name: value for name, value in vars(self.fluency).items() if name != "rows"},
        }


def compare_base(base: Base, dataset: Dataset, reporter: Reporter, most: int = MOST_ROWS) -> BaseSimilarity:
    """What one base knows of the rows; the sealed ones are not looked at.

    Args:
        base: from the store.
        dataset: the rows.
        reporter: shows progress.
        most: rows that are read.
    """
    clock = Clock()
    unsealed = [*dataset.records["train"], *dataset.records["validation"]]
    chosen = sorted(permutation(len(unsealed), dataset.spec.split_seed, "similar")[:most].tolist())
    records = [unsealed[index] for index in chosen]
    reporter.stage("similarity", f"{base.name}: one pass over {plural(len(records), 'row')}")
    size = round((base.folder / "model.safetensors").stat().st_size / 1e6, 1)
    family = family_of(dataset.spec.task)
    if family.converses:
        fluency, count = _fluency(base, records, dataset)
        near = domain_shift(fluency)
        proposed = depth_for(near, count)
        lr, _ = family.learning_rate(base, "freeze" if proposed.blocks else "full")
        return BaseSimilarity(base.name, size, [], fluency, near, proposed, lr, round(clock(), 2), len(fluency.rows))
    texts = [record.text(dataset.spec.input) for record in records]
    indices = {label: index for index, label in enumerate(sorted({str(record.values[dataset.spec.target or ""]) for record in records}))}
    labels = np.array([indices[str(record.values[dataset.spec.target or ""])] for record in records])
    parts = folds([dataset.together[record.source, record.row] for record in records], labels.tolist(), FOLDS, dataset.spec.split_seed)
    layers = probe_layers(layer_vectors(base, texts, choose_dtype("auto")), labels, parts)
    rows, blocks_kept = len(dataset.records["train"]), family.depth_kept(base)
    rarest = round(rows * float(np.bincount(labels).min() / len(labels)))
    near, proposed = nearness(layers, labels), depth(layers, rows, rarest, blocks_kept)
    lr, _ = family.learning_rate(base, "freeze" if proposed.blocks else "full")
    return BaseSimilarity(
        base.name, size, layers, None, near, proposed, float(f"{lr * near.learning_rate_factor:.2g}"), round(clock(), 2), len(records)
    )


def rank_bases(found: Sequence[BaseSimilarity]) -> list[BaseSimilarity]:
    """The bases with their chances to be the best, the proposed one first: the largest of those that may well be."""
    if all(entry.fluency for entry in found):
        shares = best_generator_probability([entry.fluency.rows for entry in found if entry.fluency])
    else:
        shares = best_base_probability([entry.best.right for entry in found if entry.best])
    ranking = [replace(entry, chance=share) for entry, share in zip(found, shares, strict=True)]
    most = max(entry.chance for entry in ranking)
    return sorted(ranking, key=lambda entry: (entry.chance < min(TIE, most), -entry.megabytes if entry.chance >= TIE else -entry.chance))


def _fluency(base: Base, records: Sequence[Record], dataset: Dataset) -> tuple[BitsPerByte, int]:
    """How well a generator foresees the answers, and whole conversations as plain text; and how many blocks it has."""
    if base.kind == "encoder":
        raise ExperimentError(f"{base.name} is an encoder: it cannot write answers", "choose a generator: --bases smollm2-135m")
    tokenizer = load_tokenizer(base)
    model = round_weights_to(load_generator(base, 0.0).eval(), getattr(torch, choose_dtype("auto")))
    spec = dataset.spec
    hyperparameters: Any = fit_length(family_of(spec.task).spec_class(), base.positions)
    objective = hyperparameters.open(tokenizer, spec.input, spec.target or "")
    examples: list[Example] = []
    texts: list[str] = []
    for record in records:
        (example,) = objective.prepare([record])
        text = "\n".join(str(message["content"]) for message in example.facts["messages"])
        if example.facts["bytes"] and example.units:
            examples.append(example)
            texts.append(text)
        if sum(len(text.encode()) for text in texts) > MOST_BYTES:
            break
    if not examples:
        raise ExperimentError("no row has an answer that could be foreseen", "give rows with answers")

    def bits(rows: Sequence[Example]) -> np.ndarray:
        scores = score(model, objective, rows)
        return np.stack([scores.loss / math.log(2), np.array([row.facts["bytes"] for row in rows])], 1)

    def plainly(passages: Sequence[str]) -> tuple[float, float]:
        """Bits a byte, and tokens a word, of texts without a template."""
        rows = []
        for index, text in enumerate(passages):
            tokens = tokenizer(text, truncation=True, max_length=hyperparameters.max_length)["input_ids"]
            if len(tokens) > 1:
                size = len(tokenizer.decode(tokens[1:]).encode())
                rows.append(
                    Example(
                        index, {"tokens": tokens}, [True] * len(tokens), records[0], len(tokens), float(len(tokens)), facts={"bytes": size}
                    )
                )
        row_bits = bits(rows)
        words = sum(len(text.split()) for text in passages)
        return float(row_bits[:, 0].sum() / row_bits[:, 1].sum()), sum(len(tokenizer(text)["input_ids"]) for text in passages) / max(
            words, 1
        )

    answers = bits(examples)
    whole, pieces = plainly(texts)
    plain, plain_pieces = plainly([PLAIN])
    result = BitsPerByte(float(answers[:, 0].sum() / answers[:, 1].sum()), whole, plain, pieces, plain_pieces, answers)
    return result, len(model.blocks)
