"""What transformers alone makes of an export, in a process that knows nothing of Luthier and has no network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.core.errors import ModelError
from luthier.core.run import Run
from luthier.delivery.exports import transformers_runtime
from tests.conftest import SELDOM

OFFLINE = f"""{SELDOM}
import json, socket, sys
def refuse(*given): raise OSError("the network is off")
for name in ("connect", "connect_ex", "sendto"): setattr(socket.socket, name, refuse)
from transformers import pipeline
assert not any(name.startswith("luthier") for name in sys.modules)
print(json.dumps([pipeline("text-classification", folder, top_k=None)(texts) for folder, texts in json.loads(sys.argv[1])]))
"""
TEXTS = {"classes": ["the phone was great", "an awful meal"], "labels": ["pizza at the river", "a choir and soup"]}


@pytest.fixture(scope="module")
def exported(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, Any, list[Any]]]:
    """A run of classes and one of labels, what their exports were proven by, and what a pipeline says of these: both in one process without Luthier and network."""
    folder = tmp_path_factory.mktemp("exported")
    done = {name: luthier.export(runs(name).folder, to="safetensors", out=folder / name, most=4) for name in TEXTS}
    asked = [(str(done[name].folder), texts) for name, texts in TEXTS.items()]
    command = [sys.executable, "-I", "-c", OFFLINE, json.dumps(asked)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1])
    return {name: (runs(name), done[name].parity, each) for name, each in zip(TEXTS, said, strict=True)}


@pytest.mark.parametrize("name", TEXTS)
def test_what_was_exported_in_a_pipeline_gives_the_same_numbers_in_a_process_without_luthier_and_network(exported: Any, name: str) -> None:
    run, parity, said = exported[name]
    assert parity is not None and "in a process of its own" in parity["runtime"] and parity["same"]
    if name == "labels":
        assert json.loads((run.folder / "bundle" / "luthier.json").read_text())["temperature"] != 1.0
    for ours, theirs in zip(luthier.predict(run.folder, TEXTS[name]), said, strict=True):
        assert {each["label"]: each["score"] for each in theirs} == pytest.approx(ours["probabilities"], abs=1e-5)


def test_the_runtime_imports_nothing_of_luthier() -> None:
    source = transformers_runtime.SCRIPT.read_text()
    assert not [line for line in source.splitlines() if line.lstrip().startswith(("import luthier", "from luthier"))]


@pytest.mark.usefixtures("in_this_process")
def test_the_tokenizer_is_told_how_much_of_a_row_was_read_in_training(runs: Any, tmp_path: Path) -> None:
    run = runs("classes")
    done = luthier.export(run.folder, to="safetensors", out=tmp_path / "out", most=2)
    longest = json.loads((run.folder / "bundle" / "luthier.json").read_text())["objective"]["max_length"]
    assert json.loads((done.folder / "tokenizer_config.json").read_text())["model_max_length"] == longest


def test_an_average_is_refused_with_the_reason_and_the_formats_that_hold_it(runs: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the average of the trained model and a linear probe") as caught:
        luthier.export(runs("average").folder, to="safetensors", out=tmp_path / "out")
    assert caught.value.remedy == "formats that hold this classification model: int8, onnx"
    assert "trained again with --set training.ships=trained fits" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_classifier_never_fits_gguf_whatever_ships_and_the_reason_is_its_network(runs: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its architecture 'bert' is none") as caught:
        luthier.export(runs("average").folder, to="gguf", out=tmp_path / "out")
    assert "average of" not in caught.value.message and "gguf" not in caught.value.remedy


@pytest.mark.usefixtures("in_this_process")
def test_a_vector_is_pooled_as_the_folder_says(runs: Any, tmp_path: Path) -> None:
    run = runs("vectors")
    done = luthier.export(run.folder, to="sentence-transformers", out=tmp_path / "out", most=3)
    assert {"modules.json", "1_Pooling/config.json"} <= set(done.files)
    assert "SentenceTransformer" in done.usage
