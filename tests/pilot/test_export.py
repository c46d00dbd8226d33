"""The verbs export and parity, and their commands: what they say before, what they leave, and what they refuse."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import luthier
from luthier.app.cli import app
from luthier.core.errors import LuthierError
from luthier.core.run import Run
from luthier.delivery.exports.transformers_folder import TransformersFolder
from luthier.models.store import resolve
from luthier.pilot.export import FAILED, PartsError
from tests.conftest import rows

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def classifier(bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("classifier")
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({**row, "text": f"{row['text']} {number}"}) + "\n" for number, row in enumerate(rows(120)))
    )
    changes = ["training.steps=2", "optimizer.lr=0.003", "training.ships=trained", "training.dtype=float32"]
    return luthier.run(folder / "rows.jsonl", base=str(bases("bert").folder), out=folder / "run", set=changes, force=True)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TransformersFolder, "apart", False)


def type_in(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_person_sees_what_is_not_held_the_stages_the_verdict_the_size_and_the_command(classifier: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = type_in("export", classifier.folder, "--to", "safetensors", "--dtype", "bf16", "--out", out, "--most", 4, "--quiet")
    assert said.exit_code == 0, said.output
    for line in ("safetensors does not hold the last 16 bits", "rendered text", "token ids", "log-probabilities", "decoded text", "metric", "verdict: same",
                 f"files   {out}", f'pipeline("text-classification", "{out}")', "24 sealed test rows"):  # fmt: skip
        assert line in said.output, line
    again = type_in("parity", classifier.folder, out, "--most", 4, "--quiet", "--json")
    assert again.exit_code == 0
    record = json.loads((out / "parity.json").read_text())
    assert record["same"] and record["changed"] == []


def test_an_export_is_noted_beside_its_bundle_which_stays_whole(classifier: Run, tmp_path: Path) -> None:
    done = luthier.export(classifier.folder, to="safetensors", out=tmp_path / "out", most=2)
    noted = json.loads((classifier.folder / "bundle" / "exports.jsonl").read_text().splitlines()[-1])
    assert noted["format"] == "safetensors" and noted["parity"] == "same" and set(noted["files"]) == set(done.files)
    assert resolve(str(classifier.folder)).bundle is not None
    facts = json.loads((done.folder / "export.json").read_text())
    assert facts["bundle"]["sha256"] == json.loads((classifier.folder / "bundle" / "luthier.json").read_text())["sha256"]


def test_an_export_that_parts_is_put_aside_and_the_command_fails(classifier: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.export_faults import reverse_labels

    write = TransformersFolder.write

    def break_it(self: Any, bundle: Any, folder: Path, *others: Any) -> None:
        write(self, bundle, folder, *others)
        reverse_labels(folder, bundle.folder)

    monkeypatch.setattr(TransformersFolder, "write", break_it)
    out = tmp_path / "out"
    said = type_in("export", classifier.folder, "--to", "safetensors", "--out", out, "--most", 4, "--quiet")
    assert said.exit_code != 0 and isinstance(said.exception, PartsError) and said.exception.exit_code == 1
    assert "parts at decoded text" in said.output and not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name + FAILED]
    assert not json.loads((tmp_path / (out.name + FAILED) / "parity.json").read_text())["same"]
    with pytest.raises(PartsError) as caught:
        luthier.export(classifier.folder, to="safetensors", out=out, most=4)
    assert caught.value.record["stage"] == "decoded text" and str(caught.value.folder).endswith(FAILED)


def test_parity_of_files_that_were_changed_fails_and_says_which(classifier: Run, tmp_path: Path) -> None:
    from benchmarks.export_faults import lose_temperature

    done = luthier.export(classifier.folder, to="safetensors", out=tmp_path / "out", most=2)
    lose_temperature(done.folder, classifier.folder / "bundle")
    said = type_in("parity", classifier.folder, done.folder, "--most", 4, "--quiet")
    assert said.exit_code == 1
    assert "model.safetensors was changed since the export was written" in said.output
    assert "verdict: parts at weights" in said.output


def test_a_bundle_without_its_run_is_compared_on_rows_that_are_given(classifier: Run, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(classifier.folder / "bundle", tmp_path / "bundle"))
    with pytest.raises(LuthierError, match="lies in no run"):
        luthier.export(bundle, to="safetensors", out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    file = classifier.folder.parent / "rows.jsonl"
    done = luthier.export(bundle, to="safetensors", out=tmp_path / "out", rows=file, most=5)
    assert done.parity is not None and done.parity["same"] and done.parity["metric"]["name"] == "accuracy"
    bare = luthier.parity(bundle, tmp_path / "out", rows=["the phone was great"])
    assert {stage["name"]: stage["state"] for stage in bare["stages"]}["metric"] == "unseen" and bare["same"]


def test_what_cannot_be_done_is_refused_with_a_remedy_and_leaves_nothing(classifier: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    before = sorted(path.name for path in tmp_path.iterdir())
    run = classifier.folder
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"to": "onxx"}, "no exporter 'onxx'", "did you mean 'onnx'"),
        ({"to": "word2vec"}, "hold no table of words", "int8, onnx, safetensors"),
        ({"to": "sentence-transformers"}, "give no vectors", "int8, onnx, safetensors"),
        ({"to": "safetensors", "dtype": "bf17"}, "no weights in 'bf17'", "did you mean"),
        ({"to": "safetensors", "out": tmp_path / "full"}, "is there already", "choose another --out"),
        ({"to": "safetensors", "out": run / "bundle" / "out"}, "lies in the bundle", "outside of it"),
        ({"to": "safetensors", "bundle": tmp_path / "nothing"}, "nothing", ""),
    ]
    for given, message, remedy in wrong:
        options = {"bundle": run, "out": tmp_path / "out", **given}
        with pytest.raises(LuthierError, match=message) as caught:
            luthier.export(options.pop("bundle"), **options)
        assert remedy in caught.value.remedy, given
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with pytest.raises(LuthierError, match="is no export"):
        luthier.parity(run, tmp_path / "full")


def test_an_export_of_another_bundle_is_refused(classifier: Run, tmp_path: Path) -> None:
    done = luthier.export(classifier.folder, to="safetensors", out=tmp_path / "out", most=2, parity=False)
    facts = json.loads((done.folder / "export.json").read_text())
    facts["bundle"]["sha256"] = "0" * 64
    (done.folder / "export.json").write_text(json.dumps(facts))
    with pytest.raises(LuthierError, match="another bundle"):
        luthier.parity(classifier.folder, done.folder)


@pytest.mark.parametrize(("to", "module"), [("onnx", "onnx"), ("onnx", "onnxruntime"), ("int8", "onnx_ir")])
def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(
    classifier: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LuthierError, match=f"exporting to {to} needs") as caught:
        luthier.export(classifier.folder, to=to, out=tmp_path / "out")
    assert caught.value.remedy == "pip install 'luthier[export]'"
    assert not list(tmp_path.iterdir())
