"""The trainer's side of parity: the bundle's own network, tokenizer and objective, which the verdict was reached with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from luthier.core.types import HELD_OUT, Batch, Example
from luthier.delivery.bundle import open_bundle
from luthier.families import family_of
from luthier.families.family import Family
from luthier.models.base import Base
from luthier.models.modes import eval_mode
from luthier.models.precision import round_weights_to
from luthier.models.token_losses import token_losses

TOGETHER = 16
"""Rows that go through the network at once."""


@dataclass(frozen=True)
class Trainer:
    """A bundle, opened as it was evaluated, but computing in fp32, so that what rounding there is comes from the export alone.

    Args:
        bundle: resolved.
        family: of it.
        model: in eval mode.
        objective: with its tokenizer.
    """

    bundle: Base
    family: Family
    model: Any
    objective: Any

    @property
    def tokenizer(self) -> Any:
        """What makes numbers of a row."""
        return self.objective.tokenizer


def open_trainer(bundle: Base) -> Trainer:
    """Open a bundle for parity.

    Args:
        bundle: its files were checked against its manifest.
    """
    about = bundle.bundle
    assert about is not None
    family = family_of(about["task"])
    processor = family.load_processor(bundle, family.spec_class.model_validate(about["objective"]))
    model, objective = open_bundle(bundle, processor)
    return Trainer(bundle, family, round_weights_to(cast(Any, model), torch.float32).eval(), objective)


def moves(trainer: Trainer, rounded: Iterable[tuple[str, torch.Tensor]]) -> bool:
    """Whether some of the weights are others once they are rounded.

    Args:
        trainer: opened.
        rounded: by name; no more of them are read than it takes.
    """
    state = trainer.model.network.state_dict()
    return any(name in state and not torch.equal(state[name], tensor.to(state[name].dtype)) for name, tensor in rounded)


def round_weights(trainer: Trainer, rounded: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Put rounded weights in the place of the trainer's, which still computes in fp32.

    Args:
        trainer: its network is changed.
        rounded: by name.
    """
    state = trainer.model.network.state_dict()
    for name, tensor in rounded:
        if name in state:  # a pooler that nobody reads is not
            state[name].copy_(tensor)


def outputs_of(trainer: Trainer, examples: Sequence[Example]) -> list[np.ndarray]:
    """What the trainer's network gives for each row, of every learned token; see `exporter.Reader.outputs`.

    Args:
        trainer: opened.
        examples: rows, prepared by its objective.

    Returns:
        For each row # (outputs,) or (kept tokens, outputs)
    """
    gives, model, objective = trainer.family.gives, trainer.model, trainer.objective
    results: list[np.ndarray] = []
    with eval_mode(model), torch.no_grad():
        for start in range(0, len(examples), TOGETHER):
            part = list(examples[start : start + TOGETHER])
            batch: Batch = objective.collate(part, 0, HELD_OUT)
            results += [each.float().numpy() for each in _outputs(gives, model, batch)]
    return results


def _outputs(gives: str, model: Any, batch: Batch) -> list[torch.Tensor]:
    """One tensor a row."""
    if gives == "picture":
        picture, code, log_variance = model(batch)
        parts = [picture.permute(0, 2, 3, 1).flatten(1), code, *([] if log_variance is None else [log_variance])]
        return list(torch.cat(parts, 1))
    if gives == "vector":
        return list(model.embed(batch).unflatten(0, (len(batch), -1)).flatten(1))
    if gives in ("tags", "gaps"):
        is_learned = batch.flat["target" if gives == "tags" else "hidden"] >= 0
        positions = is_learned.nonzero()[:, 0]
        result = model(batch)[positions] if gives == "tags" else model.guess(model.hidden_states(batch)[positions])
        counts = torch.segment_reduce(is_learned.float(), "sum", lengths=batch.lengths).long()
        return list(result.split(counts.tolist()))
    return list(model(batch))


def log_probabilities_of(trainer: Trainer, tokens: Sequence[int]) -> np.ndarray:
    """The log-probability of each token of a text but the first, by the trainer's own packed forward pass, # (tokens - 1,)

    Args:
        trainer: of a decoder.
        tokens: of one text.
    """
    states, weight = _states_and_output(trainer, tokens)
    return -token_losses(states[:-1], weight, torch.tensor([int(token) for token in tokens[1:]])).numpy()


def next_scores(trainer: Trainer, tokens: Sequence[int]) -> np.ndarray:
    """The log-probability of every token behind a text, # (vocabulary,)

    Args:
        trainer: of a decoder.
        tokens: of the text.
    """
    states, weight = _states_and_output(trainer, tokens)
    return (states[-1:] @ weight.t())[0].float().log_softmax(-1).numpy()


def _states_and_output(trainer: Trainer, tokens: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The last hidden states of one text, # (tokens, width), and the output matrix, # (vocabulary, width)"""
    flat = torch.tensor([int(token) for token in tokens])
    batch = Batch(torch.zeros(1, dtype=torch.long), torch.tensor([len(flat)]), {"tokens": flat}, {})
    with eval_mode(trainer.model), torch.no_grad():
        return trainer.model.hidden_states(batch), trainer.model.network.get_output_embeddings().weight.detach()


def write_greedily(trainer: Trainer, tokens: Sequence[int], limit: int, end: int) -> list[int]:
    """The likeliest token each time, as prediction writes, up to `limit` or to the token that ends an answer, which is given too.

    Args:
        trainer: of a decoder.
        tokens: of what is asked.
        limit: tokens at most.
        end: the token that ends an answer.
    """
    ids = torch.tensor([[int(token) for token in tokens]])
    with trainer.model.for_generation() as network:
        made = network.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, eos_token_id=end, pad_token_id=end
        )
    return [int(token) for token in made[0, ids.shape[1] :]]
