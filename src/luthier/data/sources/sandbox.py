"""Read untrusted files in a sandboxed child process, so that a hostile file costs no more than its row.

A child says each file as a line of JSON. If it dies or hangs at one, that one is given up and a new child goes on behind it.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

LIMITS = """
import json, resource, sys
try:
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
except (ValueError, OSError):
    pass  # macOS knows no such limit
"""
"""How a child's script begins; its first argument is the memory it may have, the others are the files."""


def read_each(script: str, files: Sequence[Path], seconds: float, memory: int, *more: str) -> Generator[dict[str, Any], None, None]:
    """What a child says of each file; `{"why": …}` for one that ended it.

    Args:
        script: Python, beginning with `LIMITS`; it prints one JSON object a file, in their order.
        files: to be read.
        seconds: that one file may take.
        memory: bytes that the child may have.
        more: arguments of the script, from the second.
    """
    left = list(files)
    while left:
        count = 0
        for answer in _child(script, left, seconds, memory, more):
            count += 1
            yield answer
        if count < len(left):
            yield {"why": f"its reader was ended, or took more than {seconds:g} s"}
            count += 1
        left = left[count:]


def _child(script: str, files: Sequence[Path], seconds: float, memory: int, more: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What one child says before it ends."""
    command = [sys.executable, "-I", "-c", script, str(memory), *more]
    lines: queue.Queue[bytes] = queue.Queue()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        stdin, stream = child.stdin, child.stdout
        assert stdin is not None
        assert stream is not None

        def ask() -> None:
            try:
                with stdin:
                    stdin.writelines(json.dumps(str(path.absolute())).encode() + b"\n" for path in files)
            except OSError:
                pass  # the child has ended

        def listen() -> None:
            for line in stream:
                lines.put(line)
            lines.put(b"")

        workers = [threading.Thread(target=work, daemon=True) for work in (ask, listen)]
        for worker in workers:
            worker.start()
        try:
            for _ in files:
                line = lines.get(timeout=seconds)
                if not line:
                    return
                yield json.loads(line)
        except queue.Empty:
            return
        finally:
            child.kill()
            for worker in workers:  # they use the pipes that are closed next
                worker.join()
