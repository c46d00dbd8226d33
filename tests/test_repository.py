"""Decisions that fail a test when they are forgotten."""

from __future__ import annotations

import ast
import csv
import json
import re
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "luthier").rglob("*.py"))
BANNED = {"utils", "helpers", "helper", "misc", "common", "manager", "managers"}


def test_no_file_is_called_utils() -> None:
    assert not [path for path in SOURCES if path.stem in BANNED]


def test_no_file_and_no_function_outgrows_a_screen_or_two() -> None:
    long = []
    for path in SOURCES:
        text = path.read_text()
        if text.count("\n") > 400:
            long.append(path.name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                told = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
                if (node.end_lineno or 0) - (told or 0) >= 60:
                    long.append(f"{path.name}:{node.name}")
    assert not long


def tensors_of_a_pinned_file(tree: ast.AST) -> list[ast.expr]:
    """The one exception: weights that were published as a torch file alone, opened as tensors only, behind a hash that stands in the catalogue."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"]
    for call in calls:
        assert {word.arg: ast.unparse(word.value) for word in call.keywords}.get("weights_only") == "True"
    assert len(calls) == 1
    return [calls[0].func]


def test_no_pickle_is_ever_opened_and_no_code_is_ever_evaluated() -> None:
    forbidden = {"eval", "exec", "pickle", "dill", "joblib", "marshal", "shelve"}
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        known = tensors_of_a_pinned_file(tree) if path.name == "torch_file.py" else []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names} | {(getattr(node, "module", None) or "").split(".")[0]}
                assert not names & forbidden, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in forbidden, path
            if isinstance(node, ast.Attribute) and node not in known:
                assert not (node.attr == "load" and isinstance(node.value, ast.Name) and node.value.id in ("torch", "np", "numpy")), path


def test_a_verb_never_bears_a_rooms_name() -> None:
    import luthier

    rooms = {path.name for path in (ROOT / "src" / "luthier").iterdir() if path.is_dir()}
    assert not rooms & set(luthier.__all__)


@pytest.mark.parametrize(
    "room, table",
    [
        ("families", "FAMILIES"),
        ("families", "OBJECTIVES"),
        ("adaptation", "ADAPTATIONS"),
        ("optim", "OPTIMIZERS"),
        ("optim", "SCHEDULES"),
        ("data", "SOURCES"),
    ],
)
def test_every_line_of_every_table_leads_somewhere(room: str, table: str) -> None:
    listed = getattr(import_module(f"luthier.{room}"), table)
    for name in listed:
        assert callable(listed[name]) or listed[name].name == name
    with pytest.raises(Exception, match="there is no"):
        listed["nothing"]


def test_specs_can_be_listed_without_torch() -> None:
    code = (
        "import sys\nfrom luthier.adaptation import ADAPTATIONS\nfrom luthier.families import OBJECTIVES\nfrom luthier.optim import OPTIMIZERS, SCHEDULES\n"
        "[table[name] for table in (ADAPTATIONS, OBJECTIVES, OPTIMIZERS, SCHEDULES) for name in table]\nimport luthier.experiment\nprint('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "False"


def test_the_reference_is_the_one_the_fields_give() -> None:
    made = subprocess.run([sys.executable, str(ROOT / "docs" / "make_reference.py")], check=True, capture_output=True, text=True).stdout
    assert made == (ROOT / "docs" / "reference.md").read_text(), "run `make docs`"


def test_every_command_is_in_the_documents() -> None:
    import luthier

    pages = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    for name in ("run", "train", "resume", "predict", "chat", "report", "models"):
        assert f"luthier {name}" in pages
    assert luthier.__all__


def test_the_examples_are_what_they_say() -> None:
    with (ROOT / "examples" / "feedback" / "feedback.csv").open(newline="") as file:
        feedback = list(csv.DictReader(file))
    assert len(feedback) == 3000
    assert sum(row["sentiment"] == "positive" for row in feedback) == 1500
    clauses = [json.loads(line) for line in (ROOT / "examples" / "contracts" / "clauses.jsonl").read_text().split("\n") if line]
    assert len(clauses) == 436
    for part, each in (("train", 18), ("test", 30)):
        with (ROOT / "examples" / "intents" / f"{part}.csv").open(newline="") as file:
            counts = Counter(row["intent"] for row in csv.DictReader(file))
        assert len(counts) == 77
        assert set(counts.values()) == {each}
    assert all(row["clause"] and row["plain_english"] for row in clauses)
    unfair = [json.loads(line) for line in (ROOT / "examples" / "multi_label" / "clauses.jsonl").read_text().split("\n") if line]
    assert (len(unfair), sum(not row["unfair"] for row in unfair), len({row["service"] for row in unfair})) == (2000, 666, 50)
    with (ROOT / "examples" / "regression" / "problems.csv").open(newline="") as file:
        steps = [int(row["steps"]) for row in csv.DictReader(file)]
    assert (len(steps), min(steps), max(steps)) == (2500, 1, 8)
    scans = ROOT / "examples" / "autoencoder" / "scans"
    assert [len(list((scans / kind).glob("*.png"))) for kind in ("normal", "pneumonia")] == [500, 250]


def test_what_a_docstring_says_of_arguments_it_says_of_those_that_there_are() -> None:
    wrong = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            text = ast.get_docstring(node) or ""
            known = arguments_of(node)
            if "Args:\n" in text and known:
                section = re.split(r"\n(?=\S)", text.split("Args:\n", 1)[1])[0]
                told = [name for names in re.findall(r"^    ([\w*]+(?:, [\w*]+)*):", section, re.M) for name in names.split(", ")]
                wrong += [f"{path.name}: {node.name}: {name}" for name in told if name.strip("*") not in known]
    assert not wrong


def arguments_of(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> set[str]:
    """Of a function, or of a class: those of its constructor, else its fields."""
    if isinstance(node, ast.ClassDef):
        constructor = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        if not constructor:
            return {each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)}
        node = constructor[0]
    given = node.args
    return {each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if each}


def test_nothing_reaches_outside_the_repository() -> None:
    marks = ["/" + name + "/" for name in ("work", "root", "home")] + ["../" + "shared"]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=False, capture_output=True, text=True).stdout.split()
    for name in listed:
        if name.endswith((".py", ".md", ".toml", ".yml", "Makefile", "run")) and not name.startswith("examples/"):
            text = (ROOT / name).read_text()
            assert not [mark for mark in marks if mark in text], name


def test_no_files_import_each_other_in_a_circle() -> None:
    package = ROOT / "src"
    modules = {".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}
    imports: dict[str, set[str]] = {}
    for name, path in modules.items():
        tree = ast.parse(path.read_text())
        typing = {
            id(each)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for each in ast.walk(node)
        }
        found = {
            f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in modules else str(node.module)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and id(node) not in typing  # those inside a function too
            for alias in node.names
        }
        faces = {each for each in modules if modules[each].name == "__init__.py"}  # a package's face only hands names on
        imports[name] = (found & modules.keys()) - faces - {name}
    while leaves := [name for name, others in imports.items() if not others & imports.keys()]:
        for name in leaves:
            del imports[name]
    assert not imports, "each of these is on a circle, or above one"
