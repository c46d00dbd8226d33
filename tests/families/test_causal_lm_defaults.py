"""Where a language model from scratch starts from: its size by the budget or one dial, its learning rate and batch by the Step Law."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import ExperimentError
from luthier.core.interfaces import NullReporter
from luthier.core.types import Record
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset
from luthier.models.causal import parameters
from luthier.pilot.stages.options import choose_experiment
from tests.families.test_causal_lm import novel


@pytest.fixture(autouse=True)
def a_known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.models.machine_speed.training_operations_per_second", lambda: 4e10)


def much_text(folder: Path, words: int) -> Any:
    """Rows of which the training part has five times so many characters."""
    dataset = load_dataset(Data(path=str(novel(folder)), task="causal_lm"), checks=())
    dataset.records["train"] = [Record(1, {"text": "word " * words})]
    return dataset


@pytest.mark.parametrize("seconds, depth", [(None, 4), (1e7, 4), (6_000.0, 3), (20.0, 2)])
def test_a_budget_decides_size_rate_and_batch_of_a_network_from_scratch(tmp_path: Path, seconds: float | None, depth: int) -> None:
    one_pass = 5 * 4_000_000 / 3.4
    found: Any
    found, choices = choose_experiment(much_text(tmp_path, 4_000_000), None, (), 1, NullReporter(), seconds)
    assert found.objective.depth == depth
    weights = parameters(depth, 64 * depth)
    carried = math.inf if seconds is None else 0.5 * seconds * 4e10 / (6 * (weights + 4_000 * 64 * depth))
    assert carried >= one_pass or depth == 2
    deeper = parameters(depth + 1, 64 * (depth + 1)) + 4_000 * 64 * (depth + 1)
    assert depth == 4 or 0.5 * (seconds or 0) * 4e10 / (6 * deeper) < one_pass
    tokens = min(3 * one_pass, carried)
    assert found.optimizer.lr == pytest.approx(min(4e-3, 1.79 * weights**-0.713 * tokens**0.307), rel=0.02)
    assert found.training.batch_size == max(1, round(min(0.58 * tokens**0.571, tokens / 100) / 256))
    assert ("seconds of this machine carry" in next(choice.reason for choice in choices if choice.path == "objective.depth")) == (depth < 4)


@pytest.mark.parametrize("seconds", [None, 600.0])
@pytest.mark.parametrize("set", [["objective.depth=12"], ["objective.depth=12", "objective.context=512", "training.epochs=1"]])
def test_a_size_that_is_set_by_hand_brings_the_step_laws_rate_and_batch(tmp_path: Path, set: list[str], seconds: float | None) -> None:
    dataset, epochs, context = much_text(tmp_path, 4_000_000), (1 if len(set) > 1 else 3), (512 if len(set) > 1 else 256)
    found: Any
    found, choices = choose_experiment(dataset, None, set, 1, NullReporter(), seconds)
    weights = parameters(12, 768)
    tokens = 5 * 4_000_000 / 3.4 * epochs
    if seconds is not None:
        tokens = min(tokens, 0.5 * seconds * 4e10 / (6 * (weights + 4_000 * 768)))
    assert found.optimizer.lr < 4e-3
    assert found.optimizer.lr == pytest.approx(1.79 * weights**-0.713 * tokens**0.307, rel=0.05)
    assert found.training.batch_size == max(1, round(min(0.58 * tokens**0.571, tokens / 100) / context))
    assert len({choice.path for choice in choices}) == len(choices)
    own: Any = choose_experiment(dataset, None, [*set, "optimizer.lr=0.001", "training.batch_size=7"], 1, NullReporter(), seconds)[0]
    assert (own.optimizer.lr, own.training.batch_size) == (0.001, 7)


def test_a_base_keeps_its_size_whatever_the_budget(tmp_path: Path, bases: Any) -> None:
    dataset, base = much_text(tmp_path, 100_000), str(bases("llama").folder)
    assert (
        choose_experiment(dataset, base, (), 1, NullReporter(), 20.0)[0]
        == choose_experiment(dataset, base, ["objective.depth=4"], 1, NullReporter())[0]
    )


def test_a_dial_that_stands_in_another_section_is_named_with_it(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"there is no field 'model\.depth'") as caught:
        choose_experiment(much_text(tmp_path, 1_000), None, ["model.depth=4"], 1, NullReporter())
    assert caught.value.remedy == "did you mean 'objective.depth'?"
