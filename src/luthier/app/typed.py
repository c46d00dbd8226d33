"""What a person typed, as the commands read it."""

from __future__ import annotations

import re

from luthier.core.errors import ExperimentError

REPEATED = ("--set", "--space", "--try")
"""Options that take one change and may be given again."""
CHANGE = re.compile(r"[a-z_]+(\.[a-z_]+)+=")


def repeat_flags(words: list[str]) -> list[str]:
    """`--set optimizer.lr=1e-4 training.epochs=2` as `--set optimizer.lr=1e-4 --set training.epochs=2`; the same for --space and --try."""
    repeated: list[str] = []
    flag = ""
    for index, word in enumerate(words):
        if word == "--":
            return [*repeated, *words[index:]]
        behind = index and words[index - 1] in REPEATED
        if flag and not behind and CHANGE.match(word):
            repeated.append(flag)
        elif not behind:
            flag = word if word in REPEATED else ""
        repeated.append(word)
    return repeated


def read_share(text: str | None, option: str) -> float | None:
    """A share as a person types it, `5%` or `0.05`; None where nothing was typed.

    Args:
        text: as typed.
        option: that it was typed behind, for the message.

    Raises:
        ExperimentError: it is no number, or not between 0 and 1.
    """
    if text is None:
        return None
    number = text.strip().removesuffix("%").strip()
    try:
        share = float(number) / (100 if "%" in text else 1)
    except ValueError:
        raise ExperimentError(f"{option} {text!r} is no share", f"give it as 5% or 0.05: {option} 5%") from None
    if not 0 < share < 1:
        meant = f"did you mean {number}%?" if "%" not in text and 1 <= share < 100 else "give more than 0% and less than 100%"
        raise ExperimentError(f"{option} {text}: a share lies between 0 and 1, or has a %", meant)
    return share
