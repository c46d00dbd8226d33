"""What a trunk with several ends is worth: the same run, ended after a quarter, a half and the whole of its epochs, beside a rate that falls all the way.

    python benchmarks/ends.py --data DIR --out FILE.jsonl

One line a run; runs that are in the file are not repeated. `luthier train` says the same of each end as the fork that is measured here.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from light import begin, find_known, fit, note, tell, way
from luthier.experiment import Experiment
from luthier.pilot.stages.context import RunContext
from luthier.studies.space import apply_values
from luthier.training.devices import configure_torch
from luthier.training.train import Fit
from luthier.training.watchers import Signals

SHARE = 0.3
"""Of an end's own length, over which the rate falls."""
ENDS = ((0.25, "linear"), (0.5, "linear"), (1.0, "linear"), (1.0, "cosine"))
RATES = (1.0, 0.4, 2.5)


def end(experiment: Experiment, until: float, shape: str, share: float = SHARE) -> Experiment:
    """The experiment with a constant rate and this end."""
    values = {"schedule.kind": "wsd", "schedule.until": until, "schedule.decay": share * until, "schedule.shape": shape}
    return apply_values(experiment, values)


def fork(shared: RunContext, trunk: Fit, place: Path, experiment: Experiment) -> Fit:
    """A training that goes on from where a trunk stands."""
    shutil.copytree(trunk.run.folder / "checkpoints", place / "checkpoints")
    end = fit(shared, place, experiment)
    assert end.done == trunk.done, (end.done, trunk.done)
    return end


def falls(out: Path, key: tuple[Any, ...], shared: RunContext, scratch: Path, experiment: Experiment, shares: Sequence[float]) -> None:
    """One trunk, whose rate begins to fall sooner or later; all come to the end."""
    experiment = experiment.replace("training.patience", 1000)
    trunk = fit(shared, scratch / "trunk", end(experiment, 1.0, "linear", 0.01))
    for share in sorted(shares, reverse=True):
        trunk.advance(round((1 - share) * trunk.work.total))
        trunk.save_checkpoint()
        note(
            out,
            (*key, f"fall-{share}"),
            tell(shared, fork(shared, trunk, scratch / f"fall-{share}", end(experiment, 1.0, "linear", share))),
        )


def main() -> None:
    """Fill the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["polarity", "customers", "stars", "reviews"])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--falls", type=float, nargs="*", default=[], help="instead: over which shares of the run the rate falls")
    asked = parser.parse_args()
    configure_torch()
    done = find_known(asked.out)
    for seed in range(1, asked.seeds + 1):
        for scale in RATES[:1] if asked.falls else RATES:
            for name in asked.sets:
                with tempfile.TemporaryDirectory() as scratch, Signals() as signals:
                    dataset, experiment = begin(asked.data, Path(scratch), name, asked.rows, 1000, seed)
                    experiment = apply_values(experiment, {"optimizer.lr": scale * 1e-4})
                    shared = way(Path(scratch) / "way", dataset, experiment, signals)

                    if (name, seed, scale, "falling") not in done:
                        note(asked.out, (name, seed, scale, "falling"), tell(shared, fit(shared, Path(scratch) / "falling", experiment)))
                    if asked.falls:
                        if (name, seed, scale, f"fall-{min(asked.falls)}") not in done:
                            falls(asked.out, (name, seed, scale), shared, Path(scratch), experiment, asked.falls)
                        continue
                    if (name, seed, scale, "1.0-cosine") in done:
                        continue
                    trunk = fit(shared, Path(scratch) / "trunk", end(experiment, 1.0, "linear"))
                    for until, shape in ENDS:
                        start = until * (1 - SHARE)
                        if round(start * trunk.work.total) > trunk.done:
                            trunk.advance(round(start * trunk.work.total))
                            trunk.save_checkpoint()
                        place = Path(scratch) / f"end-{until}-{shape}"
                        note(
                            asked.out,
                            (name, seed, scale, f"{until}-{shape}"),
                            tell(shared, fork(shared, trunk, place, end(experiment, until, shape))),
                        )


if __name__ == "__main__":
    main()
