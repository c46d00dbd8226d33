"""Windows as products of matrices: the loss and its gradients are those of single pairs, one after the other."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from luthier.core.randomness import mix
from luthier.models.kernels import shared_library
from luthier.models.kernels.word_kernels import WordKernels
from luthier.objectives.windows import SHARING, Windows, losses_of_words, run_length, summed_loss, window_sides

VOCABULARY, WIDTH, NEGATIVES = 50, 6, 3


def make(reach: int, count: int = 150, samples: int = 7) -> tuple[Windows, np.ndarray, np.ndarray, np.ndarray]:
    words = (mix("words", np.arange(count)) % np.uint64(VOCABULARY)).astype(np.int64)
    texts = np.repeat(np.arange(-(-count // 13)), 13)[:count]
    sizes = 1 + (mix("sizes", np.arange(count)) % np.uint64(reach)).astype(np.int32)
    left, right = window_sides(texts, sizes)
    filled = np.zeros(len(left) + 2 * reach, dtype=np.int64)
    filled[reach : reach + count] = words
    groups = len(left) // SHARING
    noise = (mix("noise", np.arange(groups * samples)) % np.uint64(VOCABULARY)).astype(np.int64).reshape(groups, samples)
    one, two, three, four = (torch.from_numpy(values) for values in (filled, left, right, noise))
    return Windows(one, two, three, four, NEGATIVES, reach), words, texts, sizes


def tables() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(VOCABULARY, WIDTH, requires_grad=True), torch.randn(VOCABULARY, WIDTH, requires_grad=True)


def one_by_one(
    inputs: Tensor, outputs: Tensor, windows: Windows, words: np.ndarray, texts: np.ndarray, sizes: np.ndarray, cbow: bool
) -> Tensor:
    """The definition: every pair, and every negative sample of the group of its word, weighted to `NEGATIVES` of them in the mean."""
    total = torch.zeros(())
    for place, word in enumerate(words):
        near = [
            other
            for other in range(place - sizes[place], place + sizes[place] + 1)
            if 0 <= other < len(words) and other != place and texts[other] == texts[place]
        ]
        if not near:
            continue
        drawn = outputs[windows.noise[place // SHARING]]
        if cbow:
            vector = inputs[words[near]].mean(0)
            total = total - logsigmoid(vector @ outputs[word]) - NEGATIVES * logsigmoid(-(drawn @ vector)).mean()
            continue
        for other in near:
            total = total - logsigmoid(inputs[word] @ outputs[words[other]]) - NEGATIVES * logsigmoid(-(drawn @ inputs[word])).mean()
    return total


needs_compiler = pytest.mark.skipif(not shared_library.can_compile(), reason="there is no C++ compiler")
HOW = (
    pytest.param(False, False, id="skip_gram"),
    pytest.param(True, False, id="cbow"),
    pytest.param(True, True, id="compiled cbow", marks=needs_compiler),
)


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize(("cbow", "fast"), HOW)
@pytest.mark.parametrize("reach", [1, 5, 9])
def test_loss_and_gradients_are_those_of_single_pairs(reach: int, cbow: bool, fast: bool) -> None:
    windows, words, texts, sizes = make(reach)
    one, two = tables()
    expected = one_by_one(one, two, windows, words, texts, sizes, cbow)
    expected.backward()
    assert one.grad is not None and two.grad is not None
    wanted = one.grad.clone(), two.grad.clone()
    one.grad = two.grad = None
    found = summed_loss(one, two, windows, cbow, WordKernels() if fast else None)
    found.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for table, gradient in zip((one, two), wanted, strict=True):
        assert table.grad is not None and table.grad.is_sparse
        rows = table.grad._indices()[0]
        assert bool((rows.diff() > 0).all())  # each row once
        assert torch.allclose(table.grad.to_dense(), gradient, atol=1e-4)
    each = losses_of_words(one.detach(), two.detach(), windows, cbow)
    assert float(each.sum()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert bool((each[len(words) :] == 0).all())  # what fills up costs nothing


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize(("cbow", "fast"), HOW)
def test_vectors_of_zeros_lose_one_and_the_negatives_times_log_two(cbow: bool, fast: bool) -> None:
    windows, *_ = make(5)
    nothing = torch.zeros(VOCABULARY, WIDTH)
    count = float((windows.pairs > 0).sum() if cbow else windows.pairs.sum())
    assert float(summed_loss(nothing, nothing, windows, cbow, WordKernels() if fast else None)) / count == pytest.approx(
        (1 + NEGATIVES) * math.log(2), rel=1e-5
    )


def test_a_window_ends_where_its_text_does_and_holds_not_the_word_itself() -> None:
    left, right = window_sides(np.array([0, 0, 0, 1, 1]), np.array([2, 1, 2, 2, 2], dtype=np.int32))
    nothing = torch.zeros(1, dtype=torch.int64)
    windows = Windows(nothing, torch.from_numpy(left), torch.from_numpy(right), nothing, NEGATIVES, 2)
    band = windows.band
    assert band.shape == (SHARING // run_length(2), run_length(2), run_length(2) + 4)
    near = [(band[0, place].nonzero()[:, 0] - 2).tolist() for place in range(6)]
    assert near == [[1, 2], [0, 2], [0, 1], [4], [3], []]
    assert float(band.sum()) == 8 == float(windows.pairs.sum())
    assert torch.equal(band.sum(-1).flatten(), windows.pairs)


@pytest.mark.skipif(not shared_library.can_compile(), reason="there is no C++ compiler")
@pytest.mark.usefixtures("compiling")
def test_compiled_code_leaves_words_that_all_share_one_group_of_samples_to_torch() -> None:
    """As in an evaluation: the compiled code goes through the words by groups, and would stop behind the first."""
    windows, *_ = make(5)
    shared = replace(windows, noise=windows.noise[:1])
    inputs, outputs = tables()
    found = summed_loss(inputs, outputs, shared, True, WordKernels())
    assert shared.count > SHARING
    assert found.item() == pytest.approx(losses_of_words(inputs, outputs, shared, True).sum().item(), rel=1e-5)
