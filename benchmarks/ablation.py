"""What the default, the prior, the rungs and the paired tests of a search each contribute, on the sets of its comparison.

    python benchmarks/ablation.py --data DIR --out DIR [--judge]

Trains a pool of rates on each set: the default, draws from its prior, and draws evenly over all that the search may take. Each leaves a trunk as in a search, and the
losses of every validation row are kept at each rung. A run that is there is not repeated. `--judge` trains nothing: every search of so many trials that
the pool has, as the product decides it and with one part taken out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from ends import fork
from light import begin, draw, find_known, fit, look, note, way
from luthier.core.randomness import mix
from luthier.evaluation.score import score
from luthier.evaluation.temperature_scaled import temperature_scaled_loss
from luthier.studies.decay_branches import decay_branch, with_stable_phase
from luthier.studies.defaults import space_for
from luthier.studies.propose import FROM_PRIOR
from luthier.studies.rungs import LAST, Rung, Standing, cost_of, decide, end_of_decay, rungs_for
from luthier.studies.space import apply_values
from luthier.training.devices import configure_torch
from luthier.training.train import Fit
from luthier.training.watchers import Signals

SETS = ("sst2", "subj", "trec", "banking20", "agnews")
EPOCHS, BATCH = 5.0, 16
LOOKS = (1 / 4, LAST)
"""Shares of a run at which the pool is looked at; beside the early end, and the whole run."""
STRIDE = 4
"""Steps between the weights that are averaged."""


def rates(experiment: Any, prior: int, anywhere: int) -> dict[str, float]:
    """The pool of a set: name → rate."""
    space, _ = space_for(experiment, 3, ends=True)
    (rate,) = space
    values = [point[rate.path] for point in draw(space, prior + 1, round(prior / FROM_PRIOR) + 1)]
    found = {"default": values[0], **{f"prior-{number}": value for number, value in enumerate(values[1:], 1)}}
    for number in range(1, anywhere + 1):
        place = (number - 1 + float(mix("ablation", number)) / 2.0**64) / anywhere
        found[f"anywhere-{number}"] = rate.at(min(max(place, 1e-6), 1 - 1e-6))
    return found


def train(asked: Any) -> None:
    """Fill the pool."""
    names = ["default", *(f"{kind}-{number}" for kind, count in (("prior", asked.prior), ("anywhere", asked.anywhere)) for number in range(1, count + 1))]  # fmt: skip
    for seed, trial, name in itertools.product(asked.seeds, sorted(names, key=lambda one: one.partition("-")[2]), asked.sets):
        if (name, trial, seed) in find_known(asked.out / "pool.jsonl"):
            continue
        with tempfile.TemporaryDirectory() as scratch, Signals() as signals:
            dataset, experiment = begin(asked.data, Path(scratch), name, asked.rows, asked.tested, seed)
            experiment = with_stable_phase(experiment.replace("training.epochs", EPOCHS).replace("training.batch_size", BATCH))
            rate = rates(experiment, asked.prior, asked.anywhere)[trial]
            experiment = apply_values(experiment, {"optimizer.lr": rate})
            shared = way(Path(scratch) / "way", dataset, experiment, signals)
            training = fit(shared, Path(scratch) / "trunk", experiment)
            losses: dict[str, np.ndarray] = {}
            for share in LOOKS:
                losses[f"{share:g}"], losses[f"averaged-{share:g}"] = looks(training, round(share * training.work.total))
            steps, values = decay_branch(experiment, len(dataset.records["train"]), end_of_decay(LAST))
            training.advance(steps)
            training.save_checkpoint()
            branch = fork(shared, training, Path(scratch) / "early", apply_values(experiment, values))
            found: dict[str, Any] = {"rate": rate, "steps": training.work.total}
            for what, run in (("early", branch), ("whole", training)):
                run.finish()
                seen = score(run.work.model, run.work.objective, run.work.validation)
                losses[what] = temperature_scaled_loss(seen)
                tests = look("test", score(run.work.model, run.work.objective, shared.examples("test")))
                found |= {f"{what}_{key}": value for key, value in {**look("validation", seen), **tests}.items()}
            np.savez_compressed(asked.out / f"{name}-{trial}-{seed}.npz", allow_pickle=False, **losses)
            note(asked.out / "pool.jsonl", (name, trial, seed), found)


def looks(training: Fit, until: int) -> tuple[np.ndarray, np.ndarray]:
    """The validation losses of the weights after so many steps, and of their mean over the second half of these steps, which stands for a rate that has fallen."""
    masters, work = training.work.masters, training.work
    sums = {name: torch.zeros_like(weight) for name, weight in masters.weights().items()}
    count = 0
    while training.done < until:
        training.advance(min(training.done + STRIDE, until))
        if training.done > until / 2:
            count += 1
            for name, weight in masters.weights().items():
                sums[name] += weight
    now = temperature_scaled_loss(score(work.model, work.objective, work.validation))
    kept = {name: weight.clone() for name, weight in masters.weights().items()}
    masters.restore({name: whole / count for name, whole in sums.items()})
    averaged = temperature_scaled_loss(score(work.model, work.objective, work.validation))
    masters.restore(kept)
    return now, averaged


class Pool:
    """The runs of a set."""

    def __init__(self, folder: Path, name: str, seed: int) -> None:
        self.runs = {trial: found for (of, trial, at), found in find_known(folder / "pool.jsonl").items() if (of, at) == (name, seed)}
        self.losses = {trial: dict(np.load(folder / f"{name}-{trial}-{seed}.npz")) for trial in self.runs}

    def of(self, kind: str) -> list[str]:
        return [trial for trial in self.runs if trial.startswith(kind)]

    def searches(
        self, count: int, rungs: Sequence[Rung], kind: str = "prior", default: bool = True, paired: bool = True, averaged: bool = False
    ) -> np.ndarray:
        """What every search of so many trials finds, # (searches, 3): test accuracy, tempered loss, cost in runs

        Args:
            count: trials of a search.
            rungs: where they are compared.
            kind: what they are drawn from.
            default: is one of them; it stays as long as a challenger does, and wins ties.
            paired: a lead within the noise of the differences on the same rows is a tie.
            averaged: while the rate stays, the mean of the weights is compared, not the last ones.
        """
        found = []
        for some in itertools.combinations(self.of(kind), count - default):
            trials = dict(enumerate(["default", *some])) if default else dict(enumerate(some, 1))
            alive = list(trials)
            for rung in rungs:
                at = "early" if rung.falls else "whole" if rung.share == 1 else f"{'averaged-' if averaged else ''}{rung.share:g}"
                losses = {number: self.losses[trials[number]][at] for number in alive}
                standings = [Standing(number, float(each.mean()), each if paired else None) for number, each in losses.items()]
                alive = list(decide(standings, rung.kept).kept)
            found.append((*self.tested(trials[alive[0]]), cost_of(rungs)))
        return np.array(found)

    def tested(self, trial: str) -> tuple[float, float]:
        return self.runs[trial]["whole_test_accuracy"], self.runs[trial]["whole_test_tempered"]


def judge(asked: Any) -> None:
    """Mean over the searches of a set and seed, then over both; `worst` is the mean of each one's worst search, `gain` that over the search as it is, by seed."""
    told: dict[str, dict[tuple[int, str], np.ndarray]] = {}
    ranks: dict[str, list[float]] = {}
    for seed, name in itertools.product(asked.seeds, asked.sets):
        pool = Pool(asked.out, name, seed)
        if "default" not in pool.runs or min(len(pool.of("prior")), len(pool.of("anywhere"))) < asked.trials:
            continue
        rungs, whole = rungs_for(asked.trials, 0.1, pool.runs["default"]["steps"], ends=True), [Rung(1.0, asked.trials, 1)]
        found = {
            "the search": pool.searches(asked.trials, rungs),
            "draws from anywhere": pool.searches(asked.trials, rungs, "anywhere"),
            "without the default": pool.searches(asked.trials, rungs, default=False),
            "without default and prior": pool.searches(asked.trials, rungs, "anywhere", default=False),
            "with averaged weights": pool.searches(asked.trials, rungs, averaged=True),
            "without rungs": pool.searches(asked.trials, whole),
            "without paired tests": pool.searches(asked.trials, rungs, paired=False),
            "the default alone": np.array([(*pool.tested("default"), 1.0)]),
            "the best of the pool": np.array([(*max(pool.tested(trial) for trial in pool.runs), len(pool.runs))]),
        }
        for variant, searches in found.items():
            told.setdefault(variant, {})[seed, name] = searches
        for at in ("0.25", "averaged-0.25", "0.5", "averaged-0.5", "early", "whole"):
            scores = [-float(pool.losses[trial][at].mean()) for trial in pool.runs]
            tests = [pool.tested(trial)[0] for trial in pool.runs]
            ranks.setdefault(at, []).append(float(np.corrcoef(rankdata(scores), rankdata(tests))[0, 1]))
    for at, found in ranks.items():
        print(
            json.dumps({"validation loss": at, "rank correlation with test accuracy": round(float(np.mean(found)), 3), "pools": len(found)})
        )
    for variant, pools in told.items():
        accuracy, loss, runs = np.mean([searches.mean(0) for searches in pools.values()], 0)
        worst = np.mean([searches[:, 0].min() for searches in pools.values()])
        gains = [
            float(np.mean([searches[:, 0].mean() - told["the search"][at][:, 0].mean() for at, searches in pools.items() if at[0] == seed]))
            for seed in sorted({seed for seed, _ in pools})
        ]
        print(json.dumps({"variant": variant, "pools": len(pools), "accuracy": round(float(accuracy), 4), "worst": round(float(worst), 4),
                          "tempered": round(float(loss), 4), "runs": round(float(runs), 2), "gain": [round(100 * gain, 2) for gain in gains]}))  # fmt: skip


def main() -> None:
    """Train the pool, or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--prior", type=int, default=4, help="draws from the prior")
    parser.add_argument("--anywhere", type=int, default=4, help="draws from all that the search may take")
    parser.add_argument("--trials", type=int, default=3, help="of a search that is judged")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--judge", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    configure_torch()
    judge(asked) if asked.judge else train(asked)


if __name__ == "__main__":
    main()
