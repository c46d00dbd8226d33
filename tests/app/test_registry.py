"""The commands about finished runs, as typed: what is printed, and how mistakes end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from luthier.app.cli import app, main
from luthier.app.columns import format_table
from luthier.core.aliases import write_alias
from tests.core.test_run_index import VERDICT, make


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of each state, in the current folder."""
    monkeypatch.chdir(tmp_path)
    make(Path("runs/good"))
    make(Path("runs/less"), verdict={**VERDICT, "metric": "loss", "higher_is_better": False, "test": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9},
                                     "difference": {"name": "the base", "value": 0.2, "low": 0.1, "high": 0.3}})  # fmt: skip
    make(Path("runs/stopped"), "started", verdict=None)
    make(Path("runs/broken"))
    Path("runs/broken/verdict.json").write_text("{")
    Path("runs/good/note.txt").write_text("for the \x1b[31mtalk\x1b[0m\n")
    return tmp_path


def type_in(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_the_table_says_of_each_run_what_it_came_to(project: Path) -> None:
    lines = {line.split()[0]: line for line in type_in("runs").output.splitlines()}
    assert (
        "improved" in lines["runs/good"]
        and "accuracy 90.0 % [85.0, 95.0]" in lines["runs/good"]
        and "+10.0 [+5.0, +15.0]" in lines["runs/good"]
    )
    assert "loss 0.5000 [0.4000, 0.6000]" in lines["runs/less"] and "+0.2000 [+0.1000, +0.3000]" in lines["runs/less"]
    assert "stopped" in lines["runs/stopped"] and "%" not in lines["runs/stopped"]
    assert "damaged" in lines["runs/broken"] and "verdict.json is damaged: it is not JSON" in lines["runs/broken"]
    assert "minilm-l6" in lines["runs/good"] and "13 s" in lines["runs/good"]


def test_what_stands_in_a_note_cannot_steer_the_terminal(project: Path) -> None:
    assert "\x1b" not in type_in("runs").output and "[31mtalk" in type_in("runs").output


def test_json_is_whole_and_holds_the_same(project: Path) -> None:
    found = json.loads(type_in("runs", "--json", "--sort", "verdict").output)
    assert [Path(row["folder"]).name for row in found][:2] == ["less", "good"] and found[0]["aliases"] == []
    assert {row["state"] for row in found} == {"finished", "stopped", "damaged"}


def test_where_there_are_no_runs_it_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = type_in("runs")
    assert done.exit_code == 0 and "luthier run DATA" in done.stderr and done.stdout == ""
    assert "luthier promote RUN production" in type_in("aliases").stderr


def test_a_note_is_written_and_read(project: Path) -> None:
    assert type_in("note", "runs/good", "the best one").output == "the best one\n"
    assert type_in("note", "runs/good").output == "the best one\n"
    assert "the best one" in type_in("runs").output


@pytest.mark.parametrize(
    "words",
    [
        ("runs", "nowhere"), ("runs", "--sort", "size"), ("runs", "--family", "x"), ("note", "runs/gone", "x"), ("compare", "runs/good"), ("compare", "runs/good", "runs/stopped"),
        ("compare", "runs/good", "runs/broken"), ("promote", "runs/stopped", "production"), ("promote", "runs/good", "a/b"), ("promote", "runs/broken", "production"), ("rollback", "production"),
        ("aliases", "production"), ("push", "runs/good", "me/x", "--dry-run"), ("push", "runs/good", "x"), ("import", "nothing.yml"), ("import", "runs/good/verdict.json"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_exit_code_2(
    words: tuple[str, ...], project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["luthier", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("luthier: ") and "→" in said and "Traceback" not in said


def test_a_damaged_file_of_aliases_is_named_by_every_command_that_reads_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("aliases.json").write_text("{")
    for words in (("runs",), ("aliases",), ("rollback", "production"), ("predict", "production", "x"), ("note", "production", "x")):
        monkeypatch.setattr(sys, "argv", ["luthier", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2 and "aliases.json is damaged" in capsys.readouterr().err


def test_the_list_imports_no_torch(project: Path) -> None:
    code = "import sys; sys.argv = ['luthier', 'runs']\nfrom luthier.app.cli import app\ntry: app()\nexcept SystemExit: pass\nprint([m for m in ('torch', 'transformers', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stderr


def test_a_column_that_is_empty_everywhere_is_left_out_and_lines_fit_the_terminal() -> None:
    lines = format_table(("a", "b", "c"), [("one", "", "x" * 30), ("two", "", "y")], 20)
    assert lines[0] == "a    c" and lines[1] == "one  " + "x" * 14 + "…" and lines[2] == "two  y"


def test_an_alias_whose_run_is_gone_says_so_in_the_table(project: Path) -> None:
    write_alias("production", Path("runs/away/bundle"), Path("runs/away"), "ab" * 32)
    assert "gone: put it back" in type_in("aliases").output
    assert type_in("runs").exit_code == 0
