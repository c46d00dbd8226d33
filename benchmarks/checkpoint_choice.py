"""Which look at the validation rows should choose the weights: by accuracy, by the loss, or by the loss at its own temperature.

    python benchmarks/checkpoint_choice.py --data DIR --out FILE.jsonl
    python benchmarks/checkpoint_choice.py --data DIR --out FILE.jsonl --judge

One line a run, with every look at the validation and the test rows; runs that are in the file are not repeated. `--judge` says what each rule
would have shipped, with the run's own patience.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from light import begin, find_known, fit, look, note, way
from luthier.evaluation.score import score
from luthier.studies.decay_branches import with_stable_phase
from luthier.training.devices import configure_torch
from luthier.training.watchers import Signals

NEVER = 10_000
RULES: dict[str, Callable[[dict[str, Any]], tuple[float, ...]]] = {
    "accuracy, then loss": lambda look: (-look["validation_accuracy"], look["validation_loss"]),
    "accuracy, then tempered": lambda look: (-look["validation_accuracy"], look["validation_tempered"]),
    "loss": lambda look: (look["validation_loss"],),
    "tempered": lambda look: (look["validation_tempered"],),
    "the last": lambda look: (-look["step"],),
    "accuracy of the test rows (not to be had)": lambda look: (-look["test_accuracy"],),
}
"""What is smallest at the chosen look."""


def choose(looks: Sequence[dict[str, Any]], rule: Callable[[dict[str, Any]], tuple[float, ...]], patience: int) -> tuple[int, int]:
    """The place of the look that a rule keeps, and of the last look that is made."""
    best, place = 0, 0
    for place in range(1, len(looks)):
        if rule(looks[place]) < rule(looks[best]):
            best = place
        elif place - best >= patience:
            break
    return best, place


def judge(out: Path, patience: int) -> None:
    """What each rule would have shipped."""
    lines = find_known(out)
    for kind in sorted({key[2] for key in lines}):
        runs = [[look for look in found["looks"] if look["counts"]] for key, found in lines.items() if key[2] == kind]
        for name, rule in RULES.items():
            ends = [choose(looks, rule, patience) for looks in runs]
            accuracy, settled = (
                [looks[best][what] for looks, (best, _) in zip(runs, ends, strict=True)] for what in ("test_accuracy", "test_tempered")
            )
            share = np.mean([last + 1 for _, last in ends]) / np.mean([len(looks) for looks in runs])
            print(f"{kind:8} {name:42} test {np.mean(accuracy):.4f}  tempered {np.mean(settled):.4f}  looks {share:.2f}  runs {len(runs)}")


def main() -> None:
    """Fill the file, or read it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["sst2", "banking20", "polarity", "customers", "trec", "subj", "stars", "reviews"])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--tested", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=["falling", "trunk"],
        help="falling: the default; trunk: its rate stays; epochs-N: the default, so long",
    )
    parser.add_argument("--patience", type=int, default=6)
    parser.add_argument("--judge", action="store_true")
    asked = parser.parse_args()
    if asked.judge:
        return judge(asked.out, asked.patience)
    configure_torch()
    done = find_known(asked.out)
    for seed in range(1, asked.seeds + 1):
        for name in asked.sets:
            for kind in asked.kinds:
                if (name, seed, kind) in done:
                    continue
                with tempfile.TemporaryDirectory() as scratch, Signals() as signals:
                    dataset, experiment = begin(asked.data, Path(scratch), name, asked.rows, asked.tested, seed)
                    experiment = experiment.replace("training.patience", NEVER)
                    experiment = with_stable_phase(experiment) if kind == "trunk" else experiment
                    if kind.startswith("epochs-"):
                        experiment = experiment.replace("training.epochs", float(kind.removeprefix("epochs-")))
                    shared = way(Path(scratch) / "way", dataset, experiment, signals)
                    training = fit(shared, Path(scratch) / "run", experiment)
                    looks: list[dict[str, Any]] = []
                    while not training.over:
                        training.advance(min(training.done + training.evaluator.schedule.every, training.work.total))
                        seen, tests = (
                            score(training.work.model, training.work.objective, shared.examples(part)) for part in ("validation", "test")
                        )
                        counts = training.evaluator.schedule.counts(training.done)
                        looks.append({"step": training.done, "counts": counts, **look("validation", seen), **look("test", tests)})
                    note(asked.out, (name, seed, kind), {"looks": looks})
    return None


if __name__ == "__main__":
    main()
