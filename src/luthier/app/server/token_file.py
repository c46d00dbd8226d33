"""The token of a server, kept where only its owner can read it."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from luthier.app.server.application import make_token
from luthier.core.cache import cache_folder
from luthier.core.errors import RunError
from luthier.core.run import name_disk_errors

SHAPE = re.compile(r"[A-Za-z0-9._~+/=-]{16,200}")
"""Of a token: what a header can hold, and enough of it."""


def keep_token(port: int, given: str | None, fresh: bool) -> tuple[str, Path]:
    """The token of a server, and the file that holds it.

    A server that is started again on the same port has the same token, so that its clients need no new one.

    Args:
        port: that it listens on.
        given: by the person; None takes the one that is kept, or makes one.
        fresh: whether one that is kept is of another server, whose port the system gave to this one by chance.

    Raises:
        RunError: the token is too short, or the file belongs to somebody else.
    """
    if given is not None and not SHAPE.fullmatch(given):
        raise RunError(
            "the token has fewer than 16 characters, or some that a header cannot hold", "leave --token out: one is made and kept"
        )
    folder = cache_folder() / "serve"
    file = folder / f"{port}.token"
    with name_disk_errors(str(file)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        token = given or ("" if fresh else _read_token(file)) or make_token()
        file.unlink(missing_ok=True)  # a link that somebody put there is not followed
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with os.fdopen(handle, "w") as opened:
            opened.write(token)
    return token, file


def _read_token(file: Path) -> str:
    """The token of a file that only its owner can read; empty where there is none such."""
    try:
        about = file.lstat()
        private = stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077
        token = file.read_text() if private and about.st_size < 1000 else ""
    except (OSError, UnicodeDecodeError):
        return ""
    return token if SHAPE.fullmatch(token) else ""
