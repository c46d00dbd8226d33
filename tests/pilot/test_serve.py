"""A bundle that is opened to be served, and an alias that is followed while requests run."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.core.aliases import write_alias
from luthier.core.errors import DataError, ExperimentError
from luthier.evaluation.abstention import Abstention
from luthier.families import family_of
from luthier.pilot.serve import TextTooLong, check_bundle, describe_bundle, load_model, read_rows
from luthier.serving.limits import Limits
from tests.conftest import make_base
from tests.families.cases import texts, write_lines

Folders = tuple[Path, Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Two runs; the second has learned the opposite."""
    folder = tmp_path_factory.mktemp("two")
    base = str(make_base(folder / "bert", "bert").folder)
    found = []
    for number, names in enumerate(({"yes": "yes", "no": "no"}, {"yes": "no", "no": "yes"}), 1):
        table = [{**row, "label": names[row["label"]]} for row in texts()]
        rows = write_lines(folder, table)
        found.append(luthier.run(rows, base=base, out=folder / f"run{number}", set=["training.steps=2"], force=True).folder)
    return found[0], found[1]


def test_what_is_said_of_a_bundle_before_it_is_loaded(runs: Folders, tmp_path: Path) -> None:
    about = describe_bundle(check_bundle(runs[0], print))
    assert (about["name"], about["family"], about["columns"], about["labels"], about["base"]) == (
        "run1",
        "classification",
        ["text"],
        ["no", "yes"],
        "bert",
    )
    assert about["verdict"]["metric"] == "accuracy" and about["verdict"]["low"] <= about["verdict"]["value"] <= about["verdict"]["high"]
    shutil.copytree(runs[0] / "bundle", tmp_path / "alone")
    alone = describe_bundle(check_bundle(tmp_path / "alone", print), "mine")
    assert (alone["name"], alone["verdict"], alone["sha256"]) == ("mine", None, about["sha256"])


def test_a_loaded_bundle_answers_as_predict_does_and_ends_its_thread(runs: Folders) -> None:
    model = load_model(check_bundle(runs[0], print))
    found = model.queue.submit(model.read([{"text": "the phone was great"}]), 1).future.result(30)
    assert [{"row": 1, **model.postprocess(found[0], 1, 0.9)}] == luthier.predict(
        runs[0], ["the phone was great"], top=1, abstain_below=0.9
    )
    table = Abstention.from_json(json.loads((runs[0] / "bundle" / "luthier.json").read_text())["abstention"])
    assert [each["error_below"] for each in model.about["promises"]] == [each.error_below for each in table.promises()]
    assert model.choose_threshold(None, 0.9, None) == 0.9
    for each in model.about["promises"]:
        assert model.choose_threshold(None, None, each["error_below"]) == each["threshold"]
    with pytest.raises(ExperimentError, match="cannot be promised"):
        model.choose_threshold(None, None, 1e-6)
    assert model.count_tokens(["the phone", "x"]) == sum(len(model.objective.tokenizer(text)["input_ids"]) for text in ("the phone", "x"))
    model.close(1)
    assert not model.queue._thread.is_alive()


def test_rows_are_checked_before_they_wait() -> None:
    family = family_of("classification")
    limits = Limits(characters=10)
    assert [record.values for record in read_rows(family, ("text",), [{"text": "good"}], limits)] == [{"text": "good"}]
    with pytest.raises(TextTooLong, match=r"row 2: text has 11 characters; 10 are read"):
        read_rows(family, ("text",), [{"text": "good"}, {"text": "x" * 11}], limits)
    with pytest.raises(DataError, match=r"row 1 has a column 'txt'"):
        read_rows(family, ("text",), [{"txt": "good"}], limits)
    (name,) = [path for path in ("/etc/passwd",) if Path(path).exists()] or ["README.md"]
    assert read_rows(family, ("text",), [{"text": name}], Limits())[0].values == {"text": name}  # a text, whatever it says


@pytest.mark.parametrize("how", ["cut", "windows"])
def test_a_long_text_is_refused_before_it_waits_unless_windows_read_all_of_it(runs: Folders, tmp_path: Path, how: str) -> None:
    settings = ["training.steps=2", "objective.max_length=16", f"objective.long_rows={how}", "objective.overlap=2"]
    run = luthier.run(write_lines(tmp_path, texts()), base=str(runs[0].parent / "bert"), out=tmp_path / "run", set=settings, force=True)
    model = load_model(check_bundle(run.folder, print))
    text = next(text for words in range(1, 20) if model.count_tokens([text := " great" * words]) == 16)
    model.refuse_long(model.read([{"text": text}]))  # as long as what is read
    longer = model.read([{"text": "short"}, {"text": f"{text} great"}])
    if how == "cut":
        with pytest.raises(TextTooLong, match=r"row 2: text has 17 tokens; the model reads 16"):
            model.refuse_long(longer)
        assert [row.get("cut") for row in luthier.predict(run.folder, [text, f"{text} great"], say=print)] == [None, 1]
    else:
        model.refuse_long(longer)
        assert len(model.queue.submit(longer, 1).future.result(30)) == 2
    model.close(1)


def test_an_alias_is_followed_and_no_request_is_lost(runs: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    monkeypatch.setenv("LUTHIER_ALIASES", str(tmp_path / "aliases.json"))
    monkeypatch.setattr("luthier.pilot.serve.WATCH_SECONDS", 0.02)
    luthier.promote(runs[0], "production", force=True)
    said: list[str] = []
    running = luthier.serve("production", port=0, say=said.append, wait=False)
    expected = [luthier.predict(run, ["the phone was great"])[0]["probabilities"]["yes"] for run in runs]
    found: list[float] = []
    problems: list[Exception] = []
    stop = threading.Event()

    def ask() -> Any:
        body = json.dumps({"model": "production", "rows": ["the phone was great"]}).encode()
        request = urllib.request.Request(
            f"{running.address}/predict", body, {"Authorization": f"Bearer {running.token}", "Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["data"][0]["probabilities"]["yes"]

    def work() -> None:
        while not stop.is_set():
            try:
                found.append(ask())
            except Exception as problem:
                problems.append(problem)

    def until_served(value: float) -> bool:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if ask() == pytest.approx(value, abs=1e-6):
                return True
        return False

    threads = [threading.Thread(target=work) for _ in range(4)]
    try:
        assert ask() == expected[0] != pytest.approx(expected[1], abs=1e-4)
        for thread in threads:
            thread.start()
        luthier.promote(runs[1], "production", force=True)
        assert until_served(expected[1])
        luthier.rollback("production")
        assert until_served(expected[0])
    finally:
        stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        running.close(1)
    assert not problems
    assert len(found) > 20
    assert all(any(value == pytest.approx(one, abs=1e-6) for one in expected) for value in found)
    assert any("no request was lost" in line for line in said)


def test_a_damaged_bundle_behind_an_alias_leaves_the_old_one(runs: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    monkeypatch.setenv("LUTHIER_ALIASES", str(tmp_path / "aliases.json"))
    monkeypatch.setattr("luthier.pilot.serve.WATCH_SECONDS", 0.02)
    shutil.copytree(runs[1] / "bundle", tmp_path / "second")
    luthier.promote(runs[0], "production", force=True)
    said: list[str] = []
    running = luthier.serve("production", port=0, say=said.append, wait=False)
    try:
        before = running.service.model
        (tmp_path / "second" / "tokenizer.json").write_text("{}")
        facts = json.loads((tmp_path / "second" / "luthier.json").read_text())
        write_alias("production", tmp_path / "second", tmp_path / "second", facts["facts"])
        end = time.monotonic() + 30
        while not any("cannot be served, so the old one stays" in line for line in said):
            assert time.monotonic() < end, said
            time.sleep(0.01)
        assert running.service.model is before and running.service.state == "ready"
    finally:
        running.close(0)
