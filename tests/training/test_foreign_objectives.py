"""Two very different objectives through the unchanged loop: the shape is known to hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMaskedLM

from luthier.core.randomness import mix
from luthier.core.types import Batch, Example, Loss, Record, Scores
from luthier.models.dropout import Chance
from luthier.models.pretrained import PackedNetwork, load_tokenizer
from luthier.objectives.objective import BaseObjective
from luthier.optim.masters import Masters
from luthier.training.steps import Work, steps
from tests.training.test_steps import close, experiment

MASK = 0


class MaskedWords(BaseObjective):
    """Masked language modelling: its masks are drawn in `collate`."""

    metrics = ("loss",)

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(None, tokenizer, ("text",), None)

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        encoded = self.tokenizer([record.values["text"] for record in records])["input_ids"]
        return [
            Example(number, {"tokens": tokens}, None, record, len(tokens))
            for number, (tokens, record) in enumerate(zip(encoded, records, strict=True))
        ]

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        tokens, hidden = [], []
        for example in examples:
            drawn = mix(seed, "mask", step, example.index, np.arange(len(example.tokens))) % np.uint64(100)
            hidden += [token if draw < 30 else -1 for token, draw in zip(example.tokens, drawn.tolist(), strict=True)]
            tokens += [MASK if draw < 30 else token for token, draw in zip(example.tokens, drawn.tolist(), strict=True)]
        lengths = torch.tensor([len(example.tokens) for example in examples])
        return Batch(
            torch.tensor([example.index for example in examples]),
            lengths,
            {"tokens": torch.tensor(tokens), "hidden": torch.tensor(hidden)},
            {},
        )

    def loss(self, model: Any, batch: Batch) -> Loss:
        logits = model.network.cls(model.hidden(batch)[None])[0]
        wanted = batch.flat["hidden"]
        return Loss(cross_entropy(logits, wanted, ignore_index=-1, reduction="sum"), float((wanted >= 0).sum()))

    def score(self, model: Any, batch: Batch) -> Scores:
        raise NotImplementedError


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
        self.chance = Chance()
        self.network = self
        self.blocks = nn.ModuleList()
        self.head: list[nn.Module] = []

    def parameters_of(self) -> set[str]:
        return {name for name, _ in self.named_parameters()}


def masked_work(bases: Any, records: Any, limit: int = 10_000) -> Work:
    base = bases("bert")
    torch.manual_seed(0)
    network = AutoModelForMaskedLM.from_pretrained(base.folder, attn_implementation="eager")
    model = PackedNetwork(network, 0.1)
    model.network.train()
    asked = experiment("classification", "bert", optimizer__lr=3e-3, training__steps=40, training__micro_batch_tokens=limit)
    objective = MaskedWords(load_tokenizer(base))
    masters = Masters(network, asked.optimizer, torch.float32, {name for name, _ in network.named_parameters()}, lambda name: 1.0)
    return Work(asked, objective, model, masters, objective.prepare(records), [], 40)


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


@pytest.mark.parametrize("make", [masked_work, lambda bases, records, limit=10_000: glove_work(records, limit)])
def test_micro_batches_do_not_matter(bases, records, make: Any) -> None:
    one, many = make(bases, records), make(bases, records, 40)
    run(one, 2)
    run(many, 2)
    close(one.masters.weights(), many.masters.weights(), 1e-5)


def test_a_masked_model_of_zeros_loses_the_logarithm_of_its_vocabulary(bases, records) -> None:
    work = masked_work(bases, records)
    with torch.no_grad():
        for parameter in work.model.parameters():
            parameter.zero_()
    assert next(steps(work)).loss == pytest.approx(math.log(work.model.network.config.vocab_size), rel=1e-5)


def test_masks_are_drawn_anew_each_step_and_alike_each_time(bases, records) -> None:
    work = masked_work(bases, records)
    one, again, later = (work.objective.collate(work.train[:4], 1, step).flat["hidden"] for step in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, later)


def test_a_masked_model_learns_to_fill_the_gap(bases, records) -> None:
    losses = run(masked_work(bases, records), 40)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


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
