"""A chosen hyperparameter with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A chosen value.

    Args:
        path: its field in the experiment.
        value: what was chosen.
        reason: why.
    """

    path: str
    value: object
    reason: str
