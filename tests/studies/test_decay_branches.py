"""One trunk, several ends: what they have in common is the same to the bit."""

from __future__ import annotations

import pytest

from luthier.experiment import Experiment
from luthier.optim.schedules import share_done
from luthier.studies.decay_branches import SHAPES, decay_branch, may_set_schedule, with_stable_phase
from luthier.studies.rungs import FALL, LAST, end_of_decay
from luthier.studies.space import apply_values


def experiment(epochs: float = 6.0, warmup: float = 0.1) -> Experiment:
    return Experiment.of(
        {
            "data": {"path": "rows.csv"},
            "objective": {"kind": "classification"},
            "adaptation": {"kind": "full"},
            "optimizer": {"kind": "adamw", "lr": 1e-4},
            "schedule": {"kind": "linear", "warmup": warmup},
            "training": {"epochs": epochs, "batch_size": 7},
        }
    )


@pytest.mark.parametrize("rows", [30, 95, 161, 800, 4_321, 70_007])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [end_of_decay(0.5), end_of_decay(0.25), 1.0])
def test_a_branch_has_the_trunks_rates_until_it_leaves_it_and_falls_to_zero(rows, share, shape) -> None:
    whole = with_stable_phase(experiment())
    left, values = decay_branch(whole, rows, share, shape)
    branch = apply_values(whole, values)
    planned, total = whole.planned_steps(rows), branch.total_steps(rows)
    assert branch.planned_steps(rows) == planned == whole.total_steps(rows)
    assert left == max(1, round((LAST if share == 1 else round(share * (1 - FALL), 6)) * planned))
    before, after = ([each.schedule.factor(share_done(step, planned)) for step in range(total)] for each in (whole, branch))
    assert before[:left] == after[:left]  # equal, not nearly so
    falling = after[left:]
    assert total == pytest.approx(share * planned, abs=1.5)
    assert all(now < then for then, now in zip([1.0, *falling], falling, strict=False))
    assert falling[-1] < 4 / max(len(falling), 4)
    if share == 1.0 and shape == "linear":
        assert before[left + 1 :] == pytest.approx(after[left + 1 :], abs=2 / len(falling))  # the trunk's own end


def test_a_run_that_ends_early_is_that_much_shorter_and_the_others_are_as_they_were() -> None:
    assert experiment().total_steps(70) == experiment().planned_steps(70) == 60
    early_one = apply_values(experiment(), {"schedule.kind": "wsd", "schedule.until": 0.5, "schedule.decay": 0.1})
    assert (early_one.total_steps(70), early_one.planned_steps(70)) == (30, 60)


def test_the_schedule_is_ours_where_it_is_the_usual_one_and_nobody_has_spoken_of_it() -> None:
    assert may_set_schedule(experiment(), ["optimizer.lr", "schedule.warmup"])
    assert not may_set_schedule(experiment(), ["schedule.kind"])
    assert not may_set_schedule(apply_values(experiment(), {"schedule.kind": "cosine"}), [])


def test_the_rate_of_a_decoder_with_a_new_head_falls_all_the_way_in_a_search_too(bases) -> None:
    classifies = apply_values(experiment(), {"data.task": "classification"})
    assert not may_set_schedule(classifies, [], bases("llama"))
    assert may_set_schedule(classifies, [], bases("bert"))
    assert may_set_schedule(apply_values(experiment(), {"objective.kind": "chat"}), [], bases("llama"))
