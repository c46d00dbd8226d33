"""A finding, which every analysis returns: a claim, its evidence, its severity, and what to do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from luthier.core.component import Component

Severity = Literal["good", "note", "warning", "stop"]


class Finding(Component):
    """One claim about the data, a run or a model.

    Args:
        check: which analysis speaks.
        claim: one sentence.
        severity: good, note, warning, or stop (the run must not go on).
        evidence: the numbers and rows behind the claim.
        remedy: what to do about it.
    """

    check: str
    claim: str
    severity: Severity = "note"
    evidence: dict[str, Any] = Field(default_factory=dict)
    remedy: str = ""
