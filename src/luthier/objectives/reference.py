"""What a model said of answers before it was trained: computed once, kept by the tokens that were read."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.types import HELD_OUT, Batch, Example
from luthier.core.words import plural

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOKENS, ROWS = 8192, 256
"""Of the rows that go through the model together, always the same ones: so a row's numbers have the same bits however often a run was interrupted."""
SECONDS = 20.0
"""After which what was computed is written down."""


@dataclass
class Reference:
    """Log-probabilities of the learned tokens of rows under the model before step one.

    Args:
        known: a row's key → of each of its learned tokens the log-probability, # (learned,), fp32
        stamp: which model they are of, in which dtype and where.
    """

    known: dict[bytes, np.ndarray] = field(default_factory=dict)
    stamp: str = ""

    def take(self, objective: Any, model: Any, examples: Sequence[Example], cache: Any) -> None:
        """Compute what is not known yet of these rows.

        Args:
            objective: collates, and says what rows are called.
            model: with nothing trained yet.
            examples: rows.
            cache: keeps it, a piece at a time.
        """
        weight = next(model.parameters())
        stamp = f"{model.base.fingerprint} {weight.dtype} {weight.device.type}"
        if stamp != self.stamp:
            self.known, self.stamp = {}, stamp
        if all(key_of(example) in self.known for example in examples):
            return
        keys = sorted({key_of(example) for example in examples})
        name = "reference-" + hashlib.sha256(stamp.encode() + b"".join(keys)).hexdigest()[:24]
        entries = _unpack(cache.get(name))
        chunks = _chunks(examples)
        left = [chunk for chunk in chunks if not all(key_of(example) in entries for example in chunk)]
        if left:
            cache.say(f"what the untouched base says of {plural(sum(map(len, left)), objective.unit)}, once")
        written = time.monotonic()
        for index, chunk in enumerate(left, 1):
            cache.poll()
            entries |= zip(map(key_of, chunk), score_answers(objective, model, chunk), strict=True)
            if index == len(left) or time.monotonic() - written > SECONDS:
                cache.put(name, _pack(entries))
                written = time.monotonic()
        self.known |= entries

    def of(self, example: Example) -> np.ndarray:
        """What the reference says of a row's learned tokens; NaN where nobody knows, # (learned,)"""
        entry = self.known.get(key_of(example))
        return np.full(count_learned(example), np.nan, np.float32) if entry is None else entry


def key_of(example: Example) -> bytes:
    """A hash of what the model reads of a row, and of what is learned of it."""
    return example.facts["key"]


def count_learned(example: Example) -> int:
    """Tokens that the model has to say of a row: those of its answers."""
    return sum(example.facts["lengths"])


def make_key(tokens: Sequence[int], places: Sequence[int], learned: Sequence[bool]) -> bytes:
    """The same, for a row that is being made.

    Args:
        tokens: # (tokens,)
        places: in their piece, # (tokens,)
        learned: whether the model has to say each, # (tokens,)
    """
    parts = (np.asarray(tokens, np.int32), np.asarray(places, np.int32), np.asarray(learned, np.uint8))
    return hashlib.blake2b(b"|".join(part.tobytes() for part in parts), digest_size=16).digest()


def lay_end_to_end(examples: Sequence[Example], learned: Sequence[Sequence[bool]], known: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Rows end to end: for each token the one to be said next, or -1, and its log-probability under the reference.

    Args:
        examples: rows with `tokens`.
        learned: of each row, whether each token has to be said, # one (tokens,) a row
        known: of each row what the reference says of those, # one (learned,) a row

    Returns:
        "tokens", "next" and "reference", each # (tokens,)
    """
    import torch

    following: list[int] = []
    for example, chosen in zip(examples, learned, strict=True):
        ends = zip([*example.tokens[1:], -1], [*chosen[1:], False], strict=True)
        following += [token if is_learned else -1 for token, is_learned in ends]
    to_say = torch.tensor(following, dtype=torch.int64)
    reference = torch.zeros(len(following))
    reference[to_say >= 0] = torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *known]))
    tokens = torch.tensor([token for example in examples for token in example.tokens], dtype=torch.int64)
    return {"tokens": tokens, "next": to_say, "reference": reference}


def score_answers(objective: Any, model: Any, examples: Sequence[Example]) -> list[np.ndarray]:
    """The log-probability of each learned token under a model as it is now, # one (learned,) a row, fp32"""
    from luthier.models.memory import retry_halved
    from luthier.models.modes import eval_mode

    device = next(model.parameters()).device

    def some(rows: Sequence[Example]) -> np.ndarray:
        return log_probabilities(model, objective.collate(rows, 0, HELD_OUT).to(device)).float().cpu().numpy()

    with eval_mode(model):
        scores = np.concatenate(retry_halved(some, examples, "the reference"))
    return np.split(scores, np.cumsum([count_learned(example) for example in examples])[:-1])


def log_probabilities(model: Any, batch: Batch, gradient: bool = False) -> Tensor:
    """The log-probability of each token that is to be said, in the batch's order, # (learned,)

    Args:
        model: a language model.
        batch: with `flat["next"]`: the token to be said behind each, or -1.
        gradient: whether gradients shall flow back.
    """
    import torch

    from luthier.models.token_losses import token_losses

    with torch.set_grad_enabled(gradient):
        positions = (batch.flat["next"] >= 0).nonzero()[:, 0]
        states = model.hidden_states(batch).index_select(0, positions)
        return -token_losses(states, model.network.lm_head.weight, batch.flat["next"].index_select(0, positions))


def sum_by_answer(values: Tensor, tokens: Tensor) -> Tensor:
    """Sums over the tokens of each answer, # (learned,), (answers,) → (answers,)

    Args:
        values: of the learned tokens, answer after answer.
        tokens: how many each answer has.
    """
    import torch

    rows = torch.arange(len(tokens), device=values.device).repeat_interleave(tokens)
    return torch.zeros(len(tokens), dtype=values.dtype, device=values.device).index_add(0, rows, values)


def complete(batch: Batch, model: Any) -> torch.Tensor:
    """What the reference says of a batch's learned tokens; where it is not known, the model's origin is asked, # (learned,)

    Args:
        batch: with `flat["reference"]`, NaN where it is not known.
        model: knows its origin.

    Raises:
        ModelError: the base that it was trained from is no longer to be had.
    """
    import torch

    from luthier.models.modes import eval_mode

    reference = batch.flat["reference"][batch.flat["next"] >= 0]
    missing = torch.isnan(reference)
    if not missing.any():
        return reference
    origin = model.origin()
    with eval_mode(origin):
        return torch.where(missing, log_probabilities(origin, batch), reference)


def _chunks(examples: Sequence[Example]) -> list[list[Example]]:
    """Rows of about the same length together; of copies the first."""
    once = list({key_of(example): example for example in examples}.values())
    chunks: list[list[Example]] = [[]]
    size = 0
    for example in sorted(once, key=lambda example: (example.size, key_of(example))):
        if chunks[-1] and (size + example.size > TOKENS or len(chunks[-1]) >= ROWS):
            chunks.append([])
            size = 0
        chunks[-1].append(example)
        size += example.size
    return chunks


def _pack(entries: dict[bytes, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "keys": np.frombuffer(b"".join(entries), np.uint8).reshape(-1, 16).copy(),
        "lengths": np.array([len(values) for values in entries.values()], np.int64),
        "values": np.concatenate([*entries.values(), np.zeros(0, np.float32)]).astype(np.float32),
    }


def _unpack(arrays: dict[str, np.ndarray]) -> dict[bytes, np.ndarray]:
    if not arrays:
        return {}
    parts = np.split(arrays["values"], np.cumsum(arrays["lengths"])[:-1])
    return {row.tobytes(): values for row, values in zip(arrays["keys"], parts, strict=True)}
