"""One trunk, several ends: what they have in common is the same to the bit."""

from __future__ import annotations

import pytest

from luthier.experiment import Experiment
from luthier.optim.schedules import share_done
from luthier.studies.ends import SHAPES, end, ours, trunk
from luthier.studies.rungs import FALL, LAST, early
from luthier.studies.space import applied


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
@pytest.mark.parametrize("share", [early(0.5), early(0.25), 1.0])
def test_a_branch_has_the_trunks_rates_until_it_leaves_it_and_falls_to_zero(rows, share, shape) -> None:
    whole = trunk(experiment())
    left, values = end(whole, rows, share, shape)
    branch = applied(whole, values)
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
    early_one = applied(experiment(), {"schedule.kind": "wsd", "schedule.until": 0.5, "schedule.decay": 0.1})
    assert (early_one.total_steps(70), early_one.planned_steps(70)) == (30, 60)


def test_the_schedule_is_ours_where_it_is_the_usual_one_and_nobody_has_spoken_of_it() -> None:
    assert ours(experiment(), ["optimizer.lr", "schedule.warmup"])
    assert not ours(experiment(), ["schedule.kind"])
    assert not ours(applied(experiment(), {"schedule.kind": "cosine"}), [])


def test_the_rate_of_a_decoder_with_a_new_head_falls_all_the_way_in_a_search_too(bases) -> None:
    classifies = applied(experiment(), {"data.task": "classification"})
    assert not ours(classifies, [], bases("llama"))
    assert ours(classifies, [], bases("bert"))
    assert ours(applied(experiment(), {"objective.kind": "chat"}), [], bases("llama"))
