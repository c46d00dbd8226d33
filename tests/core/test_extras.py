"""Where the package of an extra is missing, the answer is the command that installs it, and exit code 2."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from luthier.core.extras import EXTRAS
from tests.conftest import rows

ROOT = Path(__file__).parents[2]


def luthier_without(
    module: str, *words: object, code: str = "from luthier.app.cli import main; main()"
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process in which a module cannot be imported."""
    blocked = f"import sys; sys.modules[{module!r}] = None; sys.argv = {['luthier', *map(str, words)]!r}\n{code}"
    return subprocess.run([sys.executable, "-c", blocked], check=False, capture_output=True, text=True)


def refuse(done: subprocess.CompletedProcess[str], extra: str) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"  → pip install 'luthier[{extra}]'"), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "module, extra, file",
    [
        ("pyarrow", "parquet", "rows.parquet"),
        ("pyarrow", "parquet", "rows.arrow"),
        ("python_calamine", "excel", "rows.xlsx"),
        ("pypdf", "documents", "texts/good/one.pdf"),
        ("docx", "documents", "texts/good/one.docx"),
        ("PIL", "images", "pictures/good/one.png"),
    ],
)
def test_reading_a_file_without_its_package_names_the_command_that_installs_it(tmp_path: Path, module: str, extra: str, file: str) -> None:
    path = tmp_path / file
    for place in (path, path.parent.with_name("bad") / path.name) if "/" in file else (path,):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"something")
    data = tmp_path / file.split("/")[0]
    for command in ("check", "run"):
        said = refuse(luthier_without(module, command, data), extra)
        assert f"needs {EXTRAS[module][0]}" in said


def test_predictions_as_parquet_without_pyarrow_name_the_command_that_installs_it(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom luthier.core.errors import LuthierError\nfrom luthier.delivery.predictions import prepare_output\n"
        f"try: prepare_output(Path({str(tmp_path / 'said.parquet')!r}), [{{'a': 1}}], chat=False, source=None, bundle=Path('bundle'))\n"
        "except LuthierError as problem: print(problem, file=sys.stderr); sys.exit(problem.exit_code)"
    )
    refuse(luthier_without("pyarrow", code=code), "parquet")


def test_a_search_on_a_cluster_without_ray_is_refused_before_it_makes_anything(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows()))
    for workers in ("1", "2"):
        done = luthier_without("ray", "search", file, "--backend", "ray", "--workers", workers, "--out", tmp_path / "study")
        assert "needs Ray" in refuse(done, "ray")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("module", sorted(EXTRAS))
def test_help_and_version_need_no_extra(module: str) -> None:
    for word in ("--help", "--version"):
        assert luthier_without(module, word).returncode == 0


def test_every_extra_that_a_message_names_is_declared_and_brings_its_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(declared) - {"dev", "all"} == {extra for _, extra in EXTRAS.values()}
    for package, extra in EXTRAS.values():
        assert package.lower() in {re.split(r"[\[<>=~!; ]", each)[0].lower() for each in declared[extra]}
