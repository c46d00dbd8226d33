"""The training loop: a generator that takes one optimizer step each time it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from luthier.core.errors import OutOfMemory
from luthier.core.interfaces import Adaptation, Objective
from luthier.core.types import Batch, Example, Step
from luthier.core.words import plural
from luthier.data.batches import choose_rows, steps_in_epoch
from luthier.experiment import Experiment
from luthier.models.memory import gc_frozen, is_out_of_memory, release_memory, smaller_limit
from luthier.models.trainable import TrainableNetwork
from luthier.optim.masters import Masters
from luthier.optim.schedules import Cut, progress, valid_cuts


@dataclass
class Work:
    """Everything a step needs, built.

    Args:
        experiment: what was asked for.
        objective: knows what a batch means.
        model: the network; its dropout is keyed by its `dropout_keys`.
        masters: the precise weights and their optimizer.
        train: the examples that are learned from.
        validation: the examples that choose the checkpoint.
        total: optimizer steps of the whole run.
        shrunk: where memory did not suffice: from which step on (counted from 0) how many tokens go through the model at once.
        on_shrink: called with a new entry of `shrunk`.
        planned: optimizer steps that the schedule is laid out for, where it ends early; None: `total`.
        micro_batches: a step's rows and a limit of tokens → the micro-batches that go through the model one after the other.
        cuts: where the time did not suffice: from which step on the run has fewer steps left.
        uncut: steps of the whole run before any cut.
    """

    experiment: Experiment
    objective: Objective
    model: TrainableNetwork
    masters: Masters
    train: Sequence[Example]
    validation: Sequence[Example]
    total: int
    shrunk: dict[int, int] = field(default_factory=dict)
    on_shrink: Callable[[int, int], None] = lambda step, limit: None
    planned: int | None = None
    micro_batches: Callable[[Batch, int], list[Batch]] = Batch.split
    cuts: list[Cut] = field(default_factory=list)
    uncut: int = field(default=0, init=False)
    _classes: tuple[int, ...] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.uncut = self.total

    def cut(self, *cuts: Cut) -> None:
        """Let the run have fewer steps: the learning rate falls to zero at the new end."""
        self.cuts = valid_cuts(self.uncut, [*self.cuts, *cuts])
        self.total = self.cuts[-1].total if self.cuts else self.uncut

    def progress(self, step: int) -> tuple[float, float]:
        """The done share of the run in a step (counted from 0), and the factor of its learning rate."""
        before = [self.uncut, *(cut.total for cut in self.cuts)]
        lowered = [cut for cut, total in zip(self.cuts, before, strict=False) if cut.total < total]  # the others only leave out evaluations
        return progress(self.experiment.schedule, step, self.planned or self.uncut, lowered)

    def limit(self, step: int) -> int:
        """Tokens that go through the model at once in this step."""
        since = [at for at in self.shrunk if at <= step]
        return self.shrunk[max(since)] if since else self.experiment.training.micro_batch_tokens

    def shrink(self, step: int, limit: int) -> None:
        """From this step on, fewer tokens at once: the step learns from the same rows, in more pieces."""
        self.shrunk[step] = limit
        self.on_shrink(step, limit)

    def shorten(self, experiment: Experiment, train: Sequence[Example], total: int) -> Work:
        """The same for a short training of its own, whose schedule is laid out for its own steps."""
        return replace(self, experiment=experiment, train=train, total=total, planned=None, cuts=[])

    def examples_of_step(self, step: int) -> list[Example]:
        """The training examples that make a step (counted from 0), as prepared."""
        training = self.experiment.training
        if training.sampling == "balanced" and self._classes is None:
            self._classes = tuple(example.stratum or 0 for example in self.train)
        return [
            self.train[position]
            for position in choose_rows(step, len(self.train), training.batch_size, self.experiment.seed, self._classes).tolist()
        ]


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
    adaptation = cast(Adaptation, experiment.adaptation)
    device = next(model.parameters()).device
    in_epoch = steps_in_epoch(len(work.train), training.batch_size)
    with gc_frozen():
        number = start
        while number < work.total:  # which may become fewer meanwhile
            share, factor = work.progress(number)
            adaptation.on_progress(model, share)
            batch = objective.collate(work.examples_of_step(number), experiment.seed, number).to(device)
            total, count = _accumulate(work, batch, number)
            norm = _take_optimizer_step(work, count, factor)
            yield Step(
                number=number + 1,
                total=work.total,
                loss=total / count if count else 0.0,
                count=count,
                tokens=batch.size,
                examples=len(batch),
                lr=masters.spec.lr * factor,
                gradient_norm=norm,
                epoch=(number + 1) / in_epoch,
            )
            number += 1


def _take_optimizer_step(work: Work, count: float, factor: float) -> float:
    """The optimizer's step; it cannot be tried twice, for some of the weights may have moved."""
    try:
        return work.masters.step(count, factor)
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        raise OutOfMemory(
            "there is not enough memory for the optimizer's state",
            "let less move (adaptation.kind=lora, or freeze), or take a smaller base",
        ) from problem


def _accumulate(work: Work, batch: Batch, number: int) -> tuple[float, float]:
    """The step's summed loss and count, its gradients left in the masters; where memory does not suffice, in smaller pieces."""
    buffers = work.masters.buffers()
    result = _try_micro_batches(work, batch, number)
    while result is None:
        release_memory()
        work.masters.zero_grad(buffers)
        limit = (
            smaller_limit(work.limit(number), len(batch), lambda limit: len(work.micro_batches(batch, limit)))
            if work.objective.splits
            else 0
        )
        if not limit and not work.objective.splits and len(batch) > 1:
            raise OutOfMemory(
                f"step {number + 1}: there is not enough memory for {plural(len(batch), 'row')} of {batch.size:,} tokens, which go through the model together because this loss compares them",
                "lower training.batch_size, shorten the rows (objective.max_length), or let less move (adaptation.kind=lora, or freeze)",
            )
        if not limit:
            raise OutOfMemory(
                f"step {number + 1}: there is not enough memory for one row of {int(batch.lengths.max()):,} tokens",
                "shorten the rows (objective.max_length), let less move (adaptation.kind=lora, or freeze), or take a smaller base",
            )
        work.shrink(number, limit)
        result = _try_micro_batches(work, batch, number)
    return result


def _try_micro_batches(work: Work, batch: Batch, number: int) -> tuple[float, float] | None:
    """The summed loss and count of the step's micro-batches, their gradients left in the masters; None where memory does not suffice."""
    seed, model = work.experiment.seed, work.model
    total, count = 0.0, 0.0
    try:
        for part in work.micro_batches(batch, work.limit(number)) if work.objective.splits else [batch]:
            with model.dropout_keys.set_keys(seed, number, part.index, part.lengths, part.stream_lengths):
                loss = work.objective.loss(model, part)
            if loss.total.requires_grad:
                with work.masters.collecting():
                    loss.total.backward()
            total += float(loss.total.detach())
            count += loss.count
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        return None
    return total, count
