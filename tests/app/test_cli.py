"""The command as a person meets it: in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import luthier as package
from luthier.app.cli import app
from luthier.core.errors import LuthierError
from tests import processes
from tests.conftest import rows

COMMANDS = (
    "run",
    "search",
    "similar",
    "check",
    "show",
    "prove",
    "plan",
    "train",
    "resume",
    "predict",
    "chat",
    "report",
    "models",
    "runs",
    "compare",
    "note",
    "promote",
    "rollback",
    "aliases",
    "push",
    "import",
)


def luthier(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return processes.run("-m", "luthier", *words, **options)


def here(*words: object) -> int:
    """The exit code of a command in this process, where torch is loaded already."""
    return CliRunner().invoke(app, [str(word) for word in words]).exit_code


def refuse(*words: object) -> LuthierError:
    """The mistake that a command in this process ends with, as `main` gets it."""
    problem = CliRunner().invoke(app, [str(word) for word in words]).exception
    assert isinstance(problem, LuthierError)
    return problem


def test_help_lists_the_verbs_and_imports_no_torch() -> None:
    done = luthier("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"  {name} " in done.stdout
    heavy = "import sys; sys.argv = ['luthier', '--help']\nfrom luthier.app.cli import app\ntry: app()\nexcept SystemExit: pass\nprint([m for m in ('torch', 'transformers', 'numpy', 'pydantic', 'sklearn') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", heavy], check=False, capture_output=True, text=True).stdout.strip().endswith("[]")


def test_help_at_eighty_columns_cuts_no_line() -> None:
    done = luthier("--help", env=os.environ | {"COLUMNS": "80"})
    commands = done.stdout.partition("Commands:")[2]
    assert done.returncode == 0 and "export" in commands
    assert "..." not in commands and "…" not in commands


def test_the_page_of_commands_has_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    names = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    assert len(names) > 20
    assert not [name for name in names if f"`luthier {name}" not in page]


@pytest.mark.parametrize(
    "words, at, found", [("luthier sea", 1, "search"), ("luthier run --bud", 2, "--budget"), ("luthier models pu", 2, "pull")]
)
def test_the_shell_completes_commands_and_options(words: str, at: int, found: str) -> None:
    asked = {"_LUTHIER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    code = "import sys; sys.argv = ['luthier']\nfrom luthier.app.cli import main\ntry: main()\nexcept SystemExit: pass\nprint([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env={**os.environ, **asked})
    assert done.stdout.split() == [found, "[]"], done.stderr


def test_the_run_folder_exists_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, luthier.pilot.run as pilot, luthier.core.run as core\n"
        "def caught(place, *a, **k):\n    print('torch' in sys.modules, (place.folder / '.lock').exists())\n    raise SystemExit\n"
        "begin = pilot.begin_run\n"
        "def both(place, *a, **k):\n    begin(place, *a, **k)\n    print((place.folder / 'experiment.yaml').exists())\n    caught(place)\n"
        "pilot.begin_run = both\n"
        f"pilot.run({str(make(tmp_path))!r}, out={str(tmp_path / 'run')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False", "True"], done.stderr


def make(folder: Path, count: int = 120) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, "text": f"{row['text']} {number}"}) + "\n" for number, row in enumerate(rows(count))))
    return file


VERBS = {"import": "import_config"}
"""Commands whose names are words of Python's own."""


def test_every_command_is_a_verb_of_the_package() -> None:
    for name in set(COMMANDS) - {"models"}:
        assert callable(getattr(package, VERBS.get(name, name)))
    assert package.__all__ == sorted(package.__all__, key=lambda name: (name.islower(), name))


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("run rows.csv --set a.b=1 c.d=2 --quiet", "run rows.csv --set a.b=1 --set c.d=2 --quiet"),
        ("run --set a.b=1 rows.csv", "run --set a.b=1 rows.csv"),
        ("run --set a.b=1 --set c.d=2", "run --set a.b=1 --set c.d=2"),
        ("search rows.csv --space a.b=1..2 c.d_e=3|4 --try a.b=1", "search rows.csv --space a.b=1..2 --space c.d_e=3|4 --try a.b=1"),
        ("predict run a.b=1", "predict run a.b=1"),
        ("predict run --set a.b=1 --out c.d=2", "predict run --set a.b=1 --out c.d=2"),
        ("predict run --set a.b=1 -- c.d=2", "predict run --set a.b=1 -- c.d=2"),
        ("run --set nonsense rows.csv", "run --set nonsense rows.csv"),
    ],
)
def test_several_changes_behind_one_flag_are_that_many_flags(typed: str, meant: str) -> None:
    from luthier.app.typed import repeat_flags

    assert repeat_flags(typed.split()) == meant.split()


@pytest.mark.parametrize(
    "words, message",
    [
        (("run", "nowhere.csv"), "there is no file"),
        (("train", "nowhere.yaml"), "there is no experiment"),
        (("resume", "nowhere"), "is not a run folder"),
        (("predict", "nowhere", "text"), "there is no bundle"),
        (("models", "show", "nothing"), "there is no base"),
        (("check", __file__, "--fix", f"{__file__}/fixed.csv"), "cannot be written"),
        (("check", __file__, "--page", f"{__file__}/page.html"), "cannot be written"),
    ],
)
def test_a_mistake_ends_with_exit_code_2_and_one_message(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = luthier(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "→" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_predict_and_report_from_the_shell(bases, tmp_path: Path) -> None:
    file = make(tmp_path)
    words = ["run", file, "--base", bases("bert").folder, "--out", tmp_path / "run", "--set", "training.steps=20", "--set", "optimizer.lr=0.003", "--json"]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "luthier", *map(str, words)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["task"] == "classification"
    assert "tokens/s" in done.stderr
    assert "left" in done.stderr
    one = json.loads(luthier("predict", tmp_path / "run" / "bundle", "the phone was great", "--json").stdout)
    assert set(one["probabilities"]) == {"yes", "no"}
    assert sum(one["probabilities"].values()) == pytest.approx(1)
    table = tmp_path / "new.csv"
    table.write_text('text,note\nthe film was dull,=1+1\n"great, indeed",b\n')
    assert here("predict", tmp_path / "run", table, "--out", tmp_path / "said.csv") == 0
    lines = (tmp_path / "said.csv").read_text().splitlines()
    assert lines[0] == "text,note,predicted_label,predicted_confidence"
    assert len(lines) == 3
    assert ",'=1+1," in lines[1]
    assert refuse("predict", tmp_path / "run", tmp_path / "none.csv").exit_code == 2
    (tmp_path / "run" / "report.html").unlink()
    assert here("report", tmp_path / "run") == 0
    assert (tmp_path / "run" / "report.html").exists()
    again = luthier("resume", tmp_path / "run")
    assert again.stderr.splitlines() == [f"{tmp_path / 'run'} is finished: nothing to resume"]


def begin(*words: object) -> subprocess.Popen[str]:
    """The command as a process, once its training has begun."""
    out = Path(str(words[words.index("--out") + 1]))
    process = processes.begin("-m", "luthier", *words, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    until = time.monotonic() + 300
    while not list(out.rglob("metrics.jsonl")) and time.monotonic() < until:
        time.sleep(0.02)
    return process


WAITS = """
import sys, time
from pathlib import Path
import luthier.pilot.run as pilot
from luthier.app.cli import main
own, mark = pilot.run, Path(sys.argv.pop(1))
def wait(step):
    if step.number == 9:
        mark.touch()
        while mark.exists():
            time.sleep(0.01)
pilot.run = lambda *words, **options: own(*words, **options, watchers=[wait])
main()
"""
"""The command; in step 9 of the training it writes a mark and waits until that is taken away."""


def test_ctrl_c_twice_in_a_row_leaves_a_run_that_is_resumed_to_the_same_bytes(bases, tmp_path: Path) -> None:
    folder, mark, base = tmp_path / "a run", tmp_path / "mark", bases("bert").folder
    words = ("run", make(tmp_path), "--base", base, "--out", folder, "--set", "training.steps=20", "--force", "--quiet")
    process = processes.begin("-c", WAITS, mark, *words, stderr=subprocess.PIPE)
    until = time.monotonic() + 300
    while not mark.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    mark.unlink()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == f"luthier: stopped; go on with `luthier resume '{folder}'`"
    assert "Traceback" not in said
    assert list((folder / "checkpoints").glob("step-000009/optimizer.safetensors"))
    assert not (folder / "verdict.json").exists()
    resumed = package.resume(folder)
    (interrupted,) = [
        event for event in map(json.loads, (folder / "events.jsonl").read_text().splitlines()) if event["event"] == "interrupted"
    ]
    assert resumed.verdict is not None
    assert resumed.verdict["seconds"] > interrupted["seconds"]  # type: ignore[operator]
    package.train(folder / "experiment.yaml", out=tmp_path / "straight", force=True)
    for name in ("bundle/model.safetensors", "metrics.jsonl"):
        assert (folder / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_ctrl_c_in_a_search_names_the_study(bases, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    process = begin("search", make(tmp_path), "--base", bases("bert").folder, "--out", folder, "--set", "training.steps=4000", "--trials", "2", "--force", "--quiet")  # fmt: skip
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 143, said
    assert said.splitlines()[-1] == f"luthier: stopped; go on with `luthier resume {folder}`"


def test_ctrl_c_before_anything_was_written_says_only_that_it_stopped(tmp_path: Path) -> None:
    code = (
        "import sys, luthier.pilot.run as pilot\n"
        "def stopped(*a, **k):\n    raise KeyboardInterrupt\n"
        "pilot.load_dataset = stopped\n"
        f"sys.argv = ['luthier', 'run', {str(make(tmp_path))!r}]\n"
        "from luthier.app.cli import main\nmain()\n"
    )
    done = processes.run("-c", code, cwd=tmp_path)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "luthier: stopped"


def test_the_version_is_printed() -> None:
    from importlib.metadata import version

    done = luthier("--version")
    assert (done.returncode, done.stdout) == (0, f"luthier {version('luthier')}\n")


def test_models_are_listed_with_where_they_are() -> None:
    done = luthier("models", "list", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows][:4] == ["minilm-l6", "mpnet-base", "smollm2-135m", "gemma3-270m"]
    assert {"efficientnet-lite0", "cifar-resnet20"} < {row["name"] for row in rows}
    for row, line in zip(rows, luthier("models", "list").stdout.splitlines(), strict=True):
        assert ("here" if row["here"] else f"{row['megabytes']} MB to {'fetch' if row['package'] else 'give'}") in line


def test_the_help_of_metric_names_those_of_every_family_and_that_of_base_the_start_from_scratch() -> None:
    import re
    from typing import get_args

    from luthier.app.cli import Metric
    from luthier.families import FAMILIES, family_of

    named = set(re.findall(r"[a-z0-9_]+", get_args(Metric)[1].help))
    assert {metric for name in FAMILIES for metric in family_of(name).metrics if family_of(name).Spec} <= named
    assert all("scratch:" in luthier(verb, "--help").stdout for verb in ("run", "search"))


def test_the_help_of_task_names_every_family() -> None:
    from typing import get_args

    from luthier.app.options import Task
    from luthier.families import FAMILIES

    text = get_args(Task)[1].help
    assert not [name for name in FAMILIES if name not in text.replace(",", " ").replace(";", " ").replace(".", " ").split()]
