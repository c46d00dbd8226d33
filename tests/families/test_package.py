"""A family outside the repository, installed as a package: recognised, trained, judged, reported, shipped, used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import make_base, rows

FAMILY = '''
from typing import Literal

from luthier.data.row_reader import Columns
from luthier.families.text_classification import TextClassification
from luthier.objectives.classification import Classification


class Mood(Classification):
    """Learn the mood of what was said."""

    kind: Literal["mood"] = "mood"


class MoodFamily(TextClassification):
    """Tables with the columns said and felt."""

    name = "mood"
    Spec = Mood
    specificity = 5

    def match(self, rows, path, asked):
        """Only these columns."""
        return Columns(self.name, ("said",), "felt", "what was said and felt") if {"said", "felt"} <= set(rows.columns) else None


FAMILY = MoodFamily()
'''
WAY = """
import json, sys
import luthier
from luthier.core.collector import collect_seldom
collect_seldom()
run = luthier.run(sys.argv[1], base=sys.argv[2], out=sys.argv[3], set=["training.epochs=4", "optimizer.lr=0.003"])
print("ANSWER" + json.dumps([run.verdict["task"], run.verdict["verdict"], [one["label"] for one in luthier.predict(run.folder, sys.argv[1])],
                             (run.folder / "report.html").exists(), "mood" in luthier.families.FAMILIES]))
"""


def install(folder: Path) -> None:
    """A package with an entry point, as an installer lays it out."""
    (folder / "moods.py").write_text(FAMILY)
    about = folder / "moods-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: moods\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[luthier.family]\nmood = moods:FAMILY\n")


def test_a_family_of_another_package_goes_the_whole_way(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site)
    make_base(tmp_path / "bert", "bert")
    table = tmp_path / "rows.jsonl"
    table.write_text(
        "".join(json.dumps({"said": f"{row['text']} {number}", "felt": row["label"]}) + "\n" for number, row in enumerate(rows(240)))
    )
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", WAY, str(table), str(tmp_path / "bert"), str(tmp_path / "run")],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert "ANSWER" in done.stdout, done.stderr[-2000:]
    task, verdict, labels, reported, listed = json.loads(done.stdout.split("ANSWER")[-1])
    assert (task, reported, listed) == ("mood", True, True)
    assert verdict in ("improved", "no_evidence")
    assert sum(said == row["label"] for said, row in zip(labels, rows(240), strict=True)) > 200
