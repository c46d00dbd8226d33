"""The documents hold together: what is linked or cited exists."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from luthier.families import FAMILIES

ROOT = Path(__file__).parent.parent
LISTED = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=False, capture_output=True, text=True)
FILES = [name for name in LISTED.stdout.split("\n") if (ROOT / name).is_file()]
PAGES = [name for name in FILES if name.endswith(".md")]
CITING = [name for name in FILES if name.endswith((".py", ".toml", ".yml", "Makefile")) and name != "tests/test_documents.py"]
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CITED = re.compile(r"\bdocs/[\w/-]+\.md(?:#[\w-]+)?")
SCRIPT = re.compile(r"\bbenchmarks/[\w/-]+\.(?:py|csv|jsonl)\b")


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as mkdocs and GitHub make them; the second of two equal ones is not among them."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", page.read_text()), re.M)
    plain = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading) for heading in headings]
    return frozenset(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in plain)


def find_missing(target: str, folder: Path) -> str:
    """Says what of a link's target does not exist; empty where all of it does."""
    name, _, anchor = target.partition("#")
    page = (folder / name).resolve()
    if not page.exists():
        return f"{target}: there is no {name}"
    if anchor and anchor not in anchors(page):
        return f"{target}: {page.name} has no heading {anchor!r}"
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_page_and_a_heading(page: str) -> None:
    place = ROOT / page
    links = [link for link in LINK.findall(FENCE.sub("", place.read_text())) if not re.match(r"[a-z]+:", link)]
    wrong = [find_missing(place.name + link if link.startswith("#") else link, place.parent) for link in links]
    assert not [line for line in wrong if line]


def test_every_document_that_code_cites_exists_with_its_heading() -> None:
    wrong = [
        f"{name}: {find_missing(cited, ROOT)}"
        for name in CITING
        for cited in CITED.findall((ROOT / name).read_text())
        if find_missing(cited, ROOT)
    ]
    assert not wrong


def test_the_guides_name_files_and_rooms_that_exist() -> None:
    package = ROOT / "src" / "luthier"
    guides = {name: (ROOT / name).read_text() for name in ("CONTRIBUTING.md", "AGENTS.md")}
    named = {path for text in guides.values() for path in re.findall(r"`([a-z_]+/[\w/]+\.py)`", text)}
    assert not [path for path in named if not (package / path).is_file() and not (ROOT / path).is_file()]
    rooms = [folder.name for folder in package.iterdir() if (folder / "__init__.py").is_file()]
    assert not [f"{name}: {room}" for name, text in guides.items() for room in rooms if not re.search(rf"\b{room}\b", text)]


def test_every_benchmark_that_is_cited_exists() -> None:
    current = [page for page in PAGES if not page.startswith("docs/log/")]
    wrong = [f"{page}: {cited}" for page in current for cited in SCRIPT.findall((ROOT / page).read_text()) if not (ROOT / cited).is_file()]
    assert not wrong


def test_every_entry_of_the_log_has_a_question_a_decision_and_a_line_in_the_index() -> None:
    index = (ROOT / "docs" / "log" / "index.md").read_text()
    for page in sorted((ROOT / "docs" / "log").glob("20*.md")):
        entries = re.split(r"^### ", page.read_text(), flags=re.M)[1:]
        titles = [entry.split("\n")[0] for entry in entries]
        assert len(set(titles)) == len(titles)
        for title, entry in zip(titles, entries, strict=True):
            assert "**Question.** " in entry and "**Decision.** " in entry, title
            assert f"- {page.stem[5:]}-" in index and f"[{title}]({page.name}#" in index, title


def test_every_family_has_an_example_whose_command_reads_data_that_are_here() -> None:
    found = re.findall(r"^\| `(\w+)` \| `luthier run (examples/[^`\s]+)[^`]*`", (ROOT / "examples" / "README.md").read_text(), re.M)
    assert {family for family, _ in found} == set(FAMILIES)
    assert not [data for _, data in found if not (ROOT / data).exists()]


def test_every_page_stands_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert not [page for page in PAGES if page.startswith("docs/") and f": {page.removeprefix('docs/')}\n" not in navigation]


def test_the_readme_opens_with_its_two_commands_and_has_one_short_table() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.startswith("# Luthier\n\n```\nmake run ")
    assert "\nmake test " in text.split("```")[1]
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    assert len(tables) == 1
    assert tables[0].count("\n") <= 2 + 8
