"""What is asked for, and what follows from it where nothing was said."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from luthier.core.interfaces import Silent
from luthier.pilot.stages.asking import default_for


def written(folder: Path, count: int, classes: int) -> Path:
    path = folder / "rows.csv"
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows(
            [("text", "label"), *((f"note {row} of topic {row % classes}", f"topic {row % classes}") for row in range(count))]
        )
    return path


@pytest.mark.parametrize(
    "count, classes, set, batch",
    [
        (1250, 2, (), 32),
        (1250, 20, (), 16),  # more classes need more steps
        (375, 2, (), 16),
        (1250, 2, ("training.epochs=1",), 4),  # a choice that hangs on another follows it
        (1250, 2, ("training.epochs=1", "training.batch_size=64"), 64),
    ],
)
def test_a_step_has_as_many_rows_as_leave_the_run_steps_enough(
    tmp_path: Path, count: int, classes: int, set: tuple[str, ...], batch: int
) -> None:
    experiment, _, choices = default_for(written(tmp_path, count, classes), set, Silent(), target=None, input=None, base=None, task=None, seed=1)  # fmt: skip
    assert experiment.training.batch_size == batch
    assert [choice.value for choice in choices if choice.path == "training.batch_size"] in ([batch], [str(batch)])
