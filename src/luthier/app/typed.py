"""What a person typed, as the commands read it."""

from __future__ import annotations

import re

REPEATED = ("--set", "--space", "--try")
"""Options that take one change and may be given again."""
CHANGE = re.compile(r"[a-z_]+(\.[a-z_]+)+=")


def repeat_flags(words: list[str]) -> list[str]:
    """`--set optimizer.lr=1e-4 training.epochs=2` as `--set optimizer.lr=1e-4 --set training.epochs=2`; the same for --space and --try."""
    found: list[str] = []
    flag = ""
    for place, word in enumerate(words):
        if word == "--":
            return [*found, *words[place:]]
        behind = place and words[place - 1] in REPEATED
        if flag and not behind and CHANGE.match(word):
            found.append(flag)
        elif not behind:
            flag = word if word in REPEATED else ""
        found.append(word)
    return found
