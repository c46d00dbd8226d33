"""Word2Vec: vectors of words from which the words around them can be told, as skip-gram or CBOW with negative sampling.

Source: Mikolov et al. 2013, "Distributed representations of words and phrases and their compositionality", sections 2.2 (negative sampling) and 2.3
(frequent words are left out at random).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from luthier.core.randomness import mix, mix_on
from luthier.core.types import HELD_OUT, Batch, Example, Loss, Record, Scores
from luthier.core.words import plural
from luthier.objectives.objective import BaseObjective
from luthier.objectives.word_pieces import WordPieces, WordVectorsSpec, show_words, without_vector

if TYPE_CHECKING:
    from torch import nn

    from luthier.models.base import Base
    from luthier.models.kernels.shared_library import CompiledCode
    from luthier.objectives.windows import Windows

UNIT = float(1 << 53)
HELD_OUT_NOISE = 512
"""Words that stand for the noise in an evaluation, evenly spread over its distribution: the same for all rows and all evaluations."""


class Word2Vec(WordVectorsSpec):
    """Learn vectors of words from the words around them."""

    kind: Literal["word2vec"] = "word2vec"
    model: Literal["skip_gram", "cbow"] = Field(
        default="skip_gram",
        description="skip_gram: tell the words of a window from the word in its middle; cbow: tell the word in the middle from the mean of its window, faster and better for frequent words (gensim: sg).",
    )
    width: int = Field(default=100, ge=2, le=2_000, description="Numbers of a vector (gensim: vector_size).")
    window: int = Field(
        default=5, ge=1, le=32, description="Words to either side at most; each word's window is drawn from 1 to this (gensim: window)."
    )
    negatives: int = Field(
        default=5, ge=1, le=50, description="Words drawn at random that each pair is contrasted with (gensim: negative)."
    )
    shared_negatives: int = Field(
        default=32,
        ge=1,
        le=4096,
        description="Drawn words that 64 neighbouring words share, weighted so that each pair is contrasted with `negatives` of them in the mean; more are slower and less noisy.",
    )
    noise_power: float = Field(
        default=0.75, ge=0, le=1, description="Words are drawn as often as they are there, to this power (gensim: ns_exponent)."
    )
    subsample: float = Field(
        default=1e-3,
        ge=0,
        description="Words more frequent than this share are left out at random, the more so the more frequent; 0 keeps all (gensim: sample).",
    )

    def compiled_code(self, base: Base | None) -> CompiledCode | None:
        """Compiled code that stands in for torch's operations in its steps on a processor: there is some for CBOW."""
        from luthier.models.kernels import word_kernels

        return word_kernels.OWN if self.model == "cbow" else None

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str | None) -> Word2VecObjective:
        """The objective at work.

        Args:
            tokenizer: the vocabulary.
            input: the columns that are read.
            target: None: the texts are their own target.
        """
        return Word2VecObjective(self, tokenizer, input, target)


class Word2VecObjective(BaseObjective[Word2Vec, Any]):
    """See `Word2Vec`."""

    splits = False
    """Words of several rows share negative samples."""
    metrics: tuple[str, ...] = ("loss",)

    def __init__(self, spec: Word2Vec, processor: Any, input: tuple[str, ...], target: str | None) -> None:
        super().__init__(spec, processor, input, target)
        self.unit = "pair" if spec.model == "skip_gram" else "word"
        counts = np.maximum(processor.counts, 1).astype(float)
        shares = counts / counts.sum()
        limit = spec.subsample or 1.0
        self.kept = np.minimum(1.0, np.sqrt(limit / shares) + limit / shares)  # as in word2vec.c
        self.noise = np.cumsum(counts**spec.noise_power)
        self.noise /= self.noise[-1]

    def prepare(self, records: Sequence[Record]) -> Sequence[Example]:
        """The words of the rows that have a vector, long rows in pieces; an example is made when it is asked for."""
        return WordPieces(records, self.tokenizer, self.input)

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """The words that are kept, their windows and their negative samples: a function of seed, step and row."""
        import torch

        seed = 0 if step == HELD_OUT else seed
        tokens = [example.tokens for example in examples]
        sizes, words = np.array([len(each) for each in tokens]), np.concatenate(tokens)
        texts = np.repeat(np.arange(len(examples)), sizes)
        positions = np.arange(len(words)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows = np.array([example.index for example in examples])
        if self.spec.subsample:
            mask = _share(mix_on(mix(seed, "kept", step, rows)[texts], positions)) < self.kept[words]
            words, texts, positions = words[mask], texts[mask], positions[mask]
        wide = 1 + (mix_on(mix(seed, "window", step, rows)[texts], positions) % np.uint64(self.spec.window)).astype(np.int32)
        flat = _windows(words, texts, len(examples), wide, self.spec.window, lambda groups: self._noise(groups, seed, step))
        return Batch(
            index=torch.from_numpy(rows),
            lengths=torch.tensor([example.size for example in examples]),
            flat=flat,
            each={"row": torch.tensor([example.facts["row"] for example in examples])},
        )

    def _noise(self, groups: int, seed: int, step: int) -> np.ndarray:
        """Negative samples for each group of words; in an evaluation one group for all, # (groups, samples)"""
        if step == HELD_OUT:
            quantiles = (np.arange(HELD_OUT_NOISE) + 0.5) / HELD_OUT_NOISE
            return self.noise.searchsorted(quantiles).reshape(1, -1)
        count = self.spec.shared_negatives
        quantiles = _share(mix(seed, "noise", step, np.arange(groups * count)))
        return np.minimum(self.noise.searchsorted(quantiles, side="right"), len(self.noise) - 1).reshape(groups, count)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The logistic loss of the pairs and their negative samples, summed; the number of pairs (of CBOW: of words) is the count."""
        from luthier.objectives.windows import summed_loss

        vectors: Any = model
        network, kernels = vectors.network, vectors.kernels
        windows, cbow = self.windows(batch), self.spec.model == "cbow"
        total = summed_loss(network.words.weight, network.contexts.weight, windows, cbow, kernels)
        return Loss(total, float(((windows.pairs > 0) if cbow else windows.pairs).sum()))

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """The loss summed over each row's pairs, and how many there are."""
        import torch

        from luthier.objectives.windows import losses_of_words

        network: Any = model.network
        windows, cbow = self.windows(batch), self.spec.model == "cbow"
        with torch.no_grad():
            losses = losses_of_words(network.words.weight, network.contexts.weight, windows, cbow).double()
        counts = (windows.pairs > 0 if cbow else windows.pairs).double()
        rows, empty = batch.flat["texts"], torch.zeros(len(batch) + 1, dtype=torch.double, device=losses.device)
        loss, count = (empty.index_add(0, rows, values)[:-1].cpu().numpy() for values in (losses, counts))
        return Scores(loss=loss, count=count, groups=batch.each["row"].cpu().numpy())

    def windows(self, batch: Batch) -> Windows:
        """The batch's words with their windows."""
        from luthier.objectives.windows import Windows

        words, left, right, noise = (batch.flat[name] for name in ("words", "left", "right", "noise"))
        return Windows(words, left, right, noise, self.spec.negatives, self.spec.window)

    def tokens_to_show(self, example: Example) -> tuple[list[int], list[bool]]:
        """The words of the row that have a vector."""
        return show_words(self.tokenizer, self.text(example.record))

    def describe_learned(self, example: Example) -> str:
        """What is told from what."""
        spec, left_out = self.spec, without_vector(self.tokenizer, self.text(example.record))
        task = "the words near each word" if spec.model == "skip_gram" else "each word from the mean of those near it"
        rare = ", frequent ones left out at random" if spec.subsample else ""
        return f"{task}, up to {spec.window} to either side{rare}, against {plural(spec.negatives, 'drawn word')} each{left_out}"

    def text(self, record: Record) -> str:
        """What is read of a row."""
        return record.text(self.input)


def _share(draws: np.ndarray) -> np.ndarray:
    """64 random bits as a number from 0 to 1, 1 not included."""
    return (draws >> np.uint64(11)).astype(float) / UNIT


def _windows(words: np.ndarray, texts: np.ndarray, rows: int, wide: np.ndarray, reach: int, noise: Any) -> dict[str, Any]:
    """A step's tensors: what `Windows` holds, and the row of each word; one more than there are rows for those that fill up."""
    import torch

    from luthier.objectives.windows import SHARING, window_sides

    left, right = window_sides(texts, wide)
    count = len(left)
    filled = np.zeros(count + 2 * reach, dtype=np.int64)
    filled[reach : reach + len(words)] = words
    owners = np.full(count, rows, dtype=np.int64)
    owners[: len(texts)] = texts
    groups = max(1, count // SHARING)
    arrays = {"words": filled, "left": left, "right": right, "texts": owners, "noise": noise(groups).astype(np.int64, copy=False)}
    return {name: torch.from_numpy(values) for name, values in arrays.items()}
