"""The study folder: many runs, and the ledger of what was tried, decided and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.errors import RunError
from luthier.core.run import Run


class Study(Run):
    """A folder of trials, each a run; its ledger only grows, and everything else can be rebuilt from it."""

    def __repr__(self) -> str:
        winner = self.winner
        return f"Study({str(self.folder)!r}, {f'the best is {winner!r}' if winner else 'unfinished'})"

    @classmethod
    def open(cls, folder: str | Path) -> Study:
        """Open an existing study.

        Raises:
            RunError: there is none.
        """
        folder = Path(folder)
        if not (folder / "plan.yaml").is_file():
            raise RunError(f"{folder} is not a study: it has no plan.yaml", "give the folder that `luthier search` printed")
        return cls(folder)

    def add_entry(self, event: str, **facts: Any) -> None:
        """Add to the ledger."""
        self.append("ledger.jsonl", {"event": event, **facts})

    def entries_named(self, event: str) -> list[dict[str, Any]]:
        """The ledger's entries of one name, in order."""
        return [line for line in self.lines("ledger.jsonl") if line["event"] == event]

    def trial(self, number: int, end: str = "") -> Run:
        """A trial's run, or that of one of its ends."""
        folder = self.folder / "trials" / f"{number:03d}"
        return Run(folder / "ends" / end if end else folder)

    @property
    def winner(self) -> Run | None:
        """The run that was chosen, once it has been."""
        won = self.entries_named("won")
        return self.trial(won[-1]["trial"], won[-1]["end"]) if won else None

    @property
    def verdict(self) -> dict[str, Any] | None:
        """The verdict of the run that was chosen."""
        winner = self.winner
        return winner.verdict if winner else None
