"""A trial that a worker computes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from luthier.core.errors import DiskFailed, DiskFull, RunError
from luthier.studies.backends import Backend
from luthier.studies.successive_halving import Trial

PATIENCE = 300.0
"""Seconds after which a worker that says nothing is given up, at least; else twenty times what its share was reckoned to take."""


class RemoteTrial:
    """A trial that others compute: here are its name and its folder.

    Args:
        study: the folder of the study.
        folder: of the trial.
        trial: its number and values.
        backend: asks others.
        seconds: that a whole run was reckoned to take.
    """

    def __init__(self, study: Path, folder: Path, trial: Trial, backend: Backend, seconds: float) -> None:
        self.study, self.folder, self.trial, self.backend, self.seconds = study, folder, trial, backend, seconds

    def advance(self, share: float) -> tuple[float, np.ndarray | None]:
        """Have it trained on to this share of the run.

        Raises:
            RunError: what the worker says went wrong; Lost where it says nothing.
            DiskFull, DiskFailed: the worker's disk, which is the study's: not the trial's fault.
        """
        return self._ask(share, ends=False)

    def train_branch(self, share: float) -> tuple[float, np.ndarray | None]:
        """Have a branch trained on whose learning rate falls to zero at this share of the run. Raises as `advance`."""
        return self._ask(share, ends=True)

    def _ask(self, share: float, ends: bool) -> tuple[float, np.ndarray | None]:
        question = {
            "study": str(self.study.resolve()),
            "trial": self.trial.number,
            "values": self.trial.values,
            "share": share,
            "ends": ends,
        }
        answer = self.backend.ask(question, max(PATIENCE, 20 * share * self.seconds))
        if "problem" in answer:
            kind = {"DiskFull": DiskFull, "DiskFailed": DiskFailed}.get(answer.get("kind", ""), RunError)
            raise kind(answer["problem"], answer.get("remedy", ""))
        return answer["score"], np.array(answer["losses"], answer["numbers"])

    def drop(self) -> None:
        """It takes no further part: its curves stay, its weights do not."""
        for folder in (self.folder, *(self.folder / "ends").glob("*")):
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    def halt(self) -> None:
        """Stop at once."""
        self.backend.close()
