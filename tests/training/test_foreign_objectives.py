"""An objective that is no family yet, whose examples are pairs of words, through the unchanged loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from luthier.core.types import Batch, Example, Loss, Record, Scores
from luthier.models.dropout import DropoutKeys
from luthier.objectives.objective import BaseObjective
from luthier.optim.masters import Masters
from luthier.training.steps import Work, steps
from tests.training.test_steps import close, experiment


class Cooccurrence(BaseObjective):
    """GloVe: its pass over the corpus is `prepare`; an example is a pair of words (Pennington et al. 2014, equation 8)."""

    metrics = ("loss",)

    def __init__(self) -> None:
        super().__init__(None, None, ("text",), None)

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        counts: dict[tuple[int, int], float] = {}
        self.words = sorted({word for record in records for word in record.values["text"].split()})
        number = {word: place for place, word in enumerate(self.words)}
        for record in records:
            sentence = [number[word] for word in record.values["text"].split()]
            for place, word in enumerate(sentence):
                for distance in range(1, 4):
                    if place + distance < len(sentence):
                        for pair in ((word, sentence[place + distance]), (sentence[place + distance], word)):
                            counts[pair] = counts.get(pair, 0.0) + 1 / distance
        return [Example(place, {}, (*pair, count), records[0], 1) for place, (pair, count) in enumerate(sorted(counts.items()))]

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        pairs = torch.tensor([example.target[:2] for example in examples])
        counts = torch.tensor([example.target[2] for example in examples])
        return Batch(
            torch.tensor([example.index for example in examples]),
            torch.zeros(len(examples), dtype=torch.long),
            {},
            {"pairs": pairs, "counts": counts},
        )

    def loss(self, model: Any, batch: Batch) -> Loss:
        one, other = batch.each["pairs"].t()
        gap = (
            (model.words(one) * model.contexts(other)).sum(1)
            + model.bias(one)[:, 0]
            + model.context_bias(other)[:, 0]
            - batch.each["counts"].log()
        )
        weight = (batch.each["counts"] / 10).clamp(max=1) ** 0.75
        return Loss((weight * gap**2).sum(), float(len(batch)))

    def score(self, model: Any, batch: Batch) -> Scores:
        raise NotImplementedError


class Vectors(nn.Module):
    def __init__(self, count: int, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.contexts = nn.Embedding(count, width), nn.Embedding(count, width)
        self.bias, self.context_bias = nn.Embedding(count, 1), nn.Embedding(count, 1)
        for table in (self.words, self.contexts, self.bias, self.context_bias):
            nn.init.uniform_(table.weight, -0.05, 0.05)
        self.dropout_keys = DropoutKeys()
        self.network = self
        self.blocks = nn.ModuleList()
        self.head: list[nn.Module] = []

    def parameters_of(self) -> set[str]:
        return {name for name, _ in self.named_parameters()}


def glove_work(records: Any, limit: int = 10_000) -> Work:
    objective = Cooccurrence()
    examples = objective.prepare(records)
    model = Vectors(len(objective.words))
    asked = experiment(
        "classification", "bert", optimizer__lr=3e-2, training__steps=60, training__batch_size=64, training__micro_batch_tokens=limit
    )
    masters = Masters(model, asked.optimizer, torch.float32, model.parameters_of(), lambda name: 1.0)
    return Work(asked, objective, model, masters, examples, [], 60)


def run(work: Work, count: int) -> list[float]:
    losses = []
    for step in steps(work):
        losses.append(step.loss)
        if step.number == count:
            break
    return losses


def test_micro_batches_do_not_matter(records) -> None:
    one, many = glove_work(records), glove_work(records, 40)
    run(one, 2)
    run(many, 2)
    close(one.masters.weights(), many.masters.weights(), 1e-5)


def test_glove_of_zeros_loses_the_weighted_square_of_the_log_counts(records) -> None:
    work = glove_work(records)
    with torch.no_grad():
        for parameter in work.model.parameters():
            parameter.zero_()
    batch = work.objective.collate(work.train, 0, 0)
    counts = np.array([example.target[2] for example in work.train])
    expected = (np.minimum(counts / 10, 1) ** 0.75 * np.log(counts) ** 2).sum()
    loss = work.objective.loss(work.model, batch)
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)


def test_glove_learns_the_counts(records) -> None:
    losses = run(glove_work(records), 60)
    assert losses[-1] < 0.6 * losses[0]
