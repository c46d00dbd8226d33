"""A small convolutional network with batch norm, and drawn images to feed it: what has state beside its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from luthier.core.randomness import mix
from luthier.core.types import Batch, Example, Loss, Record, Scores
from luthier.models.dropout import attach
from luthier.objectives.objective import BaseObjective
from luthier.optim.masters import Masters
from luthier.training.steps import Work
from tests.training.test_steps import experiment

SIZE = 6
WIDTH = 4


class Network(nn.Module):
    """A stem with a batch norm outside of the blocks, three blocks, a linear head."""

    def __init__(self, dropout: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.plain = nn.BatchNorm2d(WIDTH, affine=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU(), dropout(0.3)) for _ in range(3)
        )
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.plain(self.stem(images))
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden.mean((2, 3)))


class Model(nn.Module):
    """What the loop and the adaptations ask of a model."""

    packs = False
    frozen_cache = None

    def __init__(self, dropout: float = 0.0, layer: type[nn.Module] = nn.Dropout) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = Network(layer)
        self.dropout_keys = attach(self.network, dropout)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.network.blocks

    @property
    def head(self) -> list[nn.Module]:
        return [self.network.head]


class Images(BaseObjective):
    """Which half of an image is the brighter one."""

    metrics = ("loss",)

    def __init__(self, splits: bool = False) -> None:
        super().__init__(None, None, ("pixels",), "label")
        self.splits = splits

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        return [Example(number, {}, record.values["label"], record, 1) for number, record in enumerate(records)]

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        pixels = torch.stack([torch.from_numpy(example.record.values["pixels"]) for example in examples])
        count = len(examples)
        each = {"pixels": pixels, "label": torch.tensor([example.target for example in examples])}
        return Batch(
            torch.tensor([example.index for example in examples]), torch.ones(count, dtype=torch.long), {"tokens": torch.zeros(count)}, each
        )

    def _losses(self, model: Any, batch: Batch) -> Tensor:
        pixels = batch.each["pixels"].to(next(model.parameters()).dtype)
        return cross_entropy(model.network(pixels).float(), batch.each["label"], reduction="none")

    def loss(self, model: Any, batch: Batch) -> Loss:
        return Loss(self._losses(model, batch).sum(), float(len(batch)))

    def score(self, model: Any, batch: Batch) -> Scores:
        with torch.no_grad():
            losses = self._losses(model, batch).double().numpy()
        return Scores(losses, np.ones(len(losses)))


def images(count: int, wrong: bool = False) -> list[Record]:
    """Drawn images; with the other label where `wrong`."""
    made = []
    for number in range(count):
        pixels = (mix("pixel", number, np.arange(SIZE * SIZE)) % np.uint64(1000)).astype(np.float32).reshape(1, SIZE, SIZE) / 500 - 1
        label = number % 2
        pixels[:, :, SIZE // 2 :] += 1.5 * label
        made.append(Record(number + 1, {"pixels": pixels, "label": 1 - label if wrong else label}))
    return made


def conv_work(splits: bool = False, dropout: float = 0.3, wrong: bool = False, model: Model | None = None, **changes: Any) -> Work:
    """A work over 24 images; each micro-batch has at most `training.micro_batch_tokens` of them where the objective splits."""
    settings: dict[str, Any] = {
        "training__steps": 12,
        "training__evaluations_per_epoch": 1.5,
        "training__checkpoint_seconds": 0.0,
        "optimizer__lr": 3e-2,
    }
    asked = experiment("classification", "bert", **(settings | changes))
    objective = Images(splits)
    model = model or Model(dropout)
    adaptation: Any = asked.adaptation
    adaptation.attach(model)
    adaptation.on_progress(model, 1.0)
    movable = {name for name, parameter in model.network.named_parameters() if parameter.requires_grad}
    adaptation.on_progress(model, 0.0)
    masters = Masters(model.network, asked.optimizer, getattr(torch, asked.training.dtype), movable, lambda name: 1.0)
    train, validation = objective.prepare(images(24)), objective.prepare(images(16, wrong))
    return Work(asked, objective, model, masters, train, validation, asked.training.steps or 0)


def state_of(work: Work) -> dict[str, Tensor]:
    """All that the network's state dict holds, copied."""
    return {name: tensor.clone() for name, tensor in work.model.network.state_dict().items()}


def is_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Whether two states are equal to the bit."""
    return set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)
