"""Labels inside a text: what the loss is, which token carries a label, long texts in windows, planted bugs, what is refused, and what a bundle says."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForTokenClassification, pipeline

import luthier
from luthier.app.reporters import format_prediction
from luthier.core.errors import DataError, ExperimentError, ModelError
from luthier.core.run import Run
from luthier.core.types import HELD_OUT, Example, Record
from luthier.data.rows import Rows
from luthier.data.spans import Span, describe_tokens, spans_of, words_in
from luthier.data.spec import Data
from luthier.evaluation.metrics import METRICS, measure
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families import token_label_baselines
from luthier.families.recognise import load_dataset, recognise
from luthier.families.token_labels import compare_spans
from luthier.models.pretrained import load_tokenizer
from luthier.objectives.token_labels import TokenLabelsObjective, first_pieces, label_words, scores_of_words
from luthier.training.assemble import assemble
from luthier.training.prove import find_disproved, prove
from tests.families.cases import QUICK, labelled_spans, write_lines

KINDS = ("food", "place")


def work_for(bases: Any, table: list[dict[str, Any]] | None = None, base: str = "bert", **objective: Any) -> Any:
    value = {
        "seed": 7,
        "data": {"path": "rows.jsonl", "task": "token_labels", "input": ["text"], "target": "spans"},
        "objective": {"kind": "token_labels", "labels": KINDS, **objective},
        "model": {"base": str(bases(base).folder), "dropout": 0.0},
        "adaptation": {"kind": "full"},
        "optimizer": {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.1},
        "schedule": {"kind": "linear", "warmup": 0.25},
        "training": {"batch_size": 8, "steps": 4, "dtype": "float32"},
    }
    records = [Record(number, row) for number, row in enumerate(table or labelled_spans()[:60], 1)]
    return assemble(Experiment.of(value), bases(base), load_tokenizer(bases(base)), {"train": records[:40], "validation": records[40:]})


def long_rows() -> list[dict[str, Any]]:
    """Each of eight rows of `labelled_spans` end to end, so that spans stand in every window."""
    made = []
    for number in range(48):
        text, spans = "", []
        for row in labelled_spans()[number * 5 : number * 5 + 8]:
            spans += [{**span, "start": span["start"] + len(text), "end": span["end"] + len(text)} for span in row["spans"]]
            text += row["text"] + " . "
        made.append({"text": text.strip(), "spans": spans})
    return made


@pytest.fixture(scope="module")
def finished(bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("spans")
    rows: list[dict[str, Any]] = [
        *labelled_spans(),
        {"text": "in the river", "spans": [[0, 6, "place"], [3, 12, "place"]]},
        {"text": "in the stone", "spans": [[7, 20, "place"]]},
        {"text": "in the garden", "spans": [[7, 7, "place"]]},
        {"text": "in the window", "spans": None},
        {"text": "in the engine of a boat", "spans": [[7, 13, "machine"]]},
    ]
    file = write_lines(folder, rows)
    return luthier.run(file, base=str(bases("bert").folder), out=folder / "run", set=[*QUICK, "training.steps=60"], force=True)


def test_a_head_of_zeros_loses_the_logarithm_of_the_number_of_labels_for_each_word(bases: Any) -> None:
    work = work_for(bases)
    for parameter in work.model.network.classifier.parameters():
        torch.nn.init.zeros_(parameter)
    scores = score(work.model, work.objective, work.validation)
    words = [len(row.facts["words"].places) for row in work.validation]
    assert scores.loss == pytest.approx([count * math.log(5) for count in words], rel=1e-6)
    assert scores.count.tolist() == words
    loss = work.objective.loss(work.model, work.objective.collate(work.validation, 0, HELD_OUT))
    assert (loss.total.item(), loss.count) == (pytest.approx(scores.loss.sum(), rel=1e-5), sum(words))


@pytest.mark.parametrize("family", ["bert", "electra", "distilbert", "deberta-v2"])
def test_loss_and_gradients_are_those_of_the_library_s_own_token_classifier(bases: Any, family: str) -> None:
    work = work_for(bases, base=family)
    rows = work.validation[:6]
    plain = AutoModelForTokenClassification.from_config(
        AutoConfig.from_pretrained(bases(family).folder, num_labels=5), attn_implementation="eager"
    ).eval()
    plain.load_state_dict(work.model.network.state_dict())
    longest = max(len(row.tokens) for row in rows)
    pad = plain.config.pad_token_id
    tokens = torch.tensor([[*row.tokens, *[pad] * (longest - len(row.tokens))] for row in rows])
    labels = torch.tensor([[*(tag if tag >= 0 else -100 for tag in row.target), *[-100] * (longest - len(row.target))] for row in rows])
    expected = plain(
        tokens, attention_mask=torch.tensor([[1] * len(r.tokens) + [0] * (longest - len(r.tokens)) for r in rows]), labels=labels
    ).loss
    expected.backward()
    work.model.eval()
    loss = work.objective.loss(work.model, work.objective.collate(rows, 0, HELD_OUT))
    (loss.total / loss.count).backward()
    assert (loss.total / loss.count).item() == pytest.approx(expected.item(), rel=1e-5)
    ours = dict(work.model.network.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            found = ours[name].grad
            assert found is not None
            torch.testing.assert_close(found.to_dense() if found.is_sparse else found, parameter.grad, atol=1e-5, rtol=1e-4)


def test_the_first_piece_of_a_word_carries_its_label_and_other_tokens_none(bases: Any) -> None:
    work = work_for(bases, [{"text": "we saw the unforgettable garden street.", "spans": [[25, 38, "place"]]}] * 60)
    example = work.train[0]
    tokenizer, words = work.objective.tokenizer, example.facts["words"]
    text = example.facts["text"]
    assert [text[start:end] for start, end in zip(words.starts, words.ends, strict=True)] == ["we", "saw", "the", "unforgettable", "garden", "street", "."]  # fmt: skip
    assert words.tags.tolist() == [0, 0, 0, 0, 3, 4, 0]
    assert len(example.tokens) > len(words.places) + 2  # some words have several pieces
    for place, start, end in zip(words.places, words.starts, words.ends, strict=True):
        assert text[start:end].startswith(tokenizer.decode([example.tokens[place]]).strip())
    assert (example.target[0], example.target[-1]) == (-1, -1)


def test_in_overlapping_windows_every_word_counts_once_and_spans_are_those_of_the_text(bases: Any) -> None:
    work = work_for(bases, long_rows(), max_length=24, overlap=7)
    for example in work.train:
        words = example.facts["words"]
        assert example.inputs["place"].count(0) > 3
        assert list(zip(words.starts.tolist(), words.ends.tolist(), strict=True)) == words_in(example.facts["text"])
        assert words.exact.sum() == len(example.facts["spans"]) == words.there.sum()
    one = work_for(bases, long_rows(), max_length=512)
    assert sum(len(row.facts["words"].places) for row in one.train) == sum(len(row.facts["words"].places) for row in work.train)


def test_what_lies_behind_the_last_window_is_lost_and_counted(bases: Any) -> None:
    work = work_for(bases, long_rows(), max_length=24, overlap=7, most_windows=2)
    assert all(example.facts["cut"] > 0 and example.inputs["place"].count(0) == 2 for example in work.train)


def test_spans_that_begin_inside_of_a_word_count_as_there_and_never_as_right() -> None:
    bounds = np.array([(0, 6), (7, 11)])
    words = label_words(np.arange(2), bounds, [Span(3, 6, "a"), Span(7, 11, "b")], ("a", "b"))
    assert (words.tags.tolist(), words.exact.tolist(), words.there.tolist()) == ([1, 3], [0, 1], [1, 1])
    perfect = np.log(np.eye(5)[words.tags] * 0.96 + 0.008)
    found = measure(scores_of_words([(perfect, words)], ("a", "b")), ("span_f1", "token_accuracy"))
    assert found == {"span_f1": 0.5, "token_accuracy": 1.0}


def test_span_f1_is_that_of_sets_of_spans_and_its_resamples_are_the_same() -> None:
    bounds = np.array([(2 * place, 2 * place + 1) for place in range(6)])
    true = [[Span(0, 3, "a"), Span(6, 7, "b")], [Span(2, 5, "a")], []]
    said = [[0, 1, 2, 0, 1, 0], [0, 1, 2, 0, 0, 0], [3, 0, 0, 0, 0, 0]]
    each = []
    for spans, tags in zip(true, said, strict=True):
        each.append((np.log(np.eye(5)[tags] * 0.9 + 0.02), label_words(np.arange(6), bounds, spans, ("a", "b"))))
    scores = scores_of_words(each, ("a", "b"))
    assert measure(scores, ("span_f1",))["span_f1"] == pytest.approx(2 * 1 / (3 + 4))
    drawn = np.array([[1.0, 1, 1], [0, 2, 1]])
    over = METRICS["span_f1"].over
    assert over is not None
    assert over(scores)(drawn) == pytest.approx([2 / 7, 4 / 5])
    assert [[one[:3] for one in row] for row in scores.more["said"]] == [[(2, 5, "a"), (8, 9, "a")], [(2, 5, "a")], [(0, 1, "b")]]


def find_failed(work: Any, monkeypatch: pytest.MonkeyPatch, change: Any) -> set[str]:
    """The proofs that fail where every example is changed."""
    own = TokenLabelsObjective.prepare

    def plant(self: Any, records: Any) -> list[Example]:
        return [change(example) for example in own(self, records)]

    monkeypatch.setattr(TokenLabelsObjective, "prepare", plant)
    broken = replace(work, train=[change(example) for example in work.train])

    def serve(record: Record) -> Any:
        return work.objective.prepare([record])[0].inputs

    return {proof.name for proof in find_disproved(prove(broken, serve, 1e6))}


def test_labels_that_stand_one_token_further_are_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def shift(example: Example) -> Example:
        return replace(example, target=(-1, *example.target[:-1]))

    assert "labels stand on their spans" in find_failed(work_for(bases), monkeypatch, shift)


def test_labels_that_stand_on_the_next_word_are_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def shift(example: Example) -> Example:
        words = example.facts["words"]
        target = np.array(example.target)
        target[words.places] = np.roll(words.tags, 1)
        return replace(example, target=tuple(target.tolist()))

    assert "labels stand on their spans" in find_failed(work_for(bases), monkeypatch, shift)


def test_labels_on_special_tokens_are_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def label(example: Example) -> Example:
        return replace(example, target=(0, *example.target[1:-1], 0))

    assert "special tokens carry no label" in find_failed(work_for(bases), monkeypatch, label)


def test_words_that_two_windows_both_count_are_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(example: Example) -> Example:
        words = example.facts["words"]
        again = {name: np.repeat(getattr(words, name), 2) for name in ("places", "starts", "ends", "tags", "exact")}
        return replace(example, facts={**example.facts, "words": replace(words, **again)})

    def in_both_windows(example: Example) -> Example:
        shared = [place in (1, 2) and number > 2 for number, place in enumerate(example.inputs["place"])]
        return replace(example, target=tuple(0 if both and tag < 0 else tag for tag, both in zip(example.target, shared, strict=True)))

    work = work_for(bases, long_rows(), max_length=24, overlap=7)
    for change in (twice, in_both_windows):
        with monkeypatch.context() as patched:
            assert "each word counts once" in find_failed(work, patched, change)


def test_an_objective_without_a_planted_bug_is_proven(bases: Any) -> None:
    work = work_for(bases, long_rows(), max_length=24, overlap=7)
    found = prove(work, lambda record: work.objective.prepare([record])[0].inputs, 1e6)
    assert not list(find_disproved(found))
    assert {"labels stand on their spans", "special tokens carry no label", "each word counts once"} <= {proof.name for proof in found}


def test_rows_with_wrong_spans_are_set_aside_with_the_reason_and_rare_kinds_are_not_learned(finished: Run) -> None:
    reasons = {line["line"]: line["reason"] for line in finished.lines("rejected.jsonl")}
    assert reasons[241].startswith("the span 3 to 12 (place) overlaps the one from 0 to 6 (place)")
    assert reasons[242].startswith("the span 7 to 20 (place) lies outside of the text, which has 12 characters")
    assert reasons[243].startswith("the span 7 to 7 (place) is empty")
    assert reasons[244] == "'spans' is empty: write [] where a text has no spans"
    assert set(reasons) == {241, 242, 243, 244}
    spec: Any = Experiment.load(finished.folder / "experiment.yaml").objective
    assert spec.labels == KINDS


def test_the_verdict_compares_with_no_span_and_with_a_dictionary(finished: Run) -> None:
    verdict = finished.verdict
    assert verdict is not None
    assert verdict["metric"] == "span_f1"
    named = {verdict["trivial"]["name"], *(each["name"] for each in verdict["others"])}
    assert named == {"no span", "dictionary of the training spans"}
    report = (finished.folder / "report.html").read_text()
    assert "Each kind of span, the weakest first" in report
    assert ("Spans that are wrong" in report) == (verdict["test"]["value"] < 1)


def test_what_a_bundle_predicts_stands_in_the_text_and_transformers_says_the_same(finished: Run, tmp_path: Path) -> None:
    texts = ["in the river street we had pizza 7", "  In the castle, we had soup 7", "in the ladder we had bread 9"]
    found = luthier.predict(finished.folder, texts, out=tmp_path / "said.jsonl")
    assert [row["text"] for row in found] == texts
    assert any(row["spans"] for row in found)
    for row in found:
        for span in row["spans"]:
            assert row["text"][span["start"] : span["end"]] == span["text"]
            assert 0 < span["probability"] <= 1
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert [row["predicted_spans"] for row in said] == [row["spans"] for row in found]
    luthier.predict(finished.folder, texts, out=tmp_path / "said.csv")
    with (tmp_path / "said.csv").open() as file:
        assert [json.loads(line["predicted_spans"]) for line in csv.DictReader(file)] == [row["spans"] for row in found]
    theirs = pipeline("token-classification", str(finished.folder / "bundle"))
    for text, row in zip(texts, found, strict=True):
        begun = {
            (one["start"] + int(one["word"].startswith("Ġ")), one["entity"][2:]) for one in theirs(text) if one["entity"].startswith("B-")
        }
        assert {(span["start"], span["label"]) for span in row["spans"]} <= begun


def test_a_run_s_bundle_is_a_base_for_more_of_the_same(finished: Run, tmp_path: Path) -> None:
    file = write_lines(tmp_path, labelled_spans())
    again = luthier.run(
        file, base=str(finished.folder), out=tmp_path / "run", set=["training.steps=2", "training.checkpoint_seconds=0"], force=True
    )
    assert again.verdict is not None


def test_lora_and_freezing_train_the_head_and_ship_adapters_that_peft_can_name(bases: Any, tmp_path: Path) -> None:
    file = write_lines(tmp_path, labelled_spans())
    for kind, more in (("lora", []), ("freeze", ["adaptation.depth=2"])):
        done = luthier.run(
            file, base=str(bases("bert").folder), out=tmp_path / kind, set=[*QUICK, f"adaptation.kind={kind}", *more], force=True
        )
        assert done.verdict is not None
    adapter = json.loads((tmp_path / "lora" / "bundle" / "adapter" / "adapter_config.json").read_text())
    assert adapter["task_type"] == "TOKEN_CLS"


def table(**columns: list[Any]) -> Rows:
    rows = Rows(list(columns))
    for number, values in enumerate(zip(*columns.values(), strict=True), 1):
        rows.add(number, dict(zip(columns, values, strict=True)))
    return rows


def test_a_column_of_spans_is_recognised_and_one_without_is_refused_with_what_to_write() -> None:
    texts = [row["text"] for row in labelled_spans()]
    family, columns = recognise(table(text=texts, spans=[row["spans"] for row in labelled_spans()]), "rows.jsonl", Data(path="rows.jsonl"))
    assert (family.name, columns.input, columns.target) == ("token_labels", ("text",), "spans")
    assert "'spans' holds 425 spans of 2 kinds" in columns.reason
    with pytest.raises(DataError, match=r"none of the columns text, label holds spans") as problem:
        recognise(table(text=texts, label=["a", "b"] * 120), "rows.csv", Data(path="rows.csv", task="token_labels"))
    assert problem.value.exit_code == 2
    assert ".conll" in problem.value.remedy


def test_a_text_file_of_conll_columns_is_read_where_the_task_says_so(bases: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    sentences = [row["text"].split() for row in labelled_spans()]
    file.write_text(
        "".join("\n".join(f"{word} {'B-place' if place == 2 else 'O'}" for place, word in enumerate(words)) + "\n\n" for words in sentences)
    )
    done = luthier.run(file, task="token_labels", base=str(bases("bert").folder), out=tmp_path / "run", set=QUICK, force=True)
    assert done.verdict is not None
    assert Experiment.load(done.folder / "experiment.yaml").data.format == "conll"


def test_a_decoder_and_a_second_column_of_text_are_refused(bases: Any, tmp_path: Path) -> None:
    file = write_lines(tmp_path, [{**row, "title": "one"} for row in labelled_spans()])
    with pytest.raises((ModelError, ExperimentError), match="encoder"):
        luthier.run(file, base=str(bases("llama").folder), out=tmp_path / "run", force=True)
    with pytest.raises(DataError, match="spans are parts of one text"):
        luthier.run(file, input=("text", "title"), target="spans", base=str(bases("bert").folder), out=tmp_path / "run", force=True)


def test_the_dictionary_finds_the_longest_forms_and_leaves_out_those_that_are_seldom_spans(bases: Any) -> None:
    rows = [{"text": f"the river street and the river {n}", "spans": [[4, 16, "place"], [25, 30, "place"]]} for n in range(40)]
    rows += [{"text": f"a stone on the stone {n}", "spans": [[2, 7, "place"]] if n < 5 else []} for n in range(20)]
    work = work_for(bases, rows)
    baseline = token_label_baselines.dictionary_of_spans(work.train, work.validation)
    found = baseline.score(work.train)
    assert measure(found, ("span_f1",))["span_f1"] == 1.0
    assert not any(baseline.score(work.validation).more["named_spans"].sum(1))
    assert measure(token_label_baselines.no_span(work.train, work.validation).score(work.train), ("span_f1",))["span_f1"] == 0.0


def test_what_is_wrong_is_missed_invented_of_another_kind_or_has_another_end() -> None:
    true = [Span(0, 5, "a"), Span(6, 9, "a"), Span(10, 20, "b"), Span(30, 35, "a")]
    said = [Span(0, 5, "a"), Span(6, 9, "b"), Span(10, 15, "b"), Span(40, 45, "a")]
    assert [error for error, _, _ in compare_spans(true, said)] == ["wrong kind", "other beginning or end", "missed", "invented"]


def test_a_token_in_front_of_which_spaces_count_begins_its_word() -> None:
    places, bounds = first_pieces("a  bcd e", [(1, 0, 1), (2, 1, 4), (3, 4, 6), (4, 6, 8)])
    assert (places.tolist(), bounds.tolist()) == ([1, 2, 4], [[0, 1], [3, 6], [7, 8]])


def test_labels_that_are_numbers_are_refused_with_the_remedy() -> None:
    rows = table(tokens=[["in", "Rome"]] * 60, ner_tags=[[0, 5]] * 60)
    with pytest.raises(DataError, match="the labels in 'ner_tags' are numbers") as problem:
        recognise(rows, "rows.jsonl", Data(path="rows.jsonl", task="token_labels"))
    assert "write their names, such as B-person" in problem.value.remedy


def test_a_column_of_labels_that_is_named_stands_for_the_spans_that_were_made_of_it() -> None:
    tokens, tags = [["in", "Rome"]] * 60, [["O", "B-place"]] * 60
    rows = describe_tokens(table(tokens=tokens, ner_tags=tags, pos_tags=[["ADP", "PROPN"]] * 60), "rows.jsonl")
    for asked, target in ((None, "spans"), ("ner_tags", "spans"), ("pos_tags", "pos_tags_spans")):
        family, columns = recognise(rows, "rows.jsonl", Data(path="rows.jsonl", target=asked))
        assert (family.name, columns.input, columns.target) == ("token_labels", ("text",), target)


def test_a_prediction_is_a_line_of_places_kinds_and_words() -> None:
    spans = [{"start": 3, "end": 7, "label": "place", "text": "Rome", "probability": 0.9}]
    assert format_prediction({"row": 1, "text": "in Rome", "spans": spans}, as_json=False) == "3–7 place: Rome  90.0%"
    assert format_prediction({"row": 1, "text": "in", "spans": []}, as_json=False) == "(no span)"


def test_bases_are_not_compared_on_spans(tmp_path: Path) -> None:
    with pytest.raises(
        ExperimentError,
        match=r"similarity is read off classes or answers, and here [\s\S]*`luthier transfer DATA --task [\w]+ --from [\w-]+,OTHER`",
    ):
        luthier.similar(write_lines(tmp_path, labelled_spans()))


def test_labels_of_tokens_that_are_numbers_are_refused_and_the_tokens_are_not_learned_as_labels(tmp_path: Path) -> None:
    rows = [{"tokens": row["text"].split(), "ner_tags": [n % 2 for n, _ in enumerate(row["text"].split())]} for row in labelled_spans()]
    with pytest.raises(DataError, match=r"the labels in 'ner_tags' are numbers") as problem:
        load_dataset(Data(path=str(write_lines(tmp_path, rows))), ())
    assert "B-person" in problem.value.remedy


@pytest.mark.parametrize("task", [None, "token_labels"])
def test_texts_none_of_which_has_a_span_are_refused_for_that(task: Any, tmp_path: Path) -> None:
    path = write_lines(tmp_path, [{**row, "spans": []} for row in labelled_spans()])
    with pytest.raises(DataError) as problem:
        load_dataset(Data(path=str(path), task=task), ())
    assert "'spans' is [] in all 240 rows" in problem.value.message
    assert "classifier" not in problem.value.remedy


def test_a_span_whose_label_is_a_number_is_told_so() -> None:
    with pytest.raises(ValueError, match="whose label is the number 3: write the name of its kind"):
        spans_of([{"start": 0, "end": 4, "label": 3}])
