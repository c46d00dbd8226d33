"""What a person typed, as the commands read it."""

from __future__ import annotations

import re

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
