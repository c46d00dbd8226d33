"""What a trunk with several ends is worth: the same run, ended after a quarter, a half and the whole of its epochs, beside a rate that falls all the way.

    python benchmarks/ends.py --data DIR --out FILE.jsonl

One line a run; runs that are in the file are not repeated. `luthier train` says the same of each end as the fork that is measured here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from light import fit, told, way
from luthier.data.intake import take_in
from luthier.data.spec import Data
from luthier.experiment import Experiment
from luthier.studies.defaults import choose
from luthier.studies.space import applied
from luthier.training.devices import exact
from luthier.training.watchers import Signals
from sets import files

SHARE = 0.3
"""Of an end's own length, over which the rate falls."""
ENDS = ((0.25, "linear"), (0.5, "linear"), (1.0, "linear"), (1.0, "cosine"))
RATES = (1.0, 0.4, 2.5)


def ended(experiment: Experiment, until: float, shape: str) -> Experiment:
    """The experiment with a constant rate and this end."""
    values = {"schedule.kind": "wsd", "schedule.until": until, "schedule.decay": SHARE * until, "schedule.shape": shape}
    return applied(experiment, values)


def main() -> None:
    """Fill the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["polarity", "customers", "stars", "reviews"])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    exact()
    known = {tuple(json.loads(line)["key"]) for line in asked.out.read_text().splitlines()} if asked.out.exists() else set()
    for seed in range(1, asked.seeds + 1):
        for scale in RATES:
            for name in asked.sets:
                with tempfile.TemporaryDirectory() as scratch, Signals() as signals:
                    train, test = files(asked.data, Path(scratch), name, asked.rows, 1000)
                    intake = take_in(Data(path=str(train), test=str(test), validation_share=0.2, allow_leakage=True), checks=())
                    experiment, _ = choose(intake, None, None, seed)
                    experiment = experiment.replace("training.dtype", "float32")
                    experiment = applied(experiment, {"optimizer.lr": scale * 1e-4})
                    shared = way(Path(scratch) / "way", intake, experiment, signals)

                    def note(what: str, found: dict[str, Any], key: tuple[Any, ...] = (name, seed, scale)) -> None:
                        line = json.dumps({"key": [*key, what], **found})
                        print(line, flush=True)
                        with asked.out.open("a") as handle:
                            handle.write(line + "\n")

                    if (name, seed, scale, "falling") not in known:
                        note("falling", told(shared, fit(shared, Path(scratch) / "falling", experiment)))
                    if (name, seed, scale, "1.0-cosine") in known:
                        continue
                    trunk = fit(shared, Path(scratch) / "trunk", ended(experiment, 1.0, "linear"))
                    for until, shape in ENDS:
                        start = until * (1 - SHARE)
                        if round(start * trunk.work.total) > trunk.done:
                            trunk.advance(round(start * trunk.work.total))
                            trunk.keep()
                        place = Path(scratch) / f"end-{until}-{shape}"
                        shutil.copytree(trunk.run.folder / "checkpoints", place / "checkpoints")
                        end = fit(shared, place, ended(experiment, until, shape))
                        assert end.done == trunk.done, (end.done, trunk.done)
                        note(f"{until}-{shape}", told(shared, end))


if __name__ == "__main__":
    main()
