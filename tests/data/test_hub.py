"""A data set and a base by their names on the hub: the real client against a hub of our own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError
from luthier.data.hub import _choose_files
from tests import processes
from tests.conftest import rows

COMMIT = "a" * 40


class Hub:
    """What the hub's client asks for, answered from memory."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        hub = self

        class Answers(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                path = self.path.partition("?")[0]
                if path.startswith("/api/"):
                    kind, owner, own, *rest = [*path.split("/")[2:], "", ""]
                    found = hub.files.get(f"{kind}/{owner}/{own}")
                    if rest[:1] == ["tree"]:
                        tree = [
                            {"type": "file", "path": name, "size": len(content), "oid": COMMIT} for name, content in (found or {}).items()
                        ]
                        return self.say(json.dumps(tree).encode(), found is not None)
                    siblings = [{"rfilename": name, "size": len(content)} for name, content in (found or {}).items()]
                    return self.say(json.dumps({"id": f"{owner}/{own}", "sha": COMMIT, "siblings": siblings}).encode(), found is not None)
                name, _, file = path.strip("/").partition(f"/resolve/{COMMIT}/")
                content = hub.files.get(name if name.startswith("datasets/") else f"models/{name}", {}).get(file)
                return self.say(content or b"", content is not None)

            def say(self, content: bytes, there: bool) -> None:
                self.send_response(200 if there else 404)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                if not there:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            def log_message(self, format: str, *given: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def luthier(self, home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command line whose hub is this one."""
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server.server_port}",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            **more,
        }
        return processes.run("-m", "luthier", *words, env=environment)


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.server.shutdown()
    made.server.server_close()


def lines(count: int, start: int = 0) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows(count + start)[start:]).encode()


def test_a_data_set_is_fetched_once_by_its_name_with_the_splits_that_it_brings(hub: Hub, tmp_path: Path) -> None:
    hub.files["datasets/someone/reviews"] = {"README.md": b"#", "data/train.jsonl": lines(60), "data/test.jsonl": lines(40, 60)}
    done = hub.luthier(tmp_path, "check", "someone/reviews", "--no-model", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["rows"] == 100
    assert not any("README" in asked for asked in hub.asked)
    fetched = len([asked for asked in hub.asked if asked.startswith("GET /datasets")])
    assert hub.luthier(tmp_path, "check", "someone/reviews", "--no-model").returncode == 0
    assert len([asked for asked in hub.asked if asked.startswith("GET /datasets")]) == fetched == 2


def test_files_that_belong_together_are_read_as_one(hub: Hub, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    for number in range(2):
        parquet.write_table(pa.Table.from_pylist(rows(40 * (number + 1))[40 * number :]), tmp_path / "part.parquet")
        hub.files.setdefault("datasets/someone/parts", {})[f"data/train-0000{number}-of-00002.parquet"] = (
            tmp_path / "part.parquet"
        ).read_bytes()
    done = hub.luthier(tmp_path / "home", "check", "someone/parts", "--no-model", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 80


def test_a_name_that_is_nowhere_gets_one_message(hub: Hub, tmp_path: Path) -> None:
    done = hub.luthier(tmp_path, "check", "someone/nothing", "--no-model")
    assert done.returncode == 2
    assert "someone/nothing is no file here, and the hub's data set of that name is not to be had" in done.stderr
    assert "Traceback" not in done.stderr


def test_who_asked_to_stay_offline_stays_offline(hub: Hub, tmp_path: Path) -> None:
    done = hub.luthier(tmp_path, "check", "someone/reviews", "--no-model", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE is set" in done.stderr
    assert hub.asked == []


def test_a_base_of_the_hub_is_fetched_and_trained_also_from_a_written_experiment(hub: Hub, bases: Any, tmp_path: Path) -> None:
    hub.files["models/someone/small"] = {file.name: file.read_bytes() for file in bases("bert").folder.iterdir() if file.is_file()}
    data = tmp_path / "rows.jsonl"
    data.write_bytes(lines(80))
    plan = str(tmp_path / "plan")
    done = hub.luthier(tmp_path / "one", "run", str(data), "--base", "someone/small", "--plan-only", "--out", plan)
    assert done.returncode == 0, done.stderr
    done = hub.luthier(tmp_path / "two", "train", plan, "--set", "training.steps=2", "--force", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "verdict.json").exists()


@pytest.mark.parametrize(
    "files, message",
    [
        (["fr/train.csv", "de/train.csv"], "holds several sets: de, fr"),
        (["rows.csv", "others.csv"], "holds several sets"),
        (["notes.pdf"], "no training rows"),
        (["data/test.csv"], "no training rows"),
    ],
)
def test_a_repository_that_does_not_say_which_rows_are_meant_is_refused(files: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _choose_files("someone/some", files, "")
