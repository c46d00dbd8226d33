"""A worker process: reads requests as JSON lines from standard input and writes the results."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from typing import cast

from luthier.core.collector import collect_seldom
from luthier.studies.backends import compute_answer


def main(target: str) -> None:
    """Answer.

    Args:
        target: "module:function", from JSON to JSON.
    """
    collect_seldom()
    threading.Thread(target=exit_when_orphaned, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints, prints into the log, line by line: a process that is killed has said what it said
    cast(io.TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)
    for line in sys.stdin:
        answers.write(json.dumps(compute_answer(target, json.loads(line))) + "\n")
        answers.flush()


def exit_when_orphaned(parent: int) -> None:
    """End the process as soon as the one that asks is gone: whoever comes after it takes up the same trials."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
