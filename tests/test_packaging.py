"""What is declared is what is used, in ranges for others and exactly for ourselves."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from luthier.core.extras import EXTRAS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [Requirement(each) for each in PROJECT["dependencies"]]
OPTIONAL = {name: [Requirement(each) for each in needed] for name, needed in PROJECT["optional-dependencies"].items()}


def read_locked() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_every_dependency_of_a_user_has_a_floor_and_a_ceiling_and_none_is_exact() -> None:
    for needed in NEEDED + [each for name, extra in OPTIONAL.items() if name != "dev" for each in extra]:
        assert {each.operator for each in needed.specifier} == {">=", "<"}, str(needed)


def test_the_lock_holds_an_exact_version_within_each_range() -> None:
    exact = read_locked()
    for needed in NEEDED + [each for extra in OPTIONAL.values() for each in extra]:
        name = canonicalize_name(needed.name)
        assert name == "luthier" or needed.specifier.contains(exact[name]), str(needed)


def test_every_package_that_is_imported_is_declared_and_every_declared_one_is_there_for_a_reason() -> None:
    distributions = packages_distributions()
    imported = set[str]()
    for path in (ROOT / "src" / "luthier").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []  # fmt: skip
            imported |= {name.partition(".")[0] for name in names}
    asked_where_present = {"llama_cpp", "llama_cpp_py_sync"}  # built on the machine of whoever has it; nothing of ours needs it
    foreign = {name for name in imported if name not in sys.stdlib_module_names} - {"", "luthier", *asked_where_present}
    used = {canonicalize_name(found) for name in foreign - set(EXTRAS) for found in distributions[name]}
    declared = {canonicalize_name(needed.name) for needed in NEEDED}
    unseen = {
        "tokenizers",
        "gguf",
        "accelerate",
        "jinja2",
        "huggingface-hub",
        "cmaes",
    }  # transformers and Optuna import them for what we ask of them
    assert used | unseen == declared


def test_the_lowest_versions_can_be_listed() -> None:
    said = subprocess.run([sys.executable, ".ci/lowest.py"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    listed = dict(line.split("==") for line in said)
    assert {needed.name for needed in NEEDED} <= set(listed)
    assert listed["torch"] == "2.13"
