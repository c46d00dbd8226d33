"""What the store takes on the disk is shown, and only what Luthier put there is removed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from luthier.core.errors import ModelError
from luthier.models.catalogue import PACKAGED
from luthier.models.disk import find_entry, folder_size, list_entries, lock_folder, remove_entry
from luthier.models.store import home, resolve
from luthier.pilot.models import disk, models, remove
from tests.models.test_store import in_pieces


@pytest.fixture
def store(bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store into which the base "pieced" was fetched."""
    in_pieces(bases("bert").folder, tmp_path, monkeypatch)
    resolve("pieced")
    return home()


def test_a_base_is_listed_with_its_bytes_removed_and_fetched_again_when_it_is_needed(store: Path) -> None:
    taken = sum(path.stat().st_size for path in (store / "pieced").rglob("*") if path.is_file())
    assert {row["name"]: row["bytes"] for row in models()} == {name: taken if name == "pieced" else 0 for name in PACKAGED}
    assert remove("pieced") == taken
    assert not list(store.iterdir())
    assert not any(row["here"] for row in models())
    assert resolve("pieced").folder == store / "pieced"


def test_a_name_that_is_not_there_is_answered_with_the_nearest(store: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'pieced'"):
        remove("piecd")
    with pytest.raises(ModelError, match="there is no base 'minilm-l6'"):
        remove("minilm-l6")


def test_a_model_of_the_hub_is_answered_with_the_command_that_removes_it(store: Path) -> None:
    with pytest.raises(ModelError, match="hf cache rm model/someone/something"):
        remove("someone/something")


def test_nothing_outside_of_the_store_is_removed(store: Path) -> None:
    outside = store.parent / "mine"
    outside.mkdir()
    (outside / "store.json").write_text("{}")
    (store / "linked").symlink_to(outside)
    for name in ("../mine", str(outside), "..", ".", "", "pieced/..", "pieced/../../mine", "linked"):
        with pytest.raises(ModelError):
            remove(name)
    assert (outside / "store.json").exists()
    assert (store / "pieced" / "model.safetensors").exists()


def test_a_link_within_a_base_is_removed_and_not_what_it_leads_to(store: Path) -> None:
    outside = store.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (store / "pieced" / "link").symlink_to(outside)
    remove("pieced")
    assert (outside / "file").read_text() == "mine"


def test_a_folder_that_luthier_did_not_write_is_listed_and_not_removed(store: Path) -> None:
    (store / "my-own").mkdir()
    (store / "my-own" / "file").write_text("mine")
    assert [(entry.name, entry.kind, entry.bytes, entry.removable) for entry in list_entries(store)][1:] == [
        ("my-own", "leftover", 4, False)
    ]
    with pytest.raises(ModelError, match="not written by Luthier"):
        remove("my-own")
    assert (store / "my-own" / "file").exists()


def test_what_a_stopped_fetch_left_over_is_listed_and_removed_but_not_while_it_is_written(store: Path) -> None:
    scratch = Path(tempfile.mkdtemp(dir=store, prefix=".minilm-l6-"))
    (scratch / "half").write_bytes(b"0" * 1000)
    with lock_folder(scratch) as free:
        assert free
        with pytest.raises(ModelError, match="minilm-l6 is being fetched"):
            remove(scratch.name)
    assert find_entry(store, scratch.name).about == "left over: fetching or removing minilm-l6 was stopped"
    assert remove(scratch.name) == 1000
    assert [entry.name for entry in list_entries(store)] == ["pieced"]


def test_a_fetch_holds_the_lock_of_its_folder(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove("pieced")
    seen: list[str] = []

    def look(*_: object) -> str:
        seen.extend(entry.about for entry in list_entries(store))
        return "0" * 64

    monkeypatch.setattr("luthier.models.store.file_hash", look)
    with pytest.raises(ModelError, match="the package was changed"):
        resolve("pieced")
    assert seen == ["pieced is being fetched"]


def test_a_removal_that_was_stopped_leaves_no_half_base_under_its_name(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("luthier.models.disk.shutil.rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            remove_entry(store, "pieced")
    assert not (store / "pieced").exists()
    (leftover,) = list_entries(store)
    assert leftover.removable
    assert remove(leftover.name) == leftover.bytes > 0
    assert not list(store.iterdir())


def test_a_base_that_this_version_does_not_know_can_be_removed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PACKAGED, "pieced")
    assert next(row["about"] for row in disk()) == "a base that this version does not know by name"
    remove("pieced")
    assert not list(store.iterdir())


def test_the_caches_are_listed_with_their_bytes(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert disk()[-1] == {**disk()[-1], "folder": str(tmp_path / "hub"), "bytes": 0}
    (tmp_path / "hub" / "blobs").mkdir(parents=True)
    (tmp_path / "hub" / "blobs" / "one").write_bytes(b"0" * 500)
    (tmp_path / "hub" / "snapshot").symlink_to(tmp_path / "hub" / "blobs" / "one")
    os.link(tmp_path / "hub" / "blobs" / "one", tmp_path / "hub" / "blobs" / "same")
    whole, cache = disk()[-2:]
    assert (whole["folder"], whole["bytes"]) == (str(store), folder_size(store))
    assert cache["bytes"] == 500 + len(str(tmp_path / "hub" / "blobs" / "one")), "a file with two names counts once; a link counts as one"
