"""The loop: a generator of optimizer steps. Whoever wants control iterates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from luthier.core.interfaces import Objective
from luthier.core.types import Batch, Example, Step
from luthier.data.batches import choose, steps_in_epoch
from luthier.experiment import Experiment
from luthier.optim.masters import Masters
from luthier.optim.schedules import share_done


@dataclass
class Work:
    """Everything a step needs, built.

    Args:
        experiment: what was asked for.
        objective: knows what a batch means.
        model: an `nn.Module` whose dropout is keyed by its `chance`.
        masters: the precise weights and their optimizer.
        train: the examples that are learned from.
        validation: the examples that choose the checkpoint.
        total: optimizer steps of the whole run.
    """

    experiment: Experiment
    objective: Objective
    model: Any
    masters: Masters
    train: list[Example]
    validation: list[Example]
    total: int
    _classes: tuple[int, ...] | None = field(default=None, init=False)

    def chosen(self, step: int) -> list[Example]:
        """The training examples that make a step (counted from 0), as prepared."""
        training = self.experiment.training
        if training.sampling == "balanced" and self._classes is None:
            self._classes = tuple(example.target for example in self.train)
        return [
            self.train[position] for position in choose(step, len(self.train), training.batch_size, self.experiment.seed, self._classes)
        ]

    def view(self, rows: list[Example], step: int) -> list[Example]:
        """The rows as they are learned from in this step: some of them changed, where `augment` asks for it."""
        augment, seed, columns = self.experiment.augment, self.experiment.seed, self.experiment.data.input
        if not augment.share:
            return rows
        found = []
        for row in rows:
            if augment.changes(seed, step, row.index):
                values = {name: augment.view(str(row.record.values.get(name) or ""), seed, step, row.index) for name in columns}
                (changed,) = self.objective.prepare([replace(row.record, values={**row.record.values, **values})])
                row = replace(changed, index=row.index)
            found.append(row)
        return found


def steps(work: Work, start: int = 0) -> Iterator[Step]:
    """Take optimizer steps, one each time the generator is asked.

    The examples of a step are chosen and collated once, then split into micro-batches; their summed gradients are
    divided once by what the whole step learned from, so the split changes nothing.

    Args:
        work: the parts.
        start: steps that are already done.
    """
    experiment, objective, model, masters = work.experiment, work.objective, work.model, work.masters
    training = experiment.training
    schedule: Any = experiment.schedule
    adaptation: Any = experiment.adaptation
    place = next(model.parameters()).device
    in_epoch = steps_in_epoch(len(work.train), training.batch_size)
    for number in range(start, work.total):
        share = share_done(number, work.total)
        adaptation.on_progress(model, share)
        rows = work.view(work.chosen(number), number)
        batch = moved(objective.collate(rows, experiment.seed, number), place)
        total, count = 0.0, 0.0
        for part in batch.split(training.micro_batch_tokens) if objective.splits else [batch]:
            with model.chance.keyed(experiment.seed, number, part.index, part.lengths):
                loss = objective.loss(model, part)
            if loss.total.requires_grad:
                loss.total.backward()
            masters.collect()
            total += float(loss.total.detach())
            count += loss.count
        factor = schedule.factor(share)
        norm = masters.step(count, factor)
        yield Step(
            number=number + 1,
            total=work.total,
            loss=total / count if count else float("nan"),
            count=count,
            tokens=int(batch.lengths.sum()),
            examples=len(batch),
            rate=masters.spec.lr * factor,
            gradient_norm=norm,
            epoch=(number + 1) / in_epoch,
        )


def moved(batch: Batch, place: torch.device) -> Batch:
    """The batch on the model's device."""
    if place.type == "cpu":
        return batch
    return Batch(
        index=batch.index.to(place),
        lengths=batch.lengths.to(place),
        flat={name: tensor.to(place) for name, tensor in batch.flat.items()},
        each={name: tensor.to(place) for name, tensor in batch.each.items()},
    )
