"""Sentence embeddings: texts that belong together get like vectors, from pairs, triples or scored pairs.

Source: Henderson et al. 2017, "Efficient Natural Language Response Suggestion", section 4.4 (in-batch negatives); Reimers & Gurevych 2019, "Sentence-BERT",
section 3 (the squared error of the cosine).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from luthier.core.component import Component
from luthier.core.types import Batch, Cut, Example, Loss, Record, Scores
from luthier.evaluation.retrieval import score_retrieval
from luthier.objectives.objective import BaseObjective, surely_fits
from luthier.objectives.regression import number_of
from luthier.objectives.text_rows import MAX_LENGTH, MaxLength

if TYPE_CHECKING:
    from torch import Tensor


class Embedding(Component):
    """Learn vectors of texts, so that those which belong together are near each other."""

    kind: Literal["embedding"] = "embedding"
    scale: float = Field(
        default=20.0,
        gt=0,
        description="What cosines are multiplied by before the softmax over a step's positives (sentence-transformers: scale; 1 / temperature).",
    )
    pooling: Literal["auto", "mean", "cls"] = Field(
        default="auto",
        description="A text's vector: the mean of its tokens' states, or the first one's; auto is what the base's own files say, else the mean.",
    )
    max_length: MaxLength = MAX_LENGTH
    low: float | None = Field(default=None, description="The score that means a cosine of 0; from the training rows when unset.")
    high: float | None = Field(default=None, description="The score that means a cosine of 1; from the training rows when unset.")

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str | None) -> EmbeddingObjective:
        """The objective at work.

        Args:
            tokenizer: the base's.
            input: the columns of the texts: anchor, positive and, where there is one, negative.
            target: the column of the scores; None where all pairs belong together.
        """
        return EmbeddingObjective(self, tokenizer, input, target)


def same_text(value: Any) -> str:
    """A text without what does not make it another one: case, and how many spaces there are."""
    return " ".join(str(value or "").split()).casefold()


def _key(value: Any) -> int:
    """A number that only the same text has."""
    return int.from_bytes(hashlib.blake2b(same_text(value).encode(), digest_size=8).digest(), "little", signed=True)


class EmbeddingObjective(BaseObjective[Embedding, Any]):
    """See `Embedding`."""

    varies = "texts"

    def __init__(self, spec: Embedding, processor: Any, input: tuple[str, ...], target: str | None) -> None:
        super().__init__(spec, processor, input, target)
        self.splits = target is not None
        self.learned = "text that belongs to another" if target is None else "score"
        self.metrics: tuple[str, ...] = ("mrr", "recall_at_1", "recall_at_10", "loss") if target is None else ("spearman", "loss")

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """The texts of a row end to end; each is read by itself."""
        if not records:
            return []
        sides = [self.encode([str(record.values.get(name) or "") for record in records]) for name in self.input]
        examples = []
        for position, (record, *texts) in enumerate(zip(records, *sides, strict=True)):
            tokens = [token for text, _ in texts for token in text]
            places = [index for text, _ in texts for index in range(len(text))]
            target = None if self.target is None else self._cosine(number_of(record.values.get(self.target)))
            facts = {"cut": sum(cut for _, cut in texts), "keys": tuple(_key(record.values.get(name)) for name in self.input)}
            examples.append(Example(position, {"tokens": tokens, "place": places}, target, record, len(tokens), 1.0, facts=facts))
        return examples

    def encode(self, texts: Sequence[str]) -> list[tuple[list[int], int]]:
        """The tokens of each text, as many as are read, and how many were cut."""
        whole = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        truncated = self.tokenizer(list(texts), truncation=True, max_length=self.spec.max_length)["input_ids"]
        return [(some, len(every) - len(some)) for some, every in zip(truncated, whole, strict=True)]

    def cuts(self, records: Sequence[Record]) -> list[tuple[Cut, ...]]:
        """The texts of each row, of the two that a prediction is about, that have more tokens than are read."""
        found: list[tuple[Cut, ...]] = [() for _ in records]
        texts = [(index, name, str(record.values.get(name) or "")) for index, record in enumerate(records) for name in self.input[:2]]
        long = [each for each in texts if not surely_fits(each[2], self.spec.max_length)]
        encoded = self.encode([text for _, _, text in long]) if long else ()
        for (index, name, _), (tokens, lost) in zip(long, encoded, strict=True):
            if lost:
                found[index] += (Cut((name,), len(tokens) + lost, len(tokens)),)
        return found

    def remedy_for_cuts(self) -> str:
        """Longer texts."""
        return "a larger objective.max_length"

    def _cosine(self, score: float) -> float:
        """The cosine that a score asks for."""
        low, high = self.spec.low or 0.0, 1.0 if self.spec.high is None else self.spec.high
        return (score - low) / (high - low)

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """Tokens end to end, each one's place in its text, and for each text the number that only the same text has."""
        import torch

        each = {"key": torch.tensor([example.facts["keys"] for example in examples])}
        if self.target is not None:
            each["target"] = torch.tensor([example.target for example in examples], dtype=torch.float32)
        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([example.size for example in examples]),
            flat={name: torch.tensor([value for example in examples for value in example.inputs[name]]) for name in ("tokens", "place")},
            each=each,
        )

    def vectors(self, model: Any, batch: Batch) -> Tensor:
        """The vector of each text of each row, # (examples, texts, width)"""
        return model.embed(batch).unflatten(0, (len(batch), len(self.input)))

    def loss(self, model: Any, batch: Batch) -> Loss:
        """The losses of the rows, summed; every row counts one."""
        return Loss(self.losses(self.vectors(model, batch), batch).sum(), float(len(batch)))

    def losses(self, vectors: Tensor, batch: Batch) -> Tensor:
        """The loss of each row.

        Of a pair, the log loss of telling its positive from all positives and negatives of the batch; a text that is the row's own positive again, or that belongs to the same
        anchor, is no negative. Of a scored pair, the squared distance of the cosine from the score.

        Args:
            vectors: of each text, # (examples, texts, width)
            batch: whose texts these are.

        Returns:
            # (examples,)
        """
        import torch
        from torch.nn.functional import cross_entropy

        if self.target is not None:
            return ((vectors[:, 0] * vectors[:, 1]).sum(-1) - batch.each["target"]).square()
        others = torch.cat(list(vectors[:, 1:].unbind(1)))
        logits = (self.spec.scale * vectors[:, 0] @ others.T).masked_fill(no_negatives(batch.each["key"]), float("-inf"))
        return cross_entropy(logits, torch.arange(len(batch), device=logits.device), reduction="none")

    def score(self, model: Any, batch: Batch) -> Scores:
        """The loss of each row among the rows beside it, and its texts' vectors; ranks among all rows come later."""
        import torch

        with torch.no_grad():
            vectors = self.vectors(model, batch)
            losses = self.losses(vectors, batch).double()
            cosine = (vectors[:, 0] * vectors[:, 1]).sum(-1).double()
        actual = batch.each["target"].double() if self.target is not None else torch.full_like(cosine, float("nan"))
        more = {"vectors": vectors.flatten(1), "predicted": cosine, "actual": actual}
        return Scores(losses.cpu().numpy(), np.ones(len(batch)), more={name: value.cpu().numpy() for name, value in more.items()})

    def complete(self, scores: Scores, examples: Sequence[Example]) -> Scores:
        """Which place a row's positive has among the positives of all rows, by cosine with the anchor."""
        vectors = scores.more["vectors"].reshape(len(examples), len(self.input), -1)
        return self.with_ranks(scores, examples, vectors[:, 0], vectors[:, 1])

    def with_ranks(self, scores: Scores, examples: Sequence[Example], anchors: Any, positives: Any) -> Scores:
        """The scores with what retrieval metrics need.

        Args:
            scores: of these rows.
            examples: the rows.
            anchors: of length one, perhaps sparse, # (examples, features)
            positives: the same, # (examples, features)
        """
        texts = [np.array([str(example.record.values.get(name) or "") for example in examples], dtype=object) for name in self.input[:2]]
        if self.target is not None:
            unknown = np.full(len(examples), np.nan)
            ranks: dict[str, Any] = {"rank": unknown, "wrong": texts[1], "wrong_cosine": unknown}
        else:
            ranks = score_retrieval(anchors, positives, *([same_text(text) for text in side] for side in texts))
            ranks["wrong"] = np.where(ranks["wrong"] >= 0, texts[1][ranks["wrong"]], "")
        return Scores(scores.loss, scores.count, more={**scores.more, **ranks, "anchor": texts[0], "positive": texts[1]})

    def of_each_row(self, scores: Scores) -> np.ndarray:
        """Its vectors: the loss is measured against the rows beside it."""
        return scores.more["vectors"]


def no_negatives(keys: Tensor) -> Tensor:
    """Which texts are no negatives of a row: its own positive in another row, what belongs to the same anchor, and the anchor itself.

    Args:
        keys: of anchor, positive and perhaps negative, # (examples, texts)

    Returns:
        # (examples, positives and negatives of all rows)
    """
    import torch

    anchor, positive = keys[:, :1], keys[:, 1:2]
    others = keys[:, 1:].T.flatten()[None]
    mask = (others == positive) | (others == anchor)
    mask[:, : len(keys)] |= anchor == anchor.T
    mask[:, : len(keys)] &= ~torch.eye(len(keys), dtype=torch.bool, device=keys.device)  # the row's own positive stays
    return mask
