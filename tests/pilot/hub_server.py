"""A hub of our own that can be written to: what the client of the real one asks for, answered from memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "t" * 34
LARGE = 10_000
"""Bytes from which a file goes by git-lfs's protocol."""


class WritableHub:
    """Repositories of models.

    Args:
        refuses: a part of a path → the status with which it is answered.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self.commits: list[dict[str, Any]] = []
        self.refuses: dict[str, int] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), answers_of(self))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def sha(self, name: str) -> str:
        """Another after each commit."""
        return hashlib.sha1(f"{name}{len(self.commits)}".encode()).hexdigest()

    def create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
        if name in self.files:
            return 409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
        self.files[name], self.private[name] = (
            {".gitattributes": b"*.safetensors filter=lfs\n"},
            bool(asked.get("private")) or asked.get("visibility") == "private",
        )
        return 200, {"url": f"{self.url}/{name}", "name": name}

    def preupload(self, asked: dict[str, Any]) -> tuple[int, Any]:
        found = [
            {"path": file["path"], "uploadMode": "lfs" if file["size"] >= LARGE else "regular", "shouldIgnore": False}
            for file in asked["files"]
        ]
        return 200, {"files": found}

    def batch(self, asked: dict[str, Any]) -> tuple[int, Any]:
        objects = []
        for each in asked["objects"]:
            there = each["oid"] in self.large
            actions = {} if there else {"actions": {"upload": {"href": f"{self.url}/large/{each['oid']}"}}}
            objects.append({**each, **actions})
        return 200, {"transfer": "basic", "objects": objects}

    def commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        files = dict(self.files[name])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.files[name] = files
        self.commits.append({"name": name, "summary": lines[0]["value"]["summary"], "lines": lines})
        return 200, {"success": True, "commitOid": self.sha(name), "commitUrl": f"{self.url}/{name}/commit/{self.sha(name)}"}

    def about(self, name: str) -> tuple[int, Any]:
        if name not in self.files:
            return 404, {"error": "Repository not found"}
        siblings = [{"rfilename": file, "size": len(content)} for file, content in self.files[name].items()]
        return 200, {"id": name, "sha": self.sha(name), "private": self.private[name], "siblings": siblings}


def answers_of(hub: WritableHub) -> type[BaseHTTPRequestHandler]:
    """The handler of a hub's requests."""

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            self.answer(b"")

        def do_POST(self) -> None:
            self.answer(self.body())

        def do_PUT(self) -> None:
            self.answer(self.body())

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def answer(self, body: bytes) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            hub.tokens.add(bearer)
            refused = next((status for part, status in hub.refuses.items() if part in path), None)
            writes = self.command in ("POST", "PUT") and not path.startswith("/large/")
            if refused or (writes and bearer != TOKEN):
                return self.say(refused or 401, {"error": "Invalid username or password."})
            if path.startswith("/large/"):
                hub.large[path.rpartition("/")[2]] = body
                return self.say(200, {})
            if "/resolve/" in path and not path.startswith("/api/"):
                return self.give(path)
            name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
            routes: dict[str, Callable[[], tuple[int, Any]]] = {
                "/api/repos/create": lambda: hub.create(json.loads(body)),
                "/api/validate-yaml": lambda: (200, {"warnings": [], "errors": []}),
                f"/api/models/{name}/preupload/main": lambda: hub.preupload(json.loads(body)),
                f"/api/models/{name}/commit/main": lambda: hub.commit(name, [json.loads(line) for line in body.splitlines() if line]),
                f"/api/models/{name}": lambda: hub.about(name),
                f"/api/models/{name}/revision/main": lambda: hub.about(name),
            }
            if path.endswith(".git/info/lfs/objects/batch"):
                return self.say(*hub.batch(json.loads(body)))
            if f"/api/models/{name}/tree/" in path:
                tree = [
                    {"type": "file", "path": file, "size": len(content), "oid": "a" * 40}
                    for file, content in hub.files.get(name, {}).items()
                ]
                return self.say(200, tree)
            return self.say(*routes.get(path, lambda: (404, {"error": "not found"}))())

        def give(self, path: str) -> None:
            """A file's content."""
            name, _, rest = path.strip("/").partition("/resolve/")
            content = hub.files.get(name, {}).get(rest.partition("/")[2])
            self.say(404 if content is None else 200, None, content or b"", hub.sha(name))

        def say(self, status: int, value: Any, content: bytes | None = None, commit: str = "a" * 40) -> None:
            content = json.dumps(value).encode() if content is None else content
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *given: Any) -> None:
            """Nothing."""

    return Answers
