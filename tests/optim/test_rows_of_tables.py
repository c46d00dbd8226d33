"""Of a table whose gradient is sparse only the rows move that a step has read; torch's optimizer over the whole table says the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from luthier.core.errors import ExperimentError
from luthier.optim.masters import Masters
from luthier.optim.optimizers import Adagrad, AdamW

READ = (torch.tensor([1, 3, 3]), torch.tensor([3, 5]))


def network(sparse: bool) -> Any:
    torch.manual_seed(0)
    return nn.ModuleDict({"table": nn.Embedding(8, 4, sparse=sparse)})


def take(spec: object, sparse: bool) -> torch.Tensor:
    """The table after two steps of the masters."""
    made = network(sparse)
    masters = Masters(made, spec, torch.float32, {"table.weight"}, lambda name: 1.0)
    for rows in READ:
        with masters.collecting():
            made["table"](rows).square().sum().backward()
        assert masters.step(2.0, 0.5) > 0
    return made["table"].weight.detach()


def make_plain(spec: object) -> torch.Tensor:
    """The same by torch alone."""
    made = network(False)
    kind = torch.optim.Adagrad if isinstance(spec, Adagrad) else torch.optim.AdamW
    optimizer = kind(made.parameters(), lr=0.05, eps=spec.eps, weight_decay=0.0)  # type: ignore[attr-defined]
    for rows in READ:
        optimizer.zero_grad()
        (made["table"](rows).square().sum() / 2).backward()
        optimizer.step()
    return made["table"].weight.detach()


@pytest.mark.parametrize("spec", [Adagrad(lr=0.1, clip=0.0), AdamW(lr=0.1, clip=0.0, weight_decay=0.0)])
@pytest.mark.parametrize("sparse", [True, False])
def test_two_steps_are_torchs(spec: object, sparse: bool) -> None:
    assert torch.allclose(take(spec, sparse), make_plain(spec), atol=1e-6)


def test_rows_that_were_not_read_stay_and_the_norm_counts_each_row_once() -> None:
    before, after = network(True)["table"].weight.detach(), take(Adagrad(lr=0.1, clip=0.0), True)
    assert [row for row in range(8) if torch.equal(before[row], after[row])] == [0, 2, 4, 6, 7]
    norms = []
    for sparse in (True, False):
        made = network(sparse)
        masters = Masters(made, Adagrad(lr=0.1), torch.float32, {"table.weight"}, lambda name: 1.0)
        with masters.collecting():
            made["table"](READ[0]).square().sum().backward()
        norms.append(masters.step(1.0, 1.0))
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_weight_decay_would_move_all_rows_and_is_refused() -> None:
    with pytest.raises(ExperimentError, match="pulls at every row"):
        take(Adagrad(lr=0.1, weight_decay=0.1), True)
