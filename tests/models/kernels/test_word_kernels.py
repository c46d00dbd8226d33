"""Compiled steps of word vectors: the same bits on any number of threads, on registers of any width what torch computes, and rows that were not read stay."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.core.randomness import mix
from luthier.models.kernels import shared_library, word_kernels
from luthier.models.kernels.word_kernels import SHARING, RowGradient, WordKernels
from luthier.objectives import windows
from luthier.objectives.windows import Windows, summed_loss, window_sides

pytestmark = pytest.mark.skipif(not shared_library.can_compile(), reason="there is no C++ compiler")
VOCABULARY = 300


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def some_windows(count: int = 1500, reach: int = 5, samples: int = 32) -> Windows:
    words = (mix("words", np.arange(count + 2 * SHARING)) % np.uint64(VOCABULARY)).astype(np.int64)
    sizes = 1 + (mix("sizes", np.arange(count)) % np.uint64(reach)).astype(np.int32)
    left, right = window_sides(np.arange(count) // 17, sizes)
    noise = (mix("noise", np.arange(len(left) // SHARING * samples)) % np.uint64(VOCABULARY)).astype(np.int64).reshape(-1, samples)
    arrays = (words[: len(left) + 2 * reach].copy(), left, right, noise)
    one, two, three, four = (torch.from_numpy(values) for values in arrays)
    return Windows(one, two, three, four, 5, reach)


def tables(width: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(VOCABULARY, width) / width**0.5, torch.randn(VOCABULARY, width) / width**0.5


def compute(kernels: WordKernels, width: int = 100, **fields: int) -> tuple[float, int, list[Tensor]]:
    step, (one, two) = some_windows(**fields), tables(width)
    loss, words, *gradients = kernels.cbow(one, two, step.words, step.left, step.right, step.noise, step.negatives, step.reach)
    return loss, words, [tensor for each in gradients for tensor in (each.rows, each.values)]


def test_groups_are_those_that_torch_computes_by() -> None:
    assert SHARING == windows.SHARING


@pytest.mark.usefixtures("compiling", "threads")
def test_any_number_of_threads_gives_the_same_bits() -> None:
    found = []
    for number in (1, 2, 3, 5):
        torch.set_num_threads(number)
        found.append(compute(WordKernels()))
    for loss, words, gradients in found[1:]:
        assert (loss, words) == found[0][:2]
        assert all(torch.equal(one, other) for one, other in zip(gradients, found[0][2], strict=True))
    step = some_windows()
    assert found[0][1] == int((step.pairs > 0).sum())


@pytest.mark.parametrize(
    "registers",
    (
        (),
        pytest.param(("-march=x86-64",), marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="an option of x86-64 alone")),
        pytest.param(
            ("-march=native", "-mno-avx512f"), marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="an option of x86-64 alone")
        ),
    ),
    ids=("this processor's", "four numbers", "eight numbers at most"),
)
def test_registers_of_any_width_give_torchs_loss_and_gradients(
    registers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LUTHIER_KERNELS", str(tmp_path))
    if registers:
        others = tuple(flag for flag in shared_library.FLAGS if not flag.startswith("-march"))
        monkeypatch.setattr(shared_library, "FLAGS", others + registers)
    kernels = WordKernels()
    for width, reach, samples in ((100, 5, 32), (7, 1, 1), (33, 32, 40), (64, 3, 16)):
        step, (one, two) = some_windows(reach=reach, samples=samples), tables(width)
        inputs, outputs = one.clone().requires_grad_(), two.clone().requires_grad_()
        expected = summed_loss(inputs, outputs, step, True)
        expected.backward()
        loss, _, gradients = compute(kernels, width, reach=reach, samples=samples)
        assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
        for table, rows, values in ((inputs, *gradients[:2]), (outputs, *gradients[2:])):
            assert table.grad is not None
            assert torch.equal(rows, table.grad._indices()[0])
            assert float((values - table.grad._values()).norm()) < 1e-5 * float(table.grad._values().norm())


@pytest.mark.usefixtures("compiling")
def test_large_scores_lose_what_they_must_and_nothing_overflows() -> None:
    step, (one, two) = some_windows(), tables(16)
    inputs, outputs = (one * 200).requires_grad_(), (two * 200).requires_grad_()
    expected = summed_loss(inputs, outputs, step, True)
    found = summed_loss(inputs, outputs, step, True, WordKernels())
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    found.backward()
    assert inputs.grad is not None and bool(torch.isfinite(inputs.grad._values()).all())


@pytest.mark.usefixtures("compiling", "threads")
def test_adagrad_moves_the_rows_as_torch_does_and_no_others() -> None:
    rows, values = torch.tensor([1, 4, 5, 200]), torch.randn(4, 33, generator=torch.Generator().manual_seed(1))
    theirs = tables(33)[0].requires_grad_()
    optimizer = torch.optim.Adagrad([theirs], lr=0.1)
    for number in (1, 3):
        torch.set_num_threads(number)
        ours, squares = tables(33)[0], torch.zeros(VOCABULARY, 33)
        for _ in range(3):
            WordKernels().adagrad_(ours, squares, RowGradient(rows, values), 0.1, 1e-10)
        still = torch.ones(VOCABULARY, dtype=torch.bool).index_fill(0, rows, False)
        assert torch.equal(ours[still], tables(33)[0][still]) and not squares[still].any()
        if number == 1:
            for _ in range(3):
                theirs.grad = torch.sparse_coo_tensor(rows[None], values, theirs.shape, check_invariants=True)
                optimizer.step()
        assert torch.allclose(ours, theirs.detach(), rtol=1e-5, atol=1e-6)
        assert torch.allclose(squares, optimizer.state[theirs]["sum"], rtol=1e-5)


def test_where_there_is_no_compiler_it_says_so_and_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LUTHIER_KERNELS", str(tmp_path / "new"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not word_kernels.OWN.can_be_had()
    with pytest.raises(ModelError, match="no C\\+\\+ compiler"):
        WordKernels()
