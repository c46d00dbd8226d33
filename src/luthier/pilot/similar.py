"""How near a task is to what each base knows, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luthier.core.errors import ExperimentError
from luthier.core.interfaces import Face, Silent
from luthier.core.randomness import permutation
from luthier.core.run import Clock
from luthier.data.intake import take_in
from luthier.data.split import folds
from luthier.models.encode import layers
from luthier.models.store import resolve
from luthier.pilot.asking import asked_for
from luthier.studies.defaults import BASES
from luthier.studies.similarity import FOLDS, MOST_ROWS, Depth, Floor, chances, depth, floors

TIE = 0.2
"""A base whose chance to be the best is this great is as good as the best as far as can be told: the smallest of them is proposed."""


@dataclass(frozen=True)
class Similar:
    """What a base knows of a task.

    Args:
        base: its name.
        megabytes: of its weights.
        floors: what each floor tells.
        chance: of being the best of those looked at.
        depth: how many blocks may stay frozen.
        seconds: it took.
    """

    base: str
    megabytes: float
    floors: list[Floor]
    chance: float
    depth: Depth
    seconds: float

    @property
    def best(self) -> Floor:
        """The floor whose probe is right most often."""
        return max(self.floors, key=lambda floor: floor.probe)

    def value(self) -> dict:
        """As JSON can hold it."""
        told = [{name: value for name, value in vars(floor).items() if name != "right"} for floor in self.floors]
        return {
            "base": self.base,
            "megabytes": self.megabytes,
            "chance": self.chance,
            "depth": vars(self.depth),
            "seconds": self.seconds,
            "floors": told,
        }


def similar(
    data: str | Path,
    bases: Sequence[str] = (),
    *,
    target: str | None = None,
    input: str | Sequence[str] | None = None,
    set: Sequence[str] = (),
    face: Face | None = None,
) -> list[Similar]:
    """Read up to 2,000 rows with each base once, and say how well each of its floors tells the classes.

    Args:
        data: a file of rows with classes, or a folder.
        bases: names from `luthier models list`, folders, bundles or hub ids; the embedded encoder when empty.
        target: the column to be learned; inferred when not given.
        input: the column or columns that are read; inferred when not given.
        set: changes to the experiment, each "path=value".
        face: where progress is shown.

    Returns:
        The bases, the proposed one first.

    Raises:
        LuthierError: the rows cannot be read, or have no classes.
    """
    face = face or Silent()
    face.stage("data", str(data))
    intake = take_in(asked_for(data, target=target, input=input, set=set, say=face.say), checks=())
    if intake.spec.task != "classification":
        raise ExperimentError(
            f"{intake.reason}: similarity is read off classes, and these rows have none of text", "give rows with a label column"
        )
    unsealed = [*intake.records["train"], *intake.records["validation"]]
    chosen = sorted(permutation(len(unsealed), intake.spec.split_seed, "similar")[:MOST_ROWS].tolist())
    records = [unsealed[place] for place in chosen]
    texts = ["\n\n".join(str(record.values.get(name) or "") for name in intake.spec.input) for record in records]
    number = {label: place for place, label in enumerate(sorted({str(record.values[intake.spec.target or ""]) for record in records}))}
    labels = np.array([number[str(record.values[intake.spec.target or ""])] for record in records])
    parts = folds([intake.together[record.source, record.row] for record in records], labels.tolist(), FOLDS, intake.spec.split_seed)
    found: list[Similar] = []
    for name in bases or [BASES["classification"]]:
        clock = Clock()
        face.stage("base", f"{name}: one pass over {len(texts):,} rows")
        base = resolve(name, face.say)
        seen = floors(layers(base, texts), labels, parts)
        size = (base.folder / "model.safetensors").stat().st_size / 1e6
        found.append(Similar(name, round(size, 1), seen, 1.0, depth(seen, len(intake.records["train"])), round(clock(), 2)))
    shares = chances([one.best.right for one in found])
    told = [Similar(**{**vars(one), "chance": share}) for one, share in zip(found, shares, strict=True)]
    most = max(one.chance for one in told)
    return sorted(told, key=lambda one: (one.chance < min(TIE, most), one.megabytes if one.chance >= TIE else -one.chance))
