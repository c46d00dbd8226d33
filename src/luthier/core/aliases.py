"""Names for bundles that people and servers use, such as `production`: one small JSON file, and who bore each name before.

The file is `aliases.json` in the current folder, beside `runs/`, so that a project has its own names; `LUTHIER_ALIASES` names another one (a server
that is started elsewhere). Folders below the file are written relative to it: a project can be moved, or mounted, with its names.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from luthier.core.errors import RunError, nearest
from luthier.core.run import AGAIN, name_disk_errors, write_file

FILE = "aliases.json"
FORMAT = 1
NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
"""Of an alias: no path, and nothing that a shell reads otherwise."""


@dataclass(frozen=True)
class Alias:
    """What a name stands for.

    Args:
        name: of the alias.
        folder: of the bundle.
        hash: SHA-256 of the bundle, as `luthier.json` has it (`facts`): it covers every file that decides a prediction.
        run: the run's folder, or the bundle's where it lies alone.
        at: when it was given the name.
        event: promoted, or rolled_back.
    """

    name: str
    folder: Path
    hash: str
    run: Path
    at: str
    event: str


def aliases_file() -> Path:
    """Where aliases are kept: the file that `LUTHIER_ALIASES` names, else `aliases.json` in the current folder."""
    return Path(os.environ.get("LUTHIER_ALIASES") or FILE)


def read_alias(name: str, file: Path | None = None) -> Alias | None:
    """What an alias stands for now; None where there is no such alias. A name that is a path (with a slash) never is one.

    Args:
        name: of the alias.
        file: where aliases are kept; `aliases_file()` when not given.

    Raises:
        RunError: the file is damaged.
    """
    if not NAME.fullmatch(name):
        return None
    history = read_versions(name, file)
    return history[-1] if history else None


def read_aliases(file: Path | None = None) -> dict[str, Alias]:
    """Every alias and what it stands for now.

    Raises:
        RunError: the file is damaged.
    """
    file = file or aliases_file()
    histories = {name: _replay(name, events, file) for name, events in _read(file).items()}
    return {name: history[-1] for name, history in sorted(histories.items()) if history}


def read_versions(name: str, file: Path | None = None) -> list[Alias]:
    """What an alias stands for now, last, and before it what a rollback goes back to.

    Raises:
        RunError: the file is damaged.
    """
    file = file or aliases_file()
    return _replay(name, _read(file).get(name, []), file)


def history_of(name: str, file: Path | None = None) -> list[dict[str, Any]]:
    """Everything that happened to an alias, the oldest first.

    Raises:
        RunError: there is no such alias, or the file is damaged.
    """
    file = file or aliases_file()
    aliases = _read(file)
    if name not in aliases:
        raise RunError(f"there is no alias {name!r} in {file}", f"{nearest(name, aliases)}; `luthier promote RUN {name}` makes it")
    return aliases[name]


def write_alias(name: str, bundle: Path, run: Path, sha256: str, *, forced: bool = False, file: Path | None = None) -> Alias:
    """Give a name to a bundle; who bore it before stays in the history.

    Args:
        name: of the alias.
        bundle: its folder.
        run: the run's folder.
        sha256: the bundle's hash.
        forced: whether a person insisted on a bundle that is worse than its baseline.
        file: where aliases are kept.

    Raises:
        RunError: it is no name for an alias, the file is damaged, or cannot be written.
    """
    if not NAME.fullmatch(name):
        raise RunError(
            f"{name!r} cannot be the name of an alias", "begin with a letter; letters, digits, '.', '_' and '-' may follow: production"
        )
    file = file or aliases_file()
    with _changing(file) as aliases:
        event = {
            "event": "promoted",
            "run": _shorten_path(run, file),
            "bundle": _shorten_path(bundle, file),
            "sha256": sha256,
            "at": _now(),
        }
        aliases.setdefault(name, []).append(event | ({"forced": True} if forced else {}))
    return read_versions(name, file)[-1]


def roll_back_alias(name: str, file: Path | None = None) -> tuple[Alias, Alias]:
    """Give a name back to who bore it before.

    Returns:
        What it stands for now, and what it stood for until now.

    Raises:
        RunError: there is no such alias, or nobody bore it before.
    """
    file = file or aliases_file()
    history_of(name, file)
    with _changing(file) as aliases:
        history = _replay(name, aliases.get(name, []), file)
        if len(history) < 2:
            raise RunError(
                f"nothing bore the name {name} before {history[-1].run}", f"`luthier promote RUN {name}` gives it to another run"
            )
        aliases[name].append({"event": "rolled_back", "from": _shorten_path(history[-1].run, file), "at": _now()})
    return history[-2], history[-1]


def _replay(name: str, events: list[dict[str, Any]], file: Path) -> list[Alias]:
    """Who bears a name after all events, with those before: a promotion lays one on top, a rollback takes the top away."""
    history: list[Alias] = []
    try:
        for event in events:
            if event["event"] == "rolled_back":
                history.pop()
            else:
                run, bundle = (_place(event[which], file) for which in ("run", "bundle"))
                history.append(Alias(name, bundle, str(event["sha256"]), run, str(event["at"]), str(event["event"])))
    except (KeyError, TypeError, IndexError):
        raise RunError(
            f"{file}: the history of {name!r} is damaged", "restore the file from a copy, or promote again after removing the name"
        ) from None
    return history


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The events of each alias; nothing where there is no file."""
    try:
        text = file.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (UnicodeDecodeError, IsADirectoryError):
        text = ""
    except OSError as problem:
        raise RunError(f"{file} cannot be read: {problem.strerror}", "look at who may read it") from None
    try:
        content = json.loads(text)
        version, aliases = content["format"], content["aliases"]
        whole = isinstance(version, int) and isinstance(aliases, dict) and all(isinstance(events, list) for events in aliases.values())
    except (ValueError, KeyError, TypeError, RecursionError):
        whole, version, aliases = False, 0, {}
    if not whole:
        raise RunError(f"{file} is damaged: it does not hold aliases", "restore it from a copy, or remove it and promote again")
    if version > FORMAT:
        raise RunError(f"{file} has format {version}; this Luthier knows formats up to {FORMAT}", "update Luthier")
    return aliases


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """The aliases, to be changed by one process at a time; written at once when the body ends well."""
    with name_disk_errors(str(file), AGAIN):
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # of the folder: the file itself is replaced when it is written
        aliases = _read(file)
        yield aliases
        write_file(file, json.dumps({"format": FORMAT, "aliases": aliases}, indent=2, ensure_ascii=False) + "\n", AGAIN)
    finally:
        os.close(folder)


def _shorten_path(folder: Path, file: Path) -> str:
    """A folder as the file holds it: relative to it where it lies below."""
    whole, home = folder.resolve(), file.parent.resolve()
    return whole.relative_to(home).as_posix() if whole.is_relative_to(home) else str(whole)


def _place(written: str, file: Path) -> Path:
    """The folder that was written: relative to the current folder where it can be, as people type it."""
    return Path(written) if Path(written).is_absolute() else file.parent / written


def _now() -> str:
    return f"{datetime.now():%Y-%m-%dT%H:%M:%S}"
