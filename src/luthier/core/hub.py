"""The hub of models and data sets: the one place from which something is fetched by its name.

The client runs in a process of its own. Ours stays offline (a library that looks for updates while a model is loaded would make a run
depend on the network), and a variable that a person has set to stay offline is honoured.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""owner/name"""
OFFLINE = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
"""Whether a person asked to stay offline; read before we ask our own libraries to."""
os.environ.setdefault("HF_HUB_OFFLINE", "1")

CHILD = """
import json, sys
asked = json.loads(sys.argv[1])
try:
    import huggingface_hub as hub
    if asked["do"] == "push":
        api = hub.HfApi()
        if not hub.get_token():
            raise PermissionError("no token: nobody is logged in")
        api.create_repo(asked["name"], private=asked["private"], exist_ok=True)
        info = api.repo_info(asked["name"])
        if asked["private"] and info.private is False:
            raise PermissionError("it is there already, and public")
        there = [each.rfilename for each in info.siblings or []]
        others = [each for each in there if not each.startswith(".") and not each.endswith(tuple(asked["beside"])) and each not in asked["files"]]
        if others and asked["mark"] not in there:
            raise PermissionError("it holds a model that Luthier did not put there: " + ", ".join(others[:3]))
        changes = [hub.CommitOperationAdd(path_in_repo=where, path_or_fileobj=place) for where, place in asked["files"].items()]
        changes += [hub.CommitOperationDelete(path_in_repo=each) for each in others]
        done = api.create_commit(asked["name"], changes, commit_message=asked["message"])
        said = {"commit": done.oid, "removed": others}
    elif asked["do"] == "list":
        found = hub.HfApi().repo_info(asked["name"], repo_type=asked["kind"], files_metadata=True)
        said = {"files": {each.rfilename: each.size or 0 for each in found.siblings or []}}
    else:
        said = {"folder": hub.snapshot_download(
            asked["name"], repo_type=asked["kind"], allow_patterns=asked["files"], local_files_only=asked["do"] == "look")}
except Exception as problem:
    status = getattr(getattr(problem, "response", None), "status_code", None)
    said = {"problem": (str(problem).strip().splitlines() or [type(problem).__name__])[0], "status": status}
print("\\n" + json.dumps(said))
"""


class Unreachable(Exception):
    """The hub, or what was asked of it, is not there; the text says why.

    Args:
        why: the text.
        status: of the hub's answer, such as 401; None where it gave none.
    """

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status


def cache_folder() -> Path:
    """The folder in which the hub's client keeps models and data sets; other programs use it too."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub").expanduser()


def files_of(name: str, kind: str) -> dict[str, int]:
    """The files of a repository and their bytes.

    Args:
        name: owner/name.
        kind: model or dataset.

    Raises:
        Unreachable: it is not there.
    """
    return _ask_child(do="list", name=name, kind=kind, files=[])["files"]


def find_cached(name: str, kind: str, files: Sequence[str]) -> Path | None:
    """The folder of a repository in the hub's own cache, or None where it was not fetched before."""
    try:
        return Path(_ask_child(do="look", name=name, kind=kind, files=list(files))["folder"])
    except Unreachable:
        return None


def fetch_files(name: str, kind: str, files: Sequence[str]) -> Path:
    """Fetch files of a repository into the hub's own cache.

    Args:
        name: owner/name.
        kind: model or dataset.
        files: their names or patterns.

    Raises:
        Unreachable: it is not there.
    """
    return Path(_ask_child(do="fetch", name=name, kind=kind, files=list(files))["folder"])


def endpoint() -> str:
    """Where the hub is: `HF_ENDPOINT`, as its client reads it."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def push_files(
    name: str, files: Mapping[str, Path], message: str, *, private: bool, mark: str, beside: Sequence[str]
) -> tuple[str, list[str]]:
    """Put files into a repository of models in one commit; it is made where it is not there.

    The token is the environment's (`HF_TOKEN`) or the one that the hub's own client keeps; it is on no command line.

    Args:
        name: owner/name.
        files: name in the repository → the file here.
        message: of the commit.
        private: make it so that only its owner sees it; one that is public already is refused.
        mark: the file by which a repository of ours is known: one that holds others without it is refused.
        beside: endings of files that stay whatever is put beside them; others that are not among `files` are of an earlier push and removed.

    Returns:
        The commit, and the files that were removed.

    Raises:
        Unreachable: the hub cannot be reached, or does not let it happen.
    """
    request = {
        "files": {where: str(path) for where, path in files.items()},
        "message": message,
        "private": private,
        "mark": mark,
        "beside": list(beside),
    }
    answer = _ask_child(do="push", name=name, kind="model", **request)
    return answer["commit"], answer["removed"]


def _ask_child(**question: Any) -> dict[str, Any]:
    if OFFLINE and question["do"] != "look":
        raise Unreachable("HF_HUB_OFFLINE is set")
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if question["do"] == "push":
        environment.setdefault("HF_HUB_DISABLE_XET", "1")  # the older protocol, git-lfs's, is what our tests speak
    command = [sys.executable, "-c", CHILD, json.dumps(question)]
    process = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=False)  # its progress bars go where ours would
    try:
        answer: dict[str, Any] = json.loads(process.stdout.decode().strip().split("\n")[-1])
    except ValueError:
        answer = {"problem": f"its client ended with {process.returncode}"}
    if "problem" in answer:
        raise Unreachable(answer["problem"], answer.get("status"))
    return answer
