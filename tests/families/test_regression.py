"""Numbers for texts: which columns are taken for them, what is learned, what is refused, and what a bundle says."""

from __future__ import annotations

import csv
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import luthier
from luthier.core.errors import DataError
from luthier.core.run import Run
from luthier.core.types import HELD_OUT, Record
from luthier.data.rows import Rows
from luthier.data.spec import Data
from luthier.data.written_numbers import describe_written_numbers
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families.recognise import load_dataset, recognise
from luthier.models.pretrained import load_tokenizer
from luthier.training.assemble import assemble
from tests.families.cases import QUICK, numbers, write_lines
from tests.training.test_steps import close, plain_loop, weights_after


def table(**columns: list[Any]) -> Rows:
    made = Rows(list(columns))
    for line, values in enumerate(zip(*columns.values(), strict=True), 1):
        made.add(line, dict(zip(columns, values, strict=True)))
    return made


def task_of(rows: Rows, **asked: Any) -> tuple[str, str | None]:
    family, columns = recognise(rows, "rows.csv", Data(path="rows.csv", **asked))
    return family.name, columns.target


TEXTS = [f"a text of several words, number {number}" for number in range(200)]


@pytest.fixture(scope="module")
def finished(bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("regression")
    rows = [*numbers(), {"text": "no number here", "stars": "n/a"}, {"text": "none either", "stars": None}]
    return luthier.run(write_lines(folder, rows), base=str(bases("bert").folder), out=folder / "run", set=QUICK, force=True)


def work_for(bases: Any, **changes: Any) -> Any:
    value = {
        "seed": 7,
        "data": {"path": "rows.jsonl", "task": "regression", "input": ["text"], "target": "stars"},
        "objective": {"kind": "regression", "mean": 3.0, "spread": 2.0},
        "model": {"base": str(bases("bert").folder), "dropout": 0.0},
        "adaptation": {"kind": "full"},
        "optimizer": {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.1},
        "schedule": {"kind": "linear", "warmup": 0.25},
        "training": {"batch_size": 8, "steps": 4, "dtype": "float32", **changes},
    }
    records = [Record(number, row) for number, row in enumerate(numbers()[:60], 1)]
    base = bases("bert")
    return assemble(Experiment.of(value), base, load_tokenizer(base), {"train": records[:40], "validation": records[40:]})


def test_amounts_are_taken_for_numbers_and_few_repeating_or_numbered_classes_are_not() -> None:
    halves = [n % 9 / 2 for n in range(200)]
    assert task_of(table(text=TEXTS, stars=halves)) == ("regression", "stars")
    assert task_of(table(text=TEXTS, price=[str(n * 37 % 1009) for n in range(200)])) == ("regression", "price")
    assert task_of(table(text=TEXTS, rating=[n % 5 + 1 for n in range(200)])) == ("classification", "rating")
    assert task_of(table(text=TEXTS, rating=[n % 5 + 1 for n in range(200)]), task="regression") == ("regression", "rating")
    assert task_of(table(text=TEXTS * 4, label=[n % 77 for n in range(800)])) == ("classification", "label")
    assert task_of(table(text=TEXTS, stars=halves), task="classification") == ("classification", "stars")


def test_nan_and_infinity_among_amounts_are_no_classes_and_their_rows_are_set_aside(tmp_path: Path) -> None:
    gaps = ["nan", "inf", "-Infinity", "NA", "null"]
    scores: list[Any] = [gaps[n % 5] if n % 3 == 0 else n / 7 for n in range(200)]
    assert task_of(table(text=TEXTS, score=scores)) == ("regression", "score")
    rows = [{"text": f"{sentence} {'xyz'[n % 3] * (n + 1)}", "score": scores[n]} for n, sentence in enumerate(TEXTS)]
    found = load_dataset(Data(path=str(write_lines(tmp_path, rows))), ())
    assert len(found.rejected) == 67
    assert "which is not a finite number" in found.rejected[0].reason


def test_an_id_a_class_or_numbers_without_a_text_are_not_taken_for_it() -> None:
    assert task_of(table(id=[n * 7 for n in range(200)], text=TEXTS, label=["ab"[n % 2] for n in range(200)])) == (
        "classification",
        "label",
    )
    assert task_of(table(text=TEXTS, width=[n / 7 for n in range(200)], label=["ab"[n % 2] for n in range(200)])) == (
        "classification",
        "label",
    )
    assert task_of(table(sentence1=TEXTS, sentence2=TEXTS[::-1], score=[n % 51 / 10 for n in range(200)])) == ("regression", "score")


def test_the_choice_is_said_with_how_to_change_it() -> None:
    _, columns = recognise(table(text=TEXTS, stars=[n % 9 / 2 for n in range(200)]), "rows.csv", Data(path="rows.csv"))
    assert "'stars' holds numbers from 0 to 4, 9 different ones" in columns.reason
    assert "--task classification" in columns.reason


def test_where_it_is_not_clear_which_column_is_meant_the_columns_are_named() -> None:
    both = table(text=TEXTS, width=[n / 7 for n in range(200)], height=[n / 3 for n in range(200)])
    with pytest.raises(DataError, match=r"several columns hold numbers \(width, height\)"):
        task_of(both, task="regression")
    with pytest.raises(DataError, match="holds no numbers: the first cell is 'a text"):
        task_of(table(text=TEXTS, other=TEXTS), task="regression", target="text")


@pytest.mark.parametrize(
    ("write", "sign"),
    [
        (lambda n: f"{n},{n % 10}", "a decimal comma, such as '0,0'"),
        (lambda n: f"€{n}.50", "a currency sign, such as '€0.50'"),
        (lambda n: f"{n} EUR", "a currency sign"),
        (lambda n: f"1,{n:03}", "a comma, such as '1,000'"),
        (lambda n: f"{n}%", "a percent sign"),
        (lambda n: f"{n}°", "a degree sign"),
    ],
)
@pytest.mark.parametrize("asked", [{"task": "regression"}, {"task": "regression", "target": "price"}, {}])
def test_numbers_that_are_written_with_a_comma_or_a_sign_are_named_and_not_guessed(write: Any, sign: str, asked: dict[str, str]) -> None:
    with pytest.raises(DataError, match=f"the cells of 'price' look like numbers with {sign}") as problem:
        task_of(table(text=TEXTS, price=[write(n) for n in range(200)]), **asked)
    assert "plain numbers" in problem.value.remedy


def test_few_such_numbers_are_classes_and_the_choice_says_so() -> None:
    rows = table(text=TEXTS, stars=[f"{n % 5},5" for n in range(200)])
    family, columns = recognise(rows, "rows.csv", Data(path="rows.csv"))
    assert family.name == "classification"
    assert "the cells of 'stars' look like numbers with a decimal comma, such as '0,5', and each is a class" in columns.reason


@pytest.mark.parametrize(
    "write", [lambda n: f"1.2.{n}", lambda n: f"class {n % 3}", lambda n: f"A{n % 9}", lambda n: "3,5", lambda n: f"{n % 7}.5"]
)
def test_dates_names_and_plain_numbers_are_not_said_to_be_written_otherwise(write: Any) -> None:
    rows = table(text=TEXTS, price=[write(n) for n in range(200)])
    assert describe_written_numbers(rows, "price") == ""


def test_a_row_without_a_finite_number_is_set_aside_with_its_reason(finished: Run) -> None:
    reasons = {line["line"]: line["reason"] for line in finished.lines("rejected.jsonl")}
    assert reasons == {241: "stars is 'n/a', which is not a finite number", 242: "there is no number ('stars' is empty)"}


def test_numbers_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    file = write_lines(tmp_path, [{"text": text, "stars": 2.5} for text in TEXTS])
    with pytest.raises(DataError, match=r"every row has the number 2\.5"):
        load_dataset(Data(path=str(file), task="regression", target="stars"))


def test_the_mean_and_spread_of_the_training_rows_stand_in_the_experiment(finished: Run) -> None:
    experiment = Experiment.load(finished.folder / "experiment.yaml")
    spec: Any = experiment.objective
    train = [float(record.values["stars"]) for record in load_dataset(experiment.data).records["train"]]
    assert (spec.mean, spec.spread) == (statistics.fmean(train), statistics.pstdev(train))


def test_a_head_of_zeros_says_the_mean_and_its_loss_is_the_squared_distance_in_standard_deviations(bases: Any) -> None:
    work = work_for(bases)
    for parameter in work.model.network.classifier.parameters():
        torch.nn.init.zeros_(parameter)
    scores = score(work.model, work.objective, work.validation)
    actual = [example.target for example in work.validation]
    assert scores.more["predicted"] == pytest.approx([3.0] * len(actual))
    assert scores.more["actual"] == pytest.approx(actual)
    assert scores.loss == pytest.approx([((value - 3) / 2) ** 2 for value in actual])
    loss = work.objective.loss(work.model, work.objective.collate(work.validation, 0, HELD_OUT))
    assert (loss.total.item(), loss.count) == (pytest.approx(sum(scores.loss), rel=1e-5), len(actual))


@pytest.mark.parametrize("limit", [100_000, 60])
def test_two_steps_equal_a_plain_loop_with_the_library_s_own_network(bases: Any, limit: int) -> None:
    work = work_for(bases, micro_batch_tokens=limit)
    plain = AutoModelForSequenceClassification.from_pretrained(
        bases("bert").folder, num_labels=1, attn_implementation="eager", ignore_mismatched_sizes=True
    )
    plain.load_state_dict(work.model.network.state_dict())

    def square(logits: torch.Tensor, chosen: Any, longest: int) -> torch.Tensor:
        target = torch.tensor([(example.target - 3.0) / 2.0 for example in chosen])
        return torch.nn.functional.mse_loss(logits[:, 0], target)

    plain_loop(work, plain, 2, square)
    weights_after(work, 2)
    close(dict(work.model.network.named_parameters()), dict(plain.named_parameters()), 1e-5)


def test_the_verdict_compares_with_the_mean_and_with_ridge_regression(finished: Run) -> None:
    verdict = finished.verdict
    assert verdict is not None
    assert verdict["metric"] == "rmse"
    assert not verdict["higher_is_better"]
    assert set(verdict["test"]) >= {"mae", "r2", "spearman", "loss"}
    named = {verdict["trivial"]["name"]: verdict["trivial"], **{each["name"]: each for each in verdict["others"]}}
    assert set(named) == {"mean of the training rows", "TF-IDF + ridge regression"}
    assert abs(named["mean of the training rows"]["metrics"]["r2"]) < 0.2
    assert "From the smallest to the largest" in (finished.folder / "report.html").read_text()


def test_a_file_of_predictions_has_a_column_with_the_number(finished: Run, tmp_path: Path) -> None:
    found = luthier.predict(finished.folder, ["a great great great meal", "awful awful awful"], out=tmp_path / "said.csv")
    with (tmp_path / "said.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["predicted_value"]) for line in lines] == [row["value"] for row in found]
    assert all(math.isfinite(row["value"]) for row in found)


def test_one_number_beyond_all_others_is_set_aside_and_its_row_is_named(tmp_path: Path) -> None:
    rows = [{"text": TEXTS[number], "stars": str(1 + number % 9 / 2)} for number in range(100)]
    rows[40]["stars"] = "1e300"
    found = load_dataset(Data(path=str(write_lines(tmp_path, rows)), task="regression"))
    assert [(row.line, row.reason) for row in found.rejected] == [
        (41, "stars is 1e+300, more than a million interquartile ranges from the median (3): a slip?")
    ]
    assert found.count == 99 and any("1e+300" in one.claim for one in found.findings)
