"""`luthier check`, `show` and `prove`: what a person types, and what they get."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import luthier
from luthier.core.errors import DataError
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset
from luthier.training.prove import Disproved
from tests.data.test_malformed import sentence


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Sixty rows, three copies, one text with two labels, one row without a label."""
    made = [{"text": sentence(number), "label": "ab"[number % 2]} for number in range(60)]
    made += [{"text": sentence(number).upper(), "label": "ab"[number % 2]} for number in (1, 2, 3)]
    made += [{"text": sentence(10), "label": "b"}, {"text": sentence(200), "label": ""}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def test_fixing_writes_a_new_file_and_a_journal_and_leaves_the_source(rows: Path, tmp_path: Path) -> None:
    before = rows.read_bytes()
    fixed = tmp_path / "fixed.jsonl"
    done = luthier.check(rows, model=False, fix=fixed)
    assert rows.read_bytes() == before
    assert done.fixed == fixed
    kept = [json.loads(line) for line in fixed.read_text().splitlines()]
    source = [json.loads(line) for line in before.decode().splitlines()]
    head, *dropped = (json.loads(line) for line in (tmp_path / "fixed.jsonl.journal.jsonl").read_text().splitlines())
    assert [line["line"] for line in dropped] == [11, 61, 62, 63, 64, 65]
    assert [line["why"].split(":")[0] for line in dropped] == ["conflicts", *["duplicates.exact"] * 3, "conflicts", "set aside"]
    assert kept == [row for number, row in enumerate(source, 1) if number not in {line["line"] for line in dropped}]
    assert head["sha256"] == hashlib.sha256(before).hexdigest()
    assert head["result_sha256"] == hashlib.sha256(fixed.read_bytes()).hexdigest()
    assert load_dataset(Data(path=str(fixed))).spec.fingerprint != load_dataset(Data(path=str(rows))).spec.fingerprint
    with pytest.raises(DataError, match="nothing is overwritten"):
        luthier.check(rows, model=False, fix=fixed)


def test_fixing_takes_the_spaces_around_labels_away_and_says_which(tmp_path: Path) -> None:
    labels = ["yes ", "\u00a0no", *("yes", "no") * 30, "yes  "]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": sentence(number), "label": label}) + "\n" for number, label in enumerate(labels)))
    done = luthier.check(path, model=False, fix=tmp_path / "fixed.jsonl")
    assert any("without the spaces is" in row.reason and "--fix" in row.reason for row in done.dataset.rejected)
    fixed = [json.loads(line)["label"] for line in (tmp_path / "fixed.jsonl").read_text().splitlines()]
    assert fixed == [label.strip() for label in labels]  # none is dropped for being alone with its spelling
    head, *changed = (json.loads(line) for line in (tmp_path / "fixed.jsonl.journal.jsonl").read_text().splitlines())
    assert (head["kept"], head["dropped"], head["changed"]) == (63, 0, 3)
    assert changed[0] == {"line": 1, "why": "spellings: spaces around the label", "was": "yes ", "now": "yes"}
    assert load_dataset(Data(path=str(tmp_path / "fixed.jsonl"))).labels == ("no", "yes")


def test_labels_that_differ_in_spaces_only_are_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    labels = [("yes", "no", "yes ")[number % 3] for number in range(60)]
    path.write_text("".join(json.dumps({"text": sentence(number), "label": label}) + "\n" for number, label in enumerate(labels)))
    found = next(one for one in luthier.check(path, model=False).findings if one.check == "spellings")
    assert "'yes' = 'yes '" in found.claim
    assert found.remedy == "each is a class of its own now: --fix takes the spaces around labels away"


@pytest.mark.parametrize("name", ["fixed.csv", "fixed.tsv"])
def test_a_fixed_table_reads_back_as_the_same_rows(rows: Path, tmp_path: Path, name: str) -> None:
    luthier.check(rows, model=False, fix=tmp_path / "fixed.jsonl")
    luthier.check(rows, model=False, fix=tmp_path / name)
    one, two = (load_dataset(Data(path=str(tmp_path / each))) for each in ("fixed.jsonl", name))
    assert [[record.values for record in one.records[part]] for part in one.records] == [
        [record.values for record in two.records[part]] for part in two.records
    ]


def test_the_page_shows_the_rows_and_runs_nothing_that_stands_in_them(rows: Path, tmp_path: Path) -> None:
    with rows.open("a") as file:
        file.write(json.dumps({"text": "<script>alert(1)</script> jane@example.org", "label": "a"}) + "\n")
    done = luthier.check(rows, model=False, page=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert done.page == tmp_path / "page.html"
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; jane@example.org" in page
    assert "default-src 'none'" in page


def test_checks_through_a_model_say_how_many_rows_they_looked_at(rows: Path, bases, monkeypatch: pytest.MonkeyPatch) -> None:
    done = luthier.check(rows, base=bases("bert").name)
    looked = [found.evidence for found in done.findings if found.check in ("labels", "outliers", "flattery")]
    assert all(evidence["looked_at"] <= evidence["of"] == 64 for evidence in looked)
    assert "64 rows" in repr(done)


def test_a_row_is_shown_as_the_model_will_see_it(bases, tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps({"prompt": sentence(number), "completion": sentence(number + 100)}) + "\n" for number in range(40)))
    shown = luthier.show(path, 7, base=bases("llama").name)
    assert shown.line == 7
    assert "".join(shown.pieces) == f"<|im_start|>user\n{sentence(6)}<|im_end|>\n<|im_start|>assistant\n{sentence(106)}<|im_end|>"
    assert "".join(piece for piece, learned in zip(shown.pieces, shown.learned, strict=True) if learned) == f"{sentence(106)}<|im_end|>"
    with pytest.raises(DataError, match="no row that begins on line 99"):
        luthier.show(path, 99, base=bases("llama").name)


def test_a_row_that_was_set_aside_says_why_it_cannot_be_shown(rows: Path, bases) -> None:
    with pytest.raises(DataError, match=r"line 65 was set aside: there is no label"):
        luthier.show(rows, 65, base=bases("bert").name)


def test_a_failed_proof_stops_the_run_before_step_one_and_names_the_row(
    rows: Path, bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.objectives.classification import ClassificationObjective
    from tests.training.test_prove import begin_twice, prepare

    assert ClassificationObjective
    plan = luthier.run(rows, base=bases("bert").name, out=tmp_path / "plan", plan_only=True)
    assert all(proof.held for proof in luthier.prove(plan.folder))
    prepare(begin_twice)(monkeypatch)
    with pytest.raises(Disproved, match=r"control tokens stand once: .*rows\.jsonl, line \d+"):
        luthier.run(rows, base=bases("bert").name, out=tmp_path / "run", set=["training.epochs=1"])
    run = luthier.Run(tmp_path / "run")
    assert not run.events_named("started")
    assert not (run.folder / "checkpoints").exists()
    held = {proof["name"]: proof["held"] for proof in json.loads((run.folder / "proofs.json").read_text())["proofs"]}
    assert held["control tokens stand once"] is False
