"""Names for bundles: who bears one, who bore it before, and what a damaged file is told."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from luthier.core.aliases import aliases_file, history_of, read_alias, read_aliases, read_versions, roll_back_alias, write_alias
from luthier.core.errors import RunError


def promote_run(file: Path, name: str, run: str, sha256: str = "ab" * 32) -> None:
    place = file.parent / "runs" / run
    (place / "bundle").mkdir(parents=True, exist_ok=True)
    write_alias(name, place / "bundle", place, sha256, file=file)


def test_an_alias_stands_for_what_was_promoted_last(tmp_path: Path) -> None:
    file = tmp_path / "aliases.json"
    assert read_alias("production", file) is None
    promote_run(file, "production", "one")
    promote_run(file, "staging", "two", "cd" * 32)
    promote_run(file, "production", "two", "cd" * 32)
    found = read_alias("production", file)
    assert found is not None
    assert (found.folder, found.run, found.hash) == (tmp_path / "runs/two/bundle", tmp_path / "runs/two", "cd" * 32)
    assert [alias.run.name for alias in read_versions("production", file)] == ["one", "two"]
    assert sorted(read_aliases(file)) == ["production", "staging"]


def test_each_rollback_goes_one_further_back_and_the_history_keeps_all(tmp_path: Path) -> None:
    file = tmp_path / "aliases.json"
    for name in ("one", "two", "three"):
        promote_run(file, "production", name)
    now, before = roll_back_alias("production", file)
    assert (now.run.name, before.run.name) == ("two", "three")
    now, _ = roll_back_alias("production", file)
    assert now.run.name == "one"
    with pytest.raises(RunError, match="nothing bore the name production before"):
        roll_back_alias("production", file)
    promote_run(file, "production", "four")
    assert [alias.run.name for alias in read_versions("production", file)] == ["one", "four"]
    assert [event["event"] for event in history_of("production", file)] == ["promoted"] * 3 + ["rolled_back"] * 2 + ["promoted"]


def test_a_project_can_be_moved_with_its_aliases(tmp_path: Path) -> None:
    promote_run(tmp_path / "old" / "aliases.json", "production", "one")
    (tmp_path / "old").rename(tmp_path / "new")
    found = read_alias("production", tmp_path / "new" / "aliases.json")
    assert found is not None and found.folder == tmp_path / "new/runs/one/bundle"


def test_a_folder_elsewhere_is_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "project" / "aliases.json"
    place = tmp_path / "elsewhere"
    place.mkdir()
    write_alias("production", place, place, "ab" * 32, file=file)
    assert json.loads(file.read_text())["aliases"]["production"][0]["bundle"] == str(place)
    found = read_alias("production", file)
    assert found is not None and found.folder == place


def test_the_file_can_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert aliases_file() == Path("aliases.json")
    monkeypatch.setenv("LUTHIER_ALIASES", str(tmp_path / "mine.json"))
    promote_run(tmp_path / "mine.json", "production", "one")
    assert read_alias("production") is not None


@pytest.mark.parametrize("name", ["a/b", "../x", "", "-x", "1st", "a b", "x" * 65, "prod;rm"])
def test_a_name_that_is_a_path_or_that_a_shell_would_read_otherwise_is_no_alias(name: str, tmp_path: Path) -> None:
    assert read_alias(name, tmp_path / "aliases.json") is None
    with pytest.raises(RunError, match="cannot be the name of an alias"):
        write_alias(name, tmp_path, tmp_path, "ab" * 32, file=tmp_path / "aliases.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 1}',
        '{"format": 1, "aliases": {"production": 3}}',
        '{"format": "x", "aliases": {}}',
        "\x80\x81",
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_promoted_over_it(text: str, tmp_path: Path) -> None:
    file = tmp_path / "aliases.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"aliases\.json is damaged"):
        read_alias("production", file)
    with pytest.raises(RunError, match="is damaged"):
        promote_run(file, "production", "one")
    assert file.read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize(
    "events",
    [[{"event": "promoted"}], [{"event": "rolled_back"}], ["x"], [{"event": "promoted", "run": 1, "bundle": 2, "sha256": "", "at": ""}]],
)
def test_a_damaged_history_is_named(events: list[object], tmp_path: Path) -> None:
    file = tmp_path / "aliases.json"
    file.write_text(json.dumps({"format": 1, "aliases": {"production": events}}))
    with pytest.raises(RunError, match="history of 'production' is damaged"):
        read_alias("production", file)


def test_a_file_of_a_later_luthier_says_so(tmp_path: Path) -> None:
    (tmp_path / "aliases.json").write_text('{"format": 2, "aliases": {}}')
    with pytest.raises(RunError, match="format 2"):
        read_alias("production", tmp_path / "aliases.json")


def test_an_unknown_alias_names_the_nearest(tmp_path: Path) -> None:
    promote_run(tmp_path / "aliases.json", "production", "one")
    with pytest.raises(RunError) as caught:
        history_of("prodution", tmp_path / "aliases.json")
    assert "did you mean 'production'" in str(caught.value)


def promote_often(file: Path, name: str) -> None:
    for number in range(20):
        promote_run(file, name, f"{name}-{number}")


def test_promotions_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "aliases.json"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=promote_often, args=(file, name)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [len(history_of(name, file)) for name in ("one", "two")] == [20, 20]
