"""The page to try a model: one file with its script and its style, all from here, and nothing that a text could become a part of."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import luthier.app.server
from tests.app.server.conftest import Client

HERE = Path(luthier.app.server.__file__).parent


class Page(HTMLParser):
    """What a page loads, and what of it could run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []
        self.ids: set[str] = set()
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self._in = tag
        self.ids |= {given["id"]} if "id" in given else set()
        self.loads += [given[name] for name in ("src", "href") if given.get(name)]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        if self._in in ("script", "style") and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in = ""


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_loads_only_from_here_and_holds_no_script(classifier: Client, path: str) -> None:
    status, said, headers = classifier("GET", path, None, {"Authorization": None})  # type: ignore[dict-item]
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    page = Page(said.decode())
    assert not page.inline
    assert page.loads and all(re.match(r"/[a-z.]*$", load) for load in page.loads), page.loads
    for load in page.loads:
        assert classifier("GET", load, None, {"Authorization": None})[0] == 200  # type: ignore[dict-item]
    assert "no-store" in headers["cache-control"]


def test_the_script_puts_texts_in_as_texts() -> None:
    script = (HERE / "page.js").read_text()
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "setAttribute",
        "localStorage",
        "http://",
        "https://",
        ".style",
    ):
        assert way not in script, way
    assert "url(" not in (HERE / "page.css").read_text()
    asked = set(re.findall(r'find\("([a-z]+)"\)', script))
    assert asked == Page((HERE / "page.html").read_text()).ids


def test_the_script_asks_routes_that_are_there(classifier: Client, chat: Client) -> None:
    routes = set(classifier("GET", "/openapi.json")[1]["paths"])
    script = (HERE / "page.js").read_text()
    assert {path for path in re.findall(r'"(/[a-z0-9/]+)"', script) if path != "/"} <= routes
    for client in (classifier, chat):
        model = client("GET", "/info")[1]["model"]
        assert {"name", "family", "verdict", "routes", "example", "base"} <= set(model)
        assert set(model["routes"]) <= routes
        assert client.post("/predict", {"rows": [model["example"]], **({"limit": 2} if client is chat else {})})["data"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_is_javascript(tmp_path: Path) -> None:
    shutil.copyfile(HERE / "page.js", tmp_path / "page.js")
    subprocess.run(["node", "--check", str(tmp_path / "page.js")], check=True)


def test_the_page_of_routes_names_each_with_its_fields(classifier: Client) -> None:
    said = classifier("GET", "/docs")[1].decode()
    for path in classifier("GET", "/openapi.json")[1]["paths"]:
        assert path in said
    assert "abstain_below" in said
