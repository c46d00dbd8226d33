"""What a bundle can be asked, and what it refuses to be asked; what its predictions hold."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import luthier
from luthier.app.cli import app
from luthier.app.reporters import clean
from luthier.core.errors import DataError, ExperimentError, LuthierError
from luthier.core.run import Run
from luthier.models.manifest import write_facts
from luthier.pilot.stages.opened_bundle import load_bundle, resolve_bundle
from tests import processes
from tests.conftest import rows

QUICK = ["training.steps=12", "optimizer.lr=0.003"]


def make(folder: Path, lines: list[dict[str, Any]]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def classifier(bases, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("classifier")
    file = make(folder, [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(rows(120))])
    return luthier.run(file, base=str(bases("bert", 2).folder), out=folder / "run", set=[*QUICK, "objective.max_length=100"], force=True)


@pytest.fixture(scope="module")
def pairs(bases, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A classifier that reads two columns, the second of which may be empty."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = [
        {"title": row["text"], "body": str(number) if number % 3 else None, "label": row["label"]} for number, row in enumerate(rows(120))
    ]
    return luthier.run(make(folder, lines), base=str(bases("bert", 2).folder), input="title,body", target="label", out=folder / "run", set=["training.steps=2"], force=True)  # fmt: skip


@pytest.fixture(scope="module")
def talker(bases, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("talker")
    lines = [{"prompt": f"what about {number}?", "completion": row["text"]} for number, row in enumerate(rows(90))]
    return luthier.run(make(folder, lines), base=str(bases("llama", 2).folder), out=folder / "run", set=["training.steps=2"], force=True)


@pytest.fixture(scope="module")
def messenger(bases, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A chat model whose rows hold whole conversations."""
    folder = tmp_path_factory.mktemp("messenger")
    lines = [
        {"messages": [{"role": "user", "content": f"what about {number}?"}, {"role": "assistant", "content": row["text"]}]}
        for number, row in enumerate(rows(90))
    ]
    return luthier.run(make(folder, lines), base=str(bases("llama", 2).folder), out=folder / "run", set=["training.steps=2"], force=True)


TEXTS = ["the phone was great", "the film was dull"]


def probabilities(found: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [row["probabilities"] for row in found]


def test_every_way_of_giving_the_same_texts_gives_the_same_predictions(
    classifier: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    wanted = luthier.predict(classifier.folder, TEXTS)
    assert [row["row"] for row in wanted] == [1, 2]
    assert all(row["confidence"] == max(row["probabilities"].values()) == row["probabilities"][row["label"]] for row in wanted)
    lines = [{"text": text, "label": "ignored"} for text in TEXTS]
    files = {
        "rows.csv": "text,label\nthe phone was great,a\nthe film was dull,b\n",
        "rows.tsv": "text\tlabel\nthe phone was great\ta\nthe film was dull\tb\n",
        "rows.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        "rows.json": json.dumps(lines),
        "texts.txt": "the phone was great\r\nthe film was dull\n",
    }
    given: list[Any] = [tuple(TEXTS), lines, pandas.DataFrame(lines), pyarrow.Table.from_pylist(lines)]
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        given += [tmp_path / name, str(tmp_path / name)]
    for each in given:
        assert probabilities(luthier.predict(classifier.folder, each)) == probabilities(wanted), each
    for name, content in files.items():
        monkeypatch.setattr("sys.stdin", io.StringIO(content))
        assert probabilities(luthier.predict(classifier.folder, "-")) == probabilities(wanted), name
    assert luthier.predict(classifier.folder, TEXTS[0])[0]["label"] == wanted[0]["label"]
    assert luthier.predict(classifier.folder, lines[0])[0]["label"] == wanted[0]["label"]
    assert luthier.predict(classifier.folder, []) == []
    assert luthier.predict(classifier.folder, pandas.DataFrame(lines)[:0]) == []


def test_a_row_of_a_file_is_known_by_its_line(classifier: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.csv").write_text('text\n"on two\nlines"\ndull\n')
    assert [row["row"] for row in luthier.predict(classifier.folder, tmp_path / "rows.csv")] == [2, 4]
    monkeypatch.setattr("sys.stdin", io.StringIO("good\n\nbad\n"))
    assert [row["row"] for row in luthier.predict(classifier.folder, "-")] == [1, 3]


def test_what_is_no_text_is_refused_with_its_row_and_a_remedy(classifier: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    wrong: list[tuple[Any, str]] = [
        (["good", None], "row 2 is None, not a text"),
        (["good", float("nan")], r"row 2 is missing \(NaN\)"),
        (["good", 5], r"row 2 is an int \(5\), not a text"),
        (["good", True], "row 2 is a bool"),
        (["good", ["bad"]], "row 2 is a list"),
        (["good", " "], "row 2: there is no text"),
        (["good", {"text": "bad"}], "row 1 is a str, not a dict"),
        ("", "row 1: there is no text"),
        ("  ", "row 1: there is no text"),
        (["half \ud800"], "row 1: half of a character pair"),
        (["nul \0"], "row 1: a NUL byte"),
        (None, "a NoneType is not something|None is not something"),
        (5, r"an int \(5\) is not something"),
        ((text for text in TEXTS), "a generator is not something"),
        ({"good", "bad"}, "a set is not something"),
        (pandas.Series(TEXTS), "a Series is one column"),
        (pandas.DataFrame({"txt": TEXTS}), "no column 'text'.*\n.*did you mean 'txt'"),
        (pandas.DataFrame({"text": ["good", None]}), "row 2: there is no text"),
        (pandas.DataFrame({"text": [1.5, 2.0]}), r"row 1: text holds a float \(1.5\), not a text \(and 1 more\)"),
        ({"txt": "good"}, "no column 'text'"),
        ({"text": TEXTS}, "row 1: text holds a list, not a text"),
        ([{"text": "good"}, {"note": "bad"}, {"text": None}], r"row 2: there is no text in text \(and 1 more\)"),
    ]
    for given, message in wrong:
        with pytest.raises(DataError, match=message) as caught:
            luthier.predict(classifier.folder, given)
        assert caught.value.remedy
    (tmp_path / "rows.csv").write_text("text,n\ngood,1\n,2\n")
    with pytest.raises(DataError, match=r"rows\.csv, line 3: there is no text"):
        luthier.predict(classifier.folder, tmp_path / "rows.csv")
    (tmp_path / "head.csv").write_text("text,n\n")
    with pytest.raises(DataError, match=r"holds no rows[\s\S]*at least one row"):
        luthier.predict(classifier.folder, tmp_path / "head.csv")
    for path in (
        tmp_path / "none",
        tmp_path / "none.csv",
        str(tmp_path / "none.csv"),
        "none.xlsx",
        "./none",
        str(tmp_path / "none"),
        "~/none",
    ):
        with pytest.raises(DataError, match="there is no file"):
            luthier.predict(classifier.folder, path)
    (tmp_path / "odd.bin").write_bytes(b"\x01")
    with pytest.raises(DataError):
        luthier.predict(classifier.folder, str(tmp_path / "odd.bin"))
    for content, message in (("", "standard input is empty"), ('{"text": "good"}\n{broken\n', "standard input, line 2: not a JSON object")):
        monkeypatch.setattr("sys.stdin", io.StringIO(content))
        with pytest.raises(DataError, match=message):
            luthier.predict(classifier.folder, "-")


def test_a_file_is_read_as_it_is_said_and_nothing_else_can_be_set(classifier: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = luthier.predict(classifier.folder, ["café good", "bad"])
    for name, content in (
        ("rows.csv", "text\ncafé good\nbad\n"),
        ("lines.txt", "café good\nbad\n"),
        ("rows.dat", "text\ncafé good\nbad\n"),
    ):
        (tmp_path / name).write_bytes(content.encode("cp1252"))
        changes = ["data.encoding=cp1252", *(["data.format=csv"] if name.endswith("dat") else [])]
        found = luthier.predict(classifier.folder, tmp_path / name, set=changes)
        assert probabilities(found) == probabilities(wanted)
    with pytest.raises(DataError, match=r"not utf-8[\s\S]*--set data.encoding=cp1252"):
        luthier.predict(classifier.folder, tmp_path / "rows.csv")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("text\ncafé good\nbad\n".encode("cp1252"))))
    assert probabilities(luthier.predict(classifier.folder, "-", set={"data.encoding": "cp1252"})) == probabilities(wanted)
    for change in ("data.target=x", "optimizer.lr=1"):
        with pytest.raises(ExperimentError, match="predict sets how a file is read, not"):
            luthier.predict(classifier.folder, TEXTS, set=change)


def test_a_run_itself_can_be_given_and_arguments_of_other_types_are_named(classifier: Run, talker: Run) -> None:
    assert luthier.predict(classifier, TEXTS) == luthier.predict(classifier.folder / "bundle", TEXTS)
    assert "".join(luthier.chat(talker, limit=2).say("hello")) == "".join(luthier.chat(talker.folder, limit=2).say("hello"))
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (["good"], {}, "the bundle is a list, which names no folder\n.*the bundle first"),
        (classifier, {"top": "2"}, "top is '2', a str, not a whole number"),
        (classifier, {"top": True}, "top is True"),
        (classifier, {"abstain_below": "0.8"}, "abstain_below is '0.8', a str, not a number"),
        (classifier, {"limit": 2.5}, "limit is 2.5"),
    ]
    for bundle, options, said in wrong:
        with pytest.raises(ExperimentError, match=said):
            luthier.predict(bundle, TEXTS, **options)
    with pytest.raises(ExperimentError, match="temperature is 'x'"):
        luthier.chat(talker, temperature="x")  # type: ignore[arg-type]


def test_a_second_column_may_be_missing_as_it_might_in_training(pairs: Run) -> None:
    wanted = probabilities(luthier.predict(pairs.folder, [{"title": TEXTS[0], "body": ""}]))
    for row in ({"title": TEXTS[0], "body": None}, {"title": TEXTS[0], "body": float("nan")}):
        assert probabilities(luthier.predict(pairs.folder, row)) == wanted
    many = luthier.predict(pairs.folder, [{"title": TEXTS[0]}, {"title": TEXTS[1], "body": 5}, {"body": "5"}])
    assert probabilities(many)[:1] == [pytest.approx(wanted[0], abs=1e-5)]
    with pytest.raises(DataError, match="no column 'body'"):
        luthier.predict(pairs.folder, {"title": TEXTS[0]})
    with pytest.raises(DataError, match="row 2: there is no text in title or body"):
        luthier.predict(pairs.folder, [{"title": TEXTS[0], "body": "5"}, {"title": "", "body": None}])
    for texts in (TEXTS[0], TEXTS):
        with pytest.raises(DataError, match=r"reads 2 columns \(title, body\)"):
            luthier.predict(pairs.folder, texts)


def test_a_chat_model_takes_texts_rows_and_conversations_and_refuses_broken_ones(talker: Run, messenger: Run) -> None:
    wanted = luthier.predict(talker.folder, "what about 3?", limit=4)
    assert list(wanted[0]) == ["row", "text"]
    assert luthier.predict(talker.folder, {"prompt": "what about 3?"}, limit=4) == wanted
    turns = [{"role": "user", "content": "what about 3?"}]
    wanted = luthier.predict(messenger.folder, "what about 3?", limit=4)
    assert luthier.predict(messenger.folder, {"messages": turns}, limit=4) == wanted
    assert luthier.predict(messenger.folder, [{"messages": [*turns, {"role": "assistant", "content": "so"}]}], limit=4) == wanted
    for broken, message in (
        ([{"role": "user", "content": None}], "turn 1 says nothing"),
        ([{"role": "assistant", "content": "x"}], "turn 1 is from 'assistant'"),
        ([], "turn 1 is from 'assistant'"),
        (["x"], "not a list of turns"),
    ):
        with pytest.raises(DataError, match=f"row 1: .*{message}"):
            luthier.predict(messenger.folder, {"messages": broken})
    with pytest.raises(DataError, match="no column 'messages'"):
        luthier.predict(messenger.folder, turns)
    for options in ({"top": 2}, {"abstain_below": 0.5}, {"error_below": 0.5}):
        with pytest.raises(ExperimentError, match="is for classifiers"):
            luthier.predict(talker.folder, "what about 3?", **options)  # pyright: ignore[reportArgumentType]


def test_the_likeliest_classes_and_what_is_not_sure_enough(classifier: Run) -> None:
    plain = luthier.predict(classifier.folder, TEXTS)
    found = luthier.predict(classifier.folder, TEXTS, top=3, abstain_below=1.0)
    assert probabilities(found) == probabilities(plain)
    for row, before in zip(found, plain, strict=True):
        assert [each["probability"] for each in row["top"]] == sorted(before["probabilities"].values(), reverse=True)
        assert row["top"][0]["label"] == before["label"]
        assert (row["label"], row["abstained"], row["confidence"]) == (None, True, before["confidence"])
    (row,) = luthier.predict(classifier.folder, TEXTS[:1], top=1, abstain_below=plain[0]["confidence"])
    assert (row["label"], row["abstained"], len(row["top"])) == (plain[0]["label"], False, 1)  # as sure as asked for is sure enough
    for wrong in ({"top": 0}, {"abstain_below": 80.0}, {"abstain_below": -0.1}):
        with pytest.raises(ExperimentError):
            luthier.predict(classifier.folder, TEXTS, **wrong)  # pyright: ignore[reportArgumentType]


def with_table(run: Run, folder: Path, table: dict[str, Any] | None) -> Path:
    """A copy of a bundle whose validation rows said something else of its thresholds."""
    shutil.copytree(run.folder / "bundle", folder)
    facts = json.loads((folder / "luthier.json").read_text())
    assert facts["abstention"]["rows"] > 0
    facts = {name: value for name, value in facts.items() if name not in ("abstention", "format", "files", "facts")}
    write_facts(folder, facts | ({"abstention": table} if table else {}))
    return folder


def test_an_error_that_is_asked_for_chooses_the_threshold_that_promises_it(classifier: Run, tmp_path: Path) -> None:
    low, high = sorted(row["confidence"] for row in luthier.predict(classifier.folder, TEXTS))
    counts = [{"threshold": (low + high) / 2, "answered": 100, "wrong": 0}, {"threshold": 0.0, "answered": 200, "wrong": 40}]
    bundle = with_table(classifier, tmp_path / "bundle", {"sure": 0.95, "rows": 200, "counts": counts})
    told: list[str] = []
    found = luthier.predict(bundle, TEXTS, error_below=0.05, say=told.append)
    assert found == luthier.predict(bundle, TEXTS, abstain_below=counts[0]["threshold"])
    assert sorted(row["abstained"] for row in found) == [False, True]
    assert "at most 5% of them are wrong (95% sure; of 200 validation rows 50% are answered, 0.0% of these wrongly)" in told[0]
    assert not any(row["abstained"] for row in luthier.predict(bundle, TEXTS, error_below=0.5))
    luthier.predict(bundle, TEXTS, abstain_below=low, say=told.append)
    assert (
        told[1]
        == f"of 200 validation rows 50% have a confidence of {counts[0]['threshold']:g} or more: 0.0% of these are wrong (at most 3.0%, 95% sure)"
    )
    luthier.predict(bundle, TEXTS, abstain_below=1.0, say=told.append)
    assert len(told) == 2  # no validation row is so sure
    shown, _ = command("predict", bundle, TEXTS[0], "--error-below", "5%", "--json")
    assert json.loads(shown)["abstained"] in (True, False)


def test_an_error_that_cannot_be_promised_is_refused_with_the_smallest_that_can(classifier: Run, tmp_path: Path) -> None:
    counts = [{"threshold": 0.9, "answered": 100, "wrong": 0}, {"threshold": 0.0, "answered": 200, "wrong": 40}]
    bundle = with_table(classifier, tmp_path / "bundle", {"sure": 0.95, "rows": 200, "counts": counts})
    with pytest.raises(
        ExperimentError,
        match=r"below 1% cannot be promised: the smallest error that 200 validation rows can promise here is 3%[\s\S]*at least 299",
    ):
        luthier.predict(bundle, TEXTS, error_below=0.01)
    with pytest.raises(ExperimentError, match="both say when a label is left out"):
        luthier.predict(bundle, TEXTS, error_below=0.05, abstain_below=0.8)
    for wrong in (0.0, 1.0, 5, -0.1):
        with pytest.raises(ExperimentError, match="is no share of the answers"):
            luthier.predict(bundle, TEXTS, error_below=wrong)
    with pytest.raises(ExperimentError, match="error_below is '5%', a str, not a number"):
        luthier.predict(bundle, TEXTS, error_below="5%")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ExperimentError, match=r"an earlier version wrote it[\s\S]*train it again"):
        luthier.predict(with_table(classifier, tmp_path / "old", None), TEXTS, error_below=0.05)


def test_predictions_are_written_beside_the_columns_of_the_rows_and_a_taken_name_is_said(
    classifier: Run, talker: Run, tmp_path: Path
) -> None:
    lines = [{"text": text, "predicted_label": "mine"} for text in TEXTS]
    told: list[str] = []
    found = luthier.predict(classifier.folder, lines, out=tmp_path / "a" / "b.jsonl", top=2, abstain_below=1.0, say=told.append)
    written = [json.loads(line) for line in (tmp_path / "a" / "b.jsonl").read_text().splitlines()]
    names = ["label", "confidence", "abstained", "top1_label", "top1_confidence", "top2_label", "top2_confidence"]
    assert [list(row) for row in written] == [["text", "predicted_label", *(f"predicted_{name}_2" for name in names)]] * 2
    assert all(row["predicted_label"] == "mine" and row["predicted_label_2"] is None and row["predicted_abstained_2"] for row in written)
    assert written[0]["predicted_top1_confidence_2"] == round(found[0]["confidence"], 6)
    assert "end in _2" in told[0]
    with pytest.warns(UserWarning, match="end in _2"):
        luthier.predict(classifier.folder, lines, out=tmp_path / "c.csv")
    asked = [{"prompt": "what about 3?", "text": "the user's own"}]
    luthier.predict(talker.folder, asked, out=tmp_path / "said.jsonl", limit=4)
    (row,) = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert list(row) == ["prompt", "text", "predicted_text"]
    assert row["text"] == "the user's own"


def test_what_cannot_be_written_is_refused_before_anything_is_predicted(
    classifier: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_text("text\ngood\n")

    def load(base: Any) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("luthier.pilot.predict.load_bundle", load)
    for out in (tmp_path / "rows.csv", tmp_path / "x.xlsx", classifier.folder / "bundle" / "x.csv", classifier.folder / "metrics.jsonl"):
        with pytest.raises(DataError):
            luthier.predict(classifier.folder, tmp_path / "rows.csv", out=out)


def command(*words: object, said: str = "") -> tuple[str, LuthierError | None]:
    """What a command prints, in this process (a new one has to load torch first), and the mistake it ends with."""
    done = CliRunner().invoke(app, [str(word) for word in words], input=said)
    if isinstance(done.exception, LuthierError):
        return done.stdout, done.exception
    assert done.exit_code == 0, done.output
    return done.stdout, None


def test_predictions_from_the_command_line(classifier: Run, tmp_path: Path) -> None:
    said = "the phone was great\n\nthe film was dull\n"
    shown, _ = command("predict", classifier.folder, "-", "--json", "--top", 1, "--abstain-below", 0.99, said=said)
    found = [json.loads(line) for line in shown.splitlines()]
    assert [row["row"] for row in found] == [1, 3]
    assert all(set(row) == {"row", "label", "confidence", "abstained", "probabilities"} and len(row["probabilities"]) == 1 for row in found)
    shown, _ = command("predict", classifier.folder, "the phone was great", "--top", 2, "--abstain-below", 1)
    assert re.fullmatch(r"\(not sure\)  [\d.]+%  \((yes|no) [\d.]+%, (yes|no) [\d.]+%\)\n", shown)
    shown, _ = command("predict", classifier.folder, "the phone was great", "--abstain-below", 1)
    assert re.fullmatch(r"\(not sure\)  [\d.]+%  \((yes|no) [\d.]+%\)\n", shown)
    out = tmp_path / "deep" / "said.csv"
    shown, _ = command("predict", classifier.folder, "the phone was great", "--out", out, "--abstain-below", 1)
    assert shown == f"1 row written to {out}, 1 of them without a label\n"
    assert out.read_text().splitlines()[0] == "text,predicted_label,predicted_confidence,predicted_abstained"
    for words, message in ((("good", "--out", tmp_path / "x.xlsx"), "cannot be written as .xlsx"), (("-",), "standard input is empty")):
        shown, mistake = command("predict", classifier.folder, *words)
        assert (shown, message in str(mistake)) == ("", True)
    done = processes.run("-m", "luthier", "predict", classifier.folder, "-", input="")
    assert (done.returncode, "standard input is empty" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_a_piped_text_of_several_lines_is_one_turn_of_a_chat(talker: Run, tmp_path: Path) -> None:
    text = "what about 3?\n\nand what about 4?\n"
    whole, _ = command("chat", talker.folder, "--limit", 4, said=text)
    (tmp_path / "text.txt").write_text(text)
    assert command("chat", talker.folder, "--limit", 4, "--file", tmp_path / "text.txt") == (whole, None)
    assert command("chat", talker.folder, "--limit", 4, said=f'"""\n{text}"""\n') == (whole, None)
    conversation = luthier.chat(talker.folder, limit=4)
    assert "".join(clean(piece) for piece in conversation.say(text.strip())) + "\n" == whole
    apart, _ = command("chat", talker.folder, "--limit", 4, "--lines", said=text)
    conversation = luthier.chat(talker.folder, limit=4)
    assert apart == "".join("".join(clean(piece) for piece in conversation.say(line)) + "\n" for line in text.splitlines() if line)
    _, mistake = command("chat", talker.folder, "--limit", 4, said='"""\nhalf')
    assert "never closed" in str(mistake)


def test_a_text_that_is_longer_than_the_model_reads_is_told_with_the_remedy(classifier: Run, tmp_path: Path) -> None:
    long = "the phone was great " * 100  # 400 words
    tokens = len(load_bundle(resolve_bundle(classifier.folder, print)[0])[1].tokenizer(long)["input_ids"])
    said: list[str] = []
    found = luthier.predict(classifier.folder, [TEXTS[0], long], say=said.append)
    assert [row.get("cut") for row in found] == [None, tokens - 100] and "cut" not in found[0]
    assert said == [
        "1 of 2 texts was longer than the 100 tokens that the model reads: the rest was left out (`cut` says how many tokens); "
        "to read more, train with objective.long_rows=windows or a larger objective.max_length"
    ]
    with pytest.warns(UserWarning, match="1 of 1 text was longer than the 100 tokens"):
        luthier.predict(classifier.folder, long)
    rows = tmp_path / "rows.csv"
    rows.write_text(f"text\n{TEXTS[0]}\n{long}\n")
    ran = CliRunner().invoke(app, ["predict", str(classifier.folder), str(rows), "--out", str(tmp_path / "out.csv")])
    assert (ran.exit_code, "1 of 2 texts was longer" in ran.stderr, "1 of 2 texts" in ran.stdout) == (0, True, False)
    head, first, second = (tmp_path / "out.csv").read_text().splitlines()
    assert head == "text,predicted_label,predicted_confidence,predicted_cut"
    assert first.endswith(",") and second.endswith(f",{tokens - 100}")


def test_without_a_long_text_nothing_is_said_of_cuts(classifier: Run, tmp_path: Path) -> None:
    said: list[str] = []
    found = luthier.predict(classifier.folder, TEXTS, out=tmp_path / "out.csv", say=said.append)
    assert said == [] and not any("cut" in row for row in found)
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "text,predicted_label,predicted_confidence"
