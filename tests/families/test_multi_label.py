"""Several labels a row: how cells are read, what is learned, what is refused, and what a bundle says."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import luthier
from luthier.core.errors import DataError, ExperimentError
from luthier.core.run import Run
from luthier.core.types import HELD_OUT, Record
from luthier.data.spec import Data
from luthier.delivery.bundle import open_bundle
from luthier.evaluation.label_thresholds import apply_thresholds, best_threshold, fit_thresholds
from luthier.evaluation.metrics import measure
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families.recognise import load_dataset, recognise
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve
from luthier.objectives.multi_label import labels_of, scores_of_labels
from luthier.training.assemble import assemble
from tests.families.cases import QUICK, several_labels, write_lines
from tests.families.test_regression import TEXTS, table, task_of
from tests.training.test_steps import close, plain_loop, weights_after

PAIRED = [("a; b", "a", "b", "b;c", "c", "a; c")[number % 6] for number in range(200)]


@pytest.fixture(scope="module")
def finished(bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("labels")
    rows: list[dict[str, Any]] = [
        *several_labels(),
        {"text": "stone lamp 900", "topics": [["food"]]},
        {"text": "stone lamp 901", "topics": None},
        {"text": "violin lamp 902", "topics": ["dance"]},
        {"text": "market lamp 903", "topics": ["dance", "food"]},
    ]
    return luthier.run(write_lines(folder, rows), base=str(bases("bert").folder), out=folder / "run", set=QUICK, force=True)


def work_for(bases: Any, **changes: Any) -> Any:
    value = {
        "seed": 7,
        "data": {"path": "rows.jsonl", "task": "multi_label", "input": ["text"], "target": "topics"},
        "objective": {"kind": "multi_label", "labels": ["food", "music"]},
        "model": {"base": str(bases("bert").folder), "dropout": 0.0},
        "adaptation": {"kind": "full"},
        "optimizer": {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.1},
        "schedule": {"kind": "linear", "warmup": 0.25},
        "training": {"batch_size": 8, "steps": 4, "dtype": "float32", **changes},
    }
    records = [Record(number, row) for number, row in enumerate(several_labels()[:60], 1)]
    base = bases("bert")
    return assemble(Experiment.of(value), base, load_tokenizer(base), {"train": records[:40], "validation": records[40:]})


def test_lists_are_taken_for_labels_by_themselves_and_separated_texts_where_the_column_is_named() -> None:
    lists = [["a"], ["a", "b"], []] * 66
    assert task_of(table(text=TEXTS[:198], tags=lists)) == ("multi_label", "tags")
    assert task_of(table(text=TEXTS[:198], tags=[str(one).replace("'", '"') for one in lists])) == ("multi_label", "tags")
    assert task_of(table(text=TEXTS, tags=PAIRED)) == ("classification", "tags")
    assert task_of(table(text=TEXTS, tags=PAIRED), target="tags") == ("multi_label", "tags")
    assert task_of(table(text=TEXTS, tags=PAIRED), task="multi_label") == ("multi_label", "tags")
    once = [("yes", "no; not at all")[number % 2] for number in range(200)]
    assert task_of(table(text=TEXTS, tags=once), target="tags") == ("classification", "tags")


def test_the_separator_and_the_labels_that_are_left_out_are_said() -> None:
    rows = table(text=TEXTS, tags=[*PAIRED[:199], "a|rare"])
    _, columns = recognise(rows, "rows.csv", Data(path="rows.csv", target="tags"))
    assert "labels separated by ';' and '|': 4 labels; left out, because fewer than 3 rows have them: rare" in columns.reason
    assert "--task classification" in columns.reason


def test_several_labels_in_a_column_that_nobody_named_are_mentioned() -> None:
    _, columns = recognise(table(text=TEXTS, tags=PAIRED), "rows.csv", Data(path="rows.csv"))
    assert "some of its cells hold several labels" in columns.reason
    assert "--task multi_label" in columns.reason
    _, columns = recognise(table(text=TEXTS, tags=["a", "b"] * 100), "rows.csv", Data(path="rows.csv"))
    assert "several labels" not in columns.reason


def test_a_column_without_several_labels_is_refused_with_the_columns_that_there_are() -> None:
    with pytest.raises(DataError, match="none of the columns text, label holds several labels a row"):
        task_of(table(text=TEXTS, label=["ab"[number % 2] for number in range(200)]), task="multi_label")


def test_an_empty_list_is_no_labels_and_an_empty_cell_is_no_word_on_them() -> None:
    assert labels_of([]) == labels_of("[]") == ()
    assert labels_of("") is labels_of(None) is None
    assert labels_of("a; b ;a|c") == ("a", "b", "c")
    with pytest.raises(ValueError, match="a dict among its labels"):
        labels_of([{"a": 1}])


def test_rows_that_say_nothing_of_their_labels_are_set_aside_and_rare_labels_are_left_out(finished: Run) -> None:
    reasons = {line["line"]: line["reason"] for line in finished.lines("rejected.jsonl")}
    assert reasons[241] == "topics holds a list among its labels"
    assert reasons[242] == "'topics' is empty: write [] where a row has no labels"
    assert reasons[243] == "of its labels (dance) none has 3 rows or is in the training rows"
    assert set(reasons) == {241, 242, 243}
    experiment = Experiment.load(finished.folder / "experiment.yaml")
    spec: Any = experiment.objective
    assert spec.labels == ("food", "music")
    assert any(not labels_of(record.values["topics"]) for record in load_dataset(experiment.data).records["train"])


def test_a_head_of_zeros_loses_the_logarithm_of_two_for_each_label(bases: Any) -> None:
    work = work_for(bases)
    for parameter in work.model.network.classifier.parameters():
        torch.nn.init.zeros_(parameter)
    scores = score(work.model, work.objective, work.validation)
    assert scores.loss == pytest.approx([2 * math.log(2)] * len(work.validation))
    assert (scores.more["predicted"] == 0.5).all()
    expected = [[label in row.record.values["topics"] for label in ("food", "music")] for row in work.validation]
    assert (scores.more["actual"] == np.array(expected)).all()
    loss = work.objective.loss(work.model, work.objective.collate(work.validation, 0, HELD_OUT))
    assert (loss.total.item(), loss.count) == (pytest.approx(scores.loss.sum(), rel=1e-5), len(work.validation))


@pytest.mark.parametrize("limit", [100_000, 60])
def test_two_steps_equal_a_plain_loop_with_the_library_s_own_network(bases: Any, limit: int) -> None:
    work = work_for(bases, micro_batch_tokens=limit)
    plain = AutoModelForSequenceClassification.from_pretrained(bases("bert").folder, num_labels=2, attn_implementation="eager")
    plain.load_state_dict(work.model.network.state_dict())

    def cross(logits: torch.Tensor, chosen: Any, longest: int) -> torch.Tensor:
        target = torch.tensor([example.target for example in chosen])
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(chosen)

    plain_loop(work, plain, 2, cross)
    weights_after(work, 2)
    close(dict(work.model.network.named_parameters()), dict(plain.named_parameters()), 1e-5)


def test_the_verdict_compares_with_the_frequencies_and_with_a_regression_for_each_label(finished: Run) -> None:
    verdict = finished.verdict
    assert verdict is not None
    assert verdict["metric"] == "micro_f1"
    assert set(verdict["test"]) >= {"label_macro_f1", "exact_match", "loss"}
    named = {verdict["trivial"]["name"], *(each["name"] for each in verdict["others"])}
    assert named == {"label frequencies", "TF-IDF + logistic regression for each label"}
    assert "Each label, the weakest first" in (finished.folder / "report.html").read_text()


def test_the_f1_of_one_class_cannot_decide_where_a_row_has_several(bases: Any, tmp_path: Path) -> None:
    file = write_lines(tmp_path, several_labels())
    with pytest.raises(ExperimentError, match="f1:food cannot decide a multi_label run"):
        luthier.run(file, base=str(bases("bert").folder), out=tmp_path / "run", metric="f1:food", plan_only=True)


def test_a_file_of_predictions_has_a_column_with_the_labels(finished: Run, tmp_path: Path) -> None:
    found = luthier.predict(finished.folder, ["pizza pizza and a choir choir", "a window"], out=tmp_path / "said.csv")
    with (tmp_path / "said.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["predicted_labels"] for line in lines] == ["; ".join(row["labels"]) for row in found]
    for row in found:
        assert row["labels"] == [label for label, value in row["probabilities"].items() if value >= 0.5]


def test_a_fitted_threshold_is_the_best_for_all_labels_together_and_one_half_where_nothing_is_better() -> None:
    likely = np.array([0.05, 0.1, 0.3, 0.35, 0.4] * 8)
    there = likely >= 0.3
    assert 0.1 < best_threshold(likely, there) < 0.3
    assert best_threshold(np.array([0.2, 0.8]), np.array([False, True])) == 0.5
    first, second = fit_thresholds(np.stack([likely, likely / 2], 1), np.stack([there, there], 1))
    assert first == second and 0.1 < first < 0.15  # what is right for both; each has more room by itself
    assert fit_thresholds(likely[:, None], np.zeros((40, 1), dtype=bool)).tolist() == [0.5]  # nobody knows


def test_fitted_thresholds_are_in_the_bundle_and_decide_in_the_verdict_the_report_and_the_answers(bases: Any, tmp_path: Path) -> None:
    asked = [*QUICK, "objective.thresholds=fitted", "training.ships=average"]
    run = luthier.run(write_lines(tmp_path, several_labels()), base=str(bases("bert").folder), out=tmp_path / "run", set=asked, force=True)
    about = json.loads((run.folder / "bundle" / "luthier.json").read_text())["objective"]
    (event,) = run.events_named("fitted_thresholds")
    assert about["fitted_thresholds"] == event["thresholds"] and len(about["fitted_thresholds"]) == 2
    assert Experiment.load(run.folder / "experiment.yaml").objective.fitted_thresholds == ()  # type: ignore[attr-defined]
    thresholds = dict(zip(about["labels"], about["fitted_thresholds"], strict=True))
    rows = luthier.predict(run.folder, [row["text"] for row in several_labels()])
    for row in rows:
        assert row["labels"] == [name for name, value in row["probabilities"].items() if value >= thresholds[name]]
    data = load_dataset(Experiment.load(run.folder / "experiment.yaml").data, checks=())
    base = resolve(str(run.folder))
    model, at_work = open_bundle(base, load_tokenizer(base))
    assert run.verdict is not None
    held = score(model, at_work, at_work.prepare(data.records["test"]))
    assert measure(held, ("micro_f1",))["micro_f1"] == pytest.approx(run.verdict["test"]["value"], abs=1e-6)
    (each,) = [found for found in run.json("evaluation.json")["tables"] if found["title"].startswith("Each label")]
    assert {row[0]: row[-1] for row in each["rows"]} == {name: f"{value:.2f}" for name, value in thresholds.items()}


def test_the_same_scores_with_thresholds_say_other_labels_and_have_another_f1() -> None:
    scores = scores_of_labels(np.array([[0.3, 0.6], [0.1, 0.4]]), np.array([[1.0, 1.0], [0.0, 0.0]]), ("a", "b"))
    moved = apply_thresholds(scores, (0.2, 0.5))
    assert measure(scores, ("micro_f1", "label_macro_f1", "exact_match")) == pytest.approx(
        {"micro_f1": 2 / 3, "label_macro_f1": 0.5, "exact_match": 0.5}
    )
    assert measure(moved, ("micro_f1", "label_macro_f1", "exact_match")) == {"micro_f1": 1.0, "label_macro_f1": 1.0, "exact_match": 1.0}
    assert (moved.loss == scores.loss).all()


def test_cells_of_lists_and_of_single_labels_are_learned_where_asked_and_called_what_they_are() -> None:
    mixed = [["a", "b"] if n % 2 else "ab"[n % 4 // 2] for n in range(200)]
    family, columns = recognise(table(text=TEXTS, topics=mixed), "rows.jsonl", Data(path="rows.jsonl", task="multi_label"))
    assert (family.name, columns.target) == ("multi_label", "topics")
    assert "the cells of 'topics' are 100 lists, and one label each: 2 labels" in columns.reason


@pytest.mark.parametrize("asked", [{}, {"target": "topics"}, {"task": "multi_label", "target": "topics"}])
def test_labels_that_are_joined_by_commas_are_said_with_how_to_write_them(asked: dict[str, str]) -> None:
    kinds = ["a, b", "a", "b, c", "c", "a, c", "b", "a, b, c"]
    rows = table(text=TEXTS, topics=[kinds[n % 7] for n in range(len(TEXTS))])
    _, columns = recognise(rows, "rows.csv", Data(path="rows.csv", **asked))
    assert "write 'a; b' for 'a, b', for --task multi_label" in columns.reason


def test_names_that_hold_a_comma_are_not_taken_for_several_labels() -> None:
    cities = ["Paris, France", "Rome, Italy", "Berlin, Germany"]
    rows = table(text=TEXTS, city=[cities[n % 3] for n in range(len(TEXTS))])
    _, columns = recognise(rows, "rows.csv", Data(path="rows.csv"))
    assert "commas" not in columns.reason
