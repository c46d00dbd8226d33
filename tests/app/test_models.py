"""The commands about base models, in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.test_cli import luthier


@pytest.fixture
def environment(bases, tmp_path: Path) -> dict[str, str]:
    """A store that holds the base minilm-l6 by its name: a copy of a tiny one."""
    folder = tmp_path / "models" / "minilm-l6"
    folder.mkdir(parents=True)
    source = bases("bert")
    for file in source.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "store.json").write_text(json.dumps({"sha256": source.fingerprint, "size": (folder / "model.safetensors").stat().st_size}))
    (folder / "padding").write_bytes(b"0" * 2_000_000)
    return {**os.environ, "LUTHIER_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}


def test_a_base_is_listed_with_its_size_and_removed(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "models" / "minilm-l6"
    first, second = luthier("models", "list", env=environment).stdout.splitlines()[:2]
    assert "here, 2 MB" in first
    assert "404 MB to fetch" in second
    assert "2 MB  minilm-l6: a base" in luthier("models", "disk", env=environment).stdout
    assert [json.loads(line)["name"] for line in luthier("models", "disk", "--json", env=environment).stdout.splitlines()] == [
        "minilm-l6", "the store", "the hub's cache",
    ]  # fmt: skip
    done = luthier("models", "remove", "minilm-l6", "--yes", env=environment)
    assert (done.returncode, done.stdout) == (0, "removed minilm-l6: 2 MB freed\n")
    assert not folder.exists()
    assert "84 MB to fetch" in luthier("models", "list", env=environment).stdout.splitlines()[0]


def test_where_nobody_can_be_asked_the_base_stays(environment: dict[str, str], tmp_path: Path) -> None:
    done = luthier("models", "remove", "minilm-l6", env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "add --yes" in done.stderr
    assert (tmp_path / "models" / "minilm-l6").exists()


@pytest.mark.parametrize("answer, stays", [("n", True), ("y", False)])
def test_a_person_is_asked(environment: dict[str, str], tmp_path: Path, answer: str, stays: bool) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    done = luthier("models", "remove", "minilm-l6", env=environment, stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert f"Remove {tmp_path / 'models' / 'minilm-l6'} (2 MB)?" in done.stderr
    assert (tmp_path / "models" / "minilm-l6").exists() == stays
    assert done.returncode == 0


def test_a_wrong_name_is_answered_before_anybody_is_asked(environment: dict[str, str]) -> None:
    done = luthier("models", "remove", "minilm-l7", env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "did you mean 'minilm-l6'" in done.stderr


def test_sizes_are_told_without_importing_torch(environment: dict[str, str]) -> None:
    code = "import sys\nfrom luthier.pilot.models import disk, models\nmodels(), disk()\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment).stdout == "False\n"
