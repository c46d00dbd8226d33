"""A bundle is whole, or it is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.core.errors import ModelError
from luthier.core.run import Run
from luthier.models.manifest import deciding_files, write_facts
from luthier.models.store import resolve
from tests.conftest import rows

QUICK = ["training.steps=2", "optimizer.lr=0.003"]
TRAINED = [*QUICK, "adaptation.kind=lora", "training.ships=trained"]


@pytest.fixture(scope="module")
def classifier(bases, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("classifier")
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, "text": f"{row['text']} {number}"}) + "\n" for number, row in enumerate(rows(120))))
    return luthier.run(file, base=str(bases("bert").folder), out=folder / "run", set=TRAINED, force=True)


@pytest.fixture(scope="module")
def talker(bases, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("talker")
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"what about {n}?", "completion": row["text"]}) + "\n" for n, row in enumerate(rows(90))))
    return luthier.run(file, base=str(bases("llama").folder), out=folder / "run", set=QUICK, force=True)


def copy(run: Run, folder: Path) -> Path:
    return Path(shutil.copytree(run.folder / "bundle", folder / "copy"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_manifest_names_every_file_that_is_loaded(classifier: Run, talker: Run) -> None:
    for run, needed in ((classifier, {"adapter/adapter_model.safetensors"}), (talker, {"chat_template.jinja", "generation_config.json"})):
        facts = json.loads((run.folder / "bundle" / "luthier.json").read_text())
        assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", *needed} <= set(facts["files"])
        assert {file.relative_to(run.folder / "bundle").as_posix() for file in (run.folder / "bundle").rglob("*") if file.is_file()} == {
            *facts["files"],
            "luthier.json",
            "README.md",
        }


@pytest.mark.parametrize("kind", ["classifier", "talker"])
@pytest.mark.parametrize("harm", ["removed", "changed"])
def test_a_file_that_was_removed_or_changed_is_named_and_the_bundle_refused(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, harm: str
) -> None:
    run = request.getfixturevalue(kind)
    for name in [*deciding_files(run.folder / "bundle"), "luthier.json"]:
        folder = copy(run, tmp_path)
        if harm == "removed":
            (folder / name).unlink()
        else:
            flip(folder / name)
        with pytest.raises(ModelError) as caught:
            luthier.predict(folder, "the phone was good")
        assert name in caught.value.message, name
        assert str(folder) in caught.value.message
        assert caught.value.remedy
        assert "convert" not in str(caught.value)
        if name != "luthier.json":  # without it, it is a base like any other
            with pytest.raises(ModelError, match=name.replace(".", r"\.")):
                resolve(str(folder))
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "luthier.json"])
def test_a_bundle_in_its_run_that_lacks_a_file_says_how_to_get_it_back(classifier: Run, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(classifier.folder, tmp_path / "run"))
    (folder / "bundle" / name).unlink()
    for place in (folder, folder / "bundle"):
        with pytest.raises(ModelError, match=rf"bundle is not whole: {name}[\s\S]*luthier train {folder}/experiment.yaml"):
            luthier.predict(place, "the phone was good")
    shutil.rmtree(folder / "bundle")
    with pytest.raises(ModelError, match="holds no bundle"):
        luthier.predict(folder, "the phone was good")
    events = [line for line in (folder / "events.jsonl").read_text().splitlines() if '"finished"' not in line]
    (folder / "events.jsonl").write_text("\n".join(events) + "\n")
    with pytest.raises(ModelError, match=f"luthier resume {folder}`"):
        luthier.predict(folder, "the phone was good")


@pytest.mark.parametrize("name", ["chat_template.jinja", "added_tokens.json", "vocab.txt", "adapter_config.json", "additional_chat_templates/tool.jinja"])  # fmt: skip
def test_a_file_that_was_added_and_could_change_what_is_loaded_is_refused(classifier: Run, tmp_path: Path, name: str) -> None:
    folder = copy(classifier, tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(ModelError, match=f"{name} was added"):
        luthier.predict(folder, "the phone was good")


def test_a_card_a_licence_and_hidden_files_may_be_added_or_changed(classifier: Run, tmp_path: Path) -> None:
    folder = copy(classifier, tmp_path)
    for name in ("README.md", "LICENSE", "LICENSE.txt", ".gitattributes", "curve.png"):
        (folder / name).write_text("anything")
    assert luthier.predict(folder, "the phone was good") == luthier.predict(classifier.folder, "the phone was good")


def test_labels_that_were_swapped_in_luthier_json_are_refused(classifier: Run, tmp_path: Path) -> None:
    folder = copy(classifier, tmp_path)
    facts: dict[str, Any] = json.loads((folder / "luthier.json").read_text())
    facts["objective"]["labels"].reverse()
    (folder / "luthier.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match=r"luthier\.json was changed"):
        luthier.predict(folder, "the phone was good")


def test_luthier_json_laid_out_otherwise_says_the_same(classifier: Run, tmp_path: Path) -> None:
    folder = copy(classifier, tmp_path)
    facts = json.loads((folder / "luthier.json").read_text())
    (folder / "luthier.json").write_text(json.dumps(facts, sort_keys=True))
    assert luthier.predict(folder, "the phone was good")


def test_a_bundle_of_the_first_format_is_opened_with_its_old_check_and_that_is_said(classifier: Run, tmp_path: Path) -> None:
    folder = copy(classifier, tmp_path)
    facts = json.loads((folder / "luthier.json").read_text())
    old = {name: value for name, value in facts.items() if name not in ("files", "facts")} | {"format": 1}
    (folder / "luthier.json").write_text(json.dumps(old))
    with pytest.warns(UserWarning, match="older Luthier"):
        assert luthier.predict(folder, "the phone was good") == luthier.predict(classifier.folder, "the phone was good")
    told: list[str] = []
    luthier.predict(folder, "the phone was good", say=told.append)
    assert "format 1" in told[0]
    flip(folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors was changed"):
        luthier.predict(folder, "the phone was good")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        luthier.predict(folder, "the phone was good")


def test_a_bundle_of_a_later_format_is_refused(classifier: Run, tmp_path: Path) -> None:
    folder = copy(classifier, tmp_path)
    (folder / "luthier.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ModelError, match="update Luthier"):
        luthier.predict(folder, "the phone was good")


def test_a_bundle_that_is_not_whole_is_no_base_for_training_either(classifier: Run, tmp_path: Path) -> None:
    folder = copy(classifier, tmp_path)
    flip(folder / "tokenizer.json")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(120)))
    with pytest.raises(ModelError, match=r"tokenizer\.json was changed"):
        luthier.run(file, base=str(folder), out=tmp_path / "run")


def test_a_store_note_in_a_bundle_does_not_replace_its_check(classifier: Run, tmp_path: Path) -> None:
    folder = copy(classifier, tmp_path)
    size = (folder / "model.safetensors").stat().st_size
    flip(folder / "model.safetensors")
    (folder / "store.json").write_text(json.dumps({"sha256": "0", "size": size}))
    with pytest.raises(ModelError, match=r"model\.safetensors was changed"):
        luthier.predict(folder, "the phone was good")


def test_the_same_files_make_the_same_manifest(classifier: Run, tmp_path: Path) -> None:
    folder = copy(classifier, tmp_path)
    before = (folder / "luthier.json").read_bytes()
    facts = json.loads(before)
    write_facts(folder, {name: value for name, value in facts.items() if name not in ("format", "files", "facts")})
    assert (folder / "luthier.json").read_bytes() == before
