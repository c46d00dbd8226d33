"""The package as a person meets it who types `luthier.` and presses tab."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import luthier

KINDS = ("DataError", "ExperimentError", "ModelError", "RunError", "DiskFull", "DiskFailed", "Diverged", "DoesNotFit", "OutOfMemory", "NoGo", "Disproved")  # fmt: skip


def test_every_name_is_there_and_listed() -> None:
    for name in luthier.__all__:
        assert getattr(luthier, name) is not None
        assert name in dir(luthier)
    assert "bound_spinning" not in dir(luthier)
    assert luthier.__version__ == version("luthier")
    for name in ("Run", "Study", "Step", "Finding", "Watcher", "Experiment"):
        assert name in luthier.__all__


def test_every_kind_of_error_is_a_luthier_error() -> None:
    for name in KINDS:
        assert issubclass(getattr(luthier, name), luthier.LuthierError)


def test_a_stop_is_a_keyboard_interrupt_that_code_which_catches_errors_does_not_swallow(tmp_path: Path) -> None:
    assert issubclass(luthier.Stopped, KeyboardInterrupt)
    assert not issubclass(luthier.Stopped, Exception)
    stop = luthier.Stopped(2, tmp_path / "my run")
    assert stop.folder == tmp_path / "my run"
    assert str(stop) == f"stopped; go on with `luthier resume '{tmp_path}/my run'`"
    assert str(luthier.Stopped(2)) == "stopped"


def test_looking_at_the_names_imports_nothing_heavy() -> None:
    code = "import sys, luthier; dir(luthier); luthier.__version__; luthier.LuthierError; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_a_run_and_a_study_open_by_a_path_or_its_text(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").touch()
    (tmp_path / "plan.yaml").touch()
    assert luthier.Run.open(str(tmp_path)).folder == luthier.Run.open(tmp_path).folder == tmp_path
    assert luthier.Study.open(str(tmp_path)).folder == tmp_path
    with pytest.raises(luthier.RunError, match="is not a run folder"):
        luthier.Run.open(str(tmp_path / "none"))
