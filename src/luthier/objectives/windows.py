"""Skip-gram and CBOW with negative sampling over windows of a text, as products of matrices.

A text is cut into short runs of words. The scores of all pairs inside the windows of a run are one small product of matrices (a band of it counts), and words
that stand near each other share their negative samples, so those scores are a product as well. Each word's vector is read once a step and its gradient added
up once a step, however many windows it stands in.

Source: Mikolov et al. 2013, "Distributed representations of words and phrases and their compositionality", equation 4; Ji et al. 2016, "Parallelizing
Word2Vec in shared and distributed memory" (shared negative samples, products of matrices).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, logsigmoid

if TYPE_CHECKING:
    from luthier.models.kernels.word_kernels import WordKernels

RUN = 16
"""Words of a run, at least: with windows of five words to either side two of five scores of its product are needed."""
SHARING = 64
"""Words that share their negative samples; a multiple of every run."""


@dataclass(frozen=True)
class Windows:
    """A step's words with their windows.

    Args:
        words: of the texts one behind the other, filled up to a multiple of `SHARING`, with `reach` words that count for nothing on either side, # (reach + words + reach,)
        left: words of each word's window that stand before it, at most `reach`, int32, # (words,)
        right: those that stand behind it, int32, # (words,)
        noise: negative samples of each group of words that share them, # (groups, samples)
        negatives: that each pair is contrasted with.
        reach: words of the widest window, to either side.
    """

    words: Tensor
    left: Tensor
    right: Tensor
    noise: Tensor
    negatives: int
    reach: int

    @property
    def count(self) -> int:
        """Words, those that fill up included."""
        return len(self.left)

    @property
    def centres(self) -> Tensor:
        """The words themselves, # (words,)"""
        return self.words[self.reach : self.reach + self.count]

    @property
    def pairs(self) -> Tensor:
        """Words in the window of each word, # (words,)"""
        return (self.left + self.right).float()

    @cached_property
    def band(self) -> Tensor:
        """Which words of a run and its surroundings stand in a word's window, # (runs, run, run + 2 × reach) of 0 and 1"""
        run = run_length(self.reach)
        places = torch.arange(run + 2 * self.reach, dtype=torch.int32, device=self.left.device) - self.reach
        away = places - torch.arange(run, dtype=torch.int32, device=self.left.device)[:, None]
        within = (away >= -self.left.view(-1, run, 1)) & (away <= self.right.view(-1, run, 1))
        return (within & (away != 0)).float()


def run_length(reach: int) -> int:
    """Words of a run for windows of so many words to either side: a power of two, and not shorter than two windows."""
    return max(RUN, 1 << (2 * reach - 1).bit_length())


def window_sides(texts: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many words of each word's window stand before it and behind it, filled up to a multiple of `SHARING` by words without a window.

    Args:
        texts: the number of the text that each word belongs to; a window ends where its text does, # (words,)
        sizes: of each word's window, to either side, 1 or more, # (words,)

    Returns:
        int32, # (words,) each
    """
    places = np.arange(len(texts), dtype=np.int32)
    starts = np.flatnonzero(np.diff(texts, prepend=-1))
    lengths = np.diff(starts, append=len(texts))
    before = places - np.repeat(starts, lengths)
    behind = np.repeat(lengths, lengths) - 1 - before
    left, right = np.zeros((2, -(-max(len(texts), 1) // SHARING) * SHARING), dtype=np.int32)
    left[: len(texts)], right[: len(texts)] = np.minimum(sizes, before), np.minimum(sizes, behind)
    return left, right


class _Scored(torch.autograd.Function):
    """The summed loss with its gradient, computed in one go; the tables' gradients hold the rows that were read, each once."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, outputs: Tensor, windows: Windows, cbow: bool, kernels: WordKernels | None) -> Tensor:
        ctx.shapes = inputs.shape, outputs.shape
        if cbow and kernels is not None and len(windows.noise) * SHARING == windows.count:  # an evaluation has one group for all words
            loss, _, one, two = kernels.cbow(
                inputs, outputs, windows.words, windows.left, windows.right, windows.noise, windows.negatives, windows.reach
            )
            ctx.save_for_backward(one.rows, one.values, two.rows, two.values)
            return inputs.new_tensor(loss)
        total, at_inputs, at_outputs = (_cbow if cbow else _skip_gram)(inputs, outputs, windows)
        read = windows.words if cbow else windows.centres
        targets = torch.cat([windows.centres if cbow else windows.words, windows.noise.flatten()])
        ctx.save_for_backward(*_sum_by_word(read, at_inputs, len(inputs)), *_sum_by_word(targets, at_outputs, len(outputs)))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        saved, gradients, whole = ctx.saved_tensors, [], float(grads[0]) == 1.0
        for shape, rows, values in zip(ctx.shapes, saved[::2], saved[1::2], strict=True):
            scaled = values if whole else values * grads[0]
            gradients.append(torch.sparse_coo_tensor(rows[None], scaled, shape, is_coalesced=True, check_invariants=False))
        return gradients[0], gradients[1], None, None, None


def summed_loss(inputs: Tensor, outputs: Tensor, windows: Windows, cbow: bool, kernels: WordKernels | None = None) -> Tensor:
    """The loss summed over all pairs (of CBOW: over all words that have a window), # ()

    Args:
        inputs: a vector for each word of the vocabulary; what is kept in the end, # (vocabulary, width)
        outputs: a second one, as a context (of CBOW: as the word that is guessed), # (vocabulary, width)
        windows: of the step.
        cbow: guess a word from the mean of its window, instead of the words of the window from the word.
        kernels: the compiled ones, where they are used: they know CBOW.
    """
    loss: Any = _Scored.apply(inputs, outputs, windows, cbow, kernels)
    return loss


def losses_of_words(inputs: Tensor, outputs: Tensor, windows: Windows, cbow: bool) -> Tensor:
    """The same for each word by itself, without gradients, # (words,)"""
    centres, pairs = windows.centres, windows.pairs
    noise = outputs[windows.noise]
    if cbow:
        weights = (pairs > 0).float()
        vectors = _means(inputs[windows.words], windows)
        right = logsigmoid((vectors * outputs[centres]).sum(-1)) * weights
    else:
        weights, vectors = pairs, inputs[centres]
        around = _around(outputs[windows.words], windows)
        scores = torch.bmm(vectors.view(len(windows.band), -1, vectors.shape[1]), around.transpose(1, 2))
        right = (logsigmoid(scores) * windows.band).sum(-1).flatten()
    wrong = logsigmoid(-torch.bmm(vectors.view(len(noise), -1, vectors.shape[1]), noise.transpose(1, 2))).sum(-1).flatten()
    return -(right + wrong * weights * (windows.negatives / noise.shape[1]))


def _around(vectors: Tensor, windows: Windows) -> Tensor:
    """Of each run the vectors of its words and of those around it, as a view, # (runs, run + 2 × reach, width)"""
    run, width = windows.band.shape[1], vectors.shape[1]
    return vectors.as_strided((len(windows.band), run + 2 * windows.reach, width), (run * width, width, 1))


def _fold(parts: Tensor, windows: Windows, into: Tensor) -> None:
    """Add what each run says of its words and of those around it; a run is at least as long as two windows.

    Args:
        parts: # (runs, run + 2 × reach, width)
        windows: of the step.
        into: grows, # (≥ words + 2 × reach, width)
    """
    runs, run, width = len(windows.band), windows.band.shape[1], parts.shape[2]
    count, more = runs * run, 2 * windows.reach
    into[:count].view(runs, run, width).add_(parts[:, :run])
    into[run:count].view(runs - 1, run, width)[:, :more].add_(parts[:-1, run:])
    into[count : count + more].add_(parts[-1, run:])


def _means(vectors: Tensor, windows: Windows) -> Tensor:
    """The mean vector of each word's window; zero where the window is empty, # (words, width)"""
    weights = windows.band / windows.band.sum(-1, keepdim=True).clamp(min=1)
    return torch.bmm(weights, _around(vectors, windows)).flatten(0, 1)


def _against_noise(vectors: Tensor, noise: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the negative samples cost, with the gradients at the vectors and at the samples.

    Args:
        vectors: # (words, width)
        noise: # (groups, samples, width)
        weights: of each word's samples, # (words,)
    """
    grouped = vectors.view(len(noise), -1, vectors.shape[1])
    scores = torch.bmm(grouped, noise.transpose(1, 2))
    total = (logsigmoid(-scores).sum(-1).flatten() * weights).sum().neg()
    slope = scores.sigmoid_().mul_(weights.view(len(noise), -1, 1))
    return total, torch.bmm(slope, noise).view_as(vectors), torch.bmm(slope.transpose(1, 2), grouped).flatten(0, 1)


def _skip_gram(inputs: Tensor, outputs: Tensor, windows: Windows) -> tuple[Tensor, Tensor, Tensor]:
    """The summed loss; its gradients at the words, and at the words with those around them and the negative samples behind."""
    vectors = inputs.index_select(0, windows.centres)
    rows = outputs.index_select(0, torch.cat([windows.words, windows.noise.flatten()]))
    length = len(windows.words)
    noise = rows[length:].view(*windows.noise.shape, -1)
    weights = windows.pairs * (windows.negatives / windows.noise.shape[1])
    total, at_vectors, at_noise = _against_noise(vectors, noise, weights)
    runs = vectors.view(len(windows.band), -1, vectors.shape[1])
    around = _around(rows, windows)
    scores = torch.bmm(runs, around.transpose(1, 2))
    total = total - (logsigmoid(scores) * windows.band).sum()
    slope = scores.sigmoid_().sub_(1).mul_(windows.band)
    at_vectors.view_as(runs).baddbmm_(slope, around)
    at_rows = torch.zeros_like(rows)
    _fold(torch.bmm(slope.transpose(1, 2), runs), windows, at_rows)
    at_rows[length:] = at_noise
    return total, at_vectors, at_rows


def _cbow(inputs: Tensor, outputs: Tensor, windows: Windows) -> tuple[Tensor, Tensor, Tensor]:
    """The summed loss; its gradients at the words with those around them, and at the words with the negative samples behind."""
    read = inputs.index_select(0, windows.words)
    rows = outputs.index_select(0, torch.cat([windows.centres, windows.noise.flatten()]))
    count = windows.count
    sizes = windows.band.sum(-1, keepdim=True)
    weights = (sizes > 0).float().flatten()
    shares = windows.band / sizes.clamp(min=1)
    around = _around(read, windows)
    means = torch.bmm(shares, around).flatten(0, 1)
    noise = rows[count:].view(*windows.noise.shape, -1)
    total, at_means, at_noise = _against_noise(means, noise, weights * (windows.negatives / windows.noise.shape[1]))
    scores = (means * rows[:count]).sum(-1)
    total = total - (logsigmoid(scores) * weights).sum()
    slope = (scores.sigmoid() - 1) * weights
    at_means.addcmul_(slope[:, None], rows[:count])
    at_read = torch.zeros_like(read)
    _fold(torch.bmm(shares.transpose(1, 2), at_means.view(len(windows.band), -1, means.shape[1])), windows, at_read)
    return total, at_read, torch.cat([means.mul_(slope[:, None]), at_noise])


def _sum_by_word(words: Tensor, gradients: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """The gradients added up by word: the words that are there, ascending, and the sum of each, # (there,), (there, width)"""
    order = words.argsort(stable=True)
    there, counts = words[order].unique_consecutive(return_counts=True)
    return there, embedding_bag(order, gradients, counts.cumsum(0) - counts, mode="sum")
