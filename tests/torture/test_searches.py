"""Searches over several workers: one that is killed, a coordinator that is stopped, a machine of the cluster that is lost (R50–R53)."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from luthier.core.interfaces import NullReporter
from luthier.core.study import Study
from tests.pilot.test_search import ledger, table, weights

__all__ = ["table"]


def run_search(table: Path, bases: Any, out: Path, **more: Any) -> Study:
    given: dict[str, Any] = {
        "trials": 4,
        "set": ["training.epochs=16", "training.batch_size=8", "training.patience=1000"],
        "force": True,
        "workers": 2,
    }
    return luthier.search(table, base=str(bases("bert").folder), out=out, **{**given, **more})


@pytest.fixture(scope="module")
def study(table: Path, bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_search(table, bases, tmp_path_factory.mktemp("studies") / "study")


def workers() -> list[int]:
    """The processes that work for this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"luthier.studies.worker" in line and parent == os.getpid():
                found.append(int(folder.name))
    return found


class At(NullReporter):
    """Does something when a line has been said so many times."""

    def __init__(self, turn: int, act: Callable[[], None]) -> None:
        self.left, self.act = turn, act

    def say(self, line: str) -> None:
        if line.startswith(("  trial", "  after")):
            self.left -= 1
            if self.left == 0:
                self.act()


def test_workers_that_are_killed_change_neither_the_trials_nor_the_bits(study: Study, table: Path, bases: Any, tmp_path: Path) -> None:
    def kill() -> None:
        assert workers()
        for process in workers():
            os.kill(process, signal.SIGKILL)

    again = run_search(table, bases, tmp_path / "again", reporter=At(2, kill))
    assert ledger(again) == ledger(study)
    assert again.winner is not None
    assert study.winner is not None
    assert weights(again.winner) == weights(study.winner)
    assert not workers()


def test_a_coordinator_that_is_stopped_goes_on_with_the_same_trials(study: Study, table: Path, bases: Any, tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(table, bases, tmp_path / "cut", reporter=At(3, stop))
    assert not workers()
    again = luthier.resume(tmp_path / "cut")
    assert isinstance(again, Study)
    assert ledger(again) == ledger(study)
    assert again.winner is not None
    assert study.winner is not None
    assert weights(again.winner) == weights(study.winner)


@pytest.mark.filterwarnings("default")
def test_a_machine_of_a_ray_cluster_that_is_lost_changes_neither_the_trials_nor_the_bits(
    study: Study, table: Path, bases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines of a real cluster, one of which is killed while both work."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))  # as the processes of the study above
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": torch.get_num_threads(), "include_dashboard": False})
    lost: list[int] = []

    def lose(second: Any) -> None:
        at_work = [tmp_path / "afar" / "trials" / name / ".lock" for name in ("000", "001")]
        while not all(file.exists() for file in at_work):
            time.sleep(0.02)
        lost.append(len(Study(tmp_path / "afar").entries_named("standing")))
        cluster.remove_node(second, allow_graceful=False)

    try:
        second = cluster.add_node(num_cpus=torch.get_num_threads())
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
        threading.Thread(target=lose, args=(second,), daemon=True).start()
        found = run_search(table, bases, tmp_path / "afar", backend="ray")
    finally:
        ray.shutdown()
        cluster.shutdown()
        torch.set_num_threads(threads)
    assert lost == [0]  # while both were at work
    assert ledger(found) == ledger(study)
    assert found.winner is not None
    assert study.winner is not None
    assert weights(found.winner) == weights(study.winner)
    assert not found.winner.events_named("inexact")


@pytest.mark.filterwarnings("default")
def test_ray_tune_drives_trials_and_its_asha_stops_some(table: Path, bases: Any, tmp_path: Path) -> None:
    pytest.importorskip("ray.tune")
    import ray
    from ray import tune

    made = luthier.bench(table, base=str(bases("bert").folder), out=tmp_path / "study", set=["training.epochs=8", "training.batch_size=8", "training.patience=1000"])  # fmt: skip
    ray.init(num_cpus=torch.get_num_threads(), include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        scheduler = tune.schedulers.ASHAScheduler(time_attr="training_iteration", max_t=4, grace_period=1, reduction_factor=2)
        tuner = tune.Tuner(
            tune.with_resources(made.trainable, {"cpu": torch.get_num_threads()}),
            param_space={"optimizer.lr": tune.grid_search([1e-3, 1e-4, 1e-5, 3e-2])},
            tune_config=tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler),
            run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0),
        )
        found = tuner.fit()
    finally:
        ray.shutdown()
    assert not found.errors
    shares = [result.metrics["share"] for result in found if result.metrics]
    assert max(shares) == 1.0
    assert min(shares) < 1.0
    best = found.get_best_result()
    assert best.metrics is not None
    (alone,) = [loss for share, loss in made.curve(best.config or {}, 900) if share == best.metrics["share"]]
    assert alone == pytest.approx(best.metrics["loss"], rel=1e-6)
