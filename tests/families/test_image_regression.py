"""Numbers for images: which tables are taken for them, what the loss is, what is refused and with which remedy, and what a bundle says."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import luthier
from luthier.app.cli import app
from luthier.core.errors import DataError
from luthier.core.run import Run
from luthier.core.types import HELD_OUT
from luthier.data.spec import Data
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families.image_head_family import shrink_pictures
from luthier.families.image_regression import FAMILY
from luthier.families.recognise import load_dataset
from luthier.training.assemble import assemble
from luthier.training.steps import Work
from tests.families.cases import QUICK, write_numbers

SMALL = ["objective.side=16", "objective.width=8"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbers(tmp_path_factory.mktemp("rows"), count=90)


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return luthier.run(table, out=tmp_path_factory.mktemp("runs") / "run", set=[*QUICK, *SMALL], force=True)


def with_column(table: Path, name: str, **columns: list[Any]) -> str:
    """The table with other columns beside its images."""
    with table.open() as opened:
        images = [row["image"] for row in csv.DictReader(opened)]
    lines = [",".join(map(str, values)) for values in zip(images, *columns.values(), strict=True)]
    path = table.with_name(name)
    path.write_text("\n".join([",".join(["image", *columns]), *lines]) + "\n")
    return str(path)


def work_for(table: Path) -> Work:
    dataset = load_dataset(Data(path=str(table)), checks=())
    value = {
        "seed": 7,
        "data": dataset.spec.model_dump(mode="json"),
        "objective": {"kind": "image_regression", "side": 16, "width": 4},
        "model": {"base": "", "dropout": 0.0},
        "adaptation": {"kind": "full"},
        "optimizer": {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.1},
        "schedule": {"kind": "linear", "warmup": 0.25},
        "training": {"batch_size": 8, "steps": 4, "dtype": "float32"},
    }
    made = Experiment.of(value)
    made = made.model_copy(update={"objective": FAMILY.fit_spec(made.objective, dataset)})
    return assemble(made, None, FAMILY.load_processor(None, made.objective), dataset.records)


def test_a_table_of_images_and_amounts_is_taken_for_it_and_few_whole_numbers_stay_classes(table: Path) -> None:
    read = load_dataset(Data(path=str(table)), checks=())
    assert (read.spec.task, read.spec.input, read.spec.target) == ("image_regression", ("image",), "width_drawn")
    assert "'image' names images; 'width_drawn' holds numbers from 2 to 9, 22 different ones" in read.reason
    assert "--task image_classification" in read.reason
    few = with_column(table, "few.csv", stars=[number % 5 for number in range(90)])
    assert load_dataset(Data(path=few), checks=()).spec.task == "image_classification"
    assert load_dataset(Data(path=few, task="image_regression"), checks=()).spec.target == "stars"
    many = with_column(table, "many.csv", age=[number * 37 % 1009 for number in range(90)])
    assert load_dataset(Data(path=many), checks=()).spec.task == "image_regression"


def test_what_the_reader_noted_of_an_image_is_no_number_to_be_learned(table: Path) -> None:
    plain = with_column(table, "plain.csv", note=[f"a note {number}" for number in range(90)])
    assert load_dataset(Data(path=plain), checks=()).spec.task == "autoencoder"
    with pytest.raises(DataError, match=r"'image\.height' is what is noted of each image itself"):
        load_dataset(Data(path=plain, task="image_regression", target="image.height"))
    with pytest.raises(DataError, match="none of the columns image, note holds numbers"):
        load_dataset(Data(path=plain, task="image_regression"))


def test_every_way_of_asking_for_something_else_names_the_way_to_the_number(table: Path) -> None:
    with pytest.raises(DataError, match=r"regression reads texts\s+→ use --task image_regression, or"):
        load_dataset(Data(path=str(table), task="regression"))
    ages = with_column(table, "ages.csv", age=[number / 7 for number in range(90)])
    with pytest.raises(DataError, match="'age' holds numbers, which are learned with --task image_regression --target age"):
        load_dataset(Data(path=ages, task="image_classification"))
    both = with_column(table, "both.csv", age=[number / 7 for number in range(90)], weight=[number / 3 for number in range(90)])
    read = load_dataset(Data(path=both), checks=())
    assert read.spec.task == "autoencoder"
    assert "'age' and 'weight' hold numbers, which are learned with --task image_regression --target age" in read.reason
    assert load_dataset(Data(path=both, target="weight"), checks=()).spec.task == "image_regression"


def test_a_table_of_texts_is_told_that_images_are_needed(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,stars\n" + "".join(f"a text {number},{number / 2}\n" for number in range(60)))
    with pytest.raises(DataError, match=r"no column of text, stars names image files[\s\S]*--task regression"):
        load_dataset(Data(path=str(file), task="image_regression"))


def test_fractions_in_an_npz_file_are_numbers(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "scans.npz", images=pixels, labels=np.arange(60) / 4)
    read = load_dataset(Data(path=str(tmp_path / "scans.npz")), checks=())
    assert (read.spec.task, read.spec.target) == ("image_regression", "label")


def test_a_new_network_says_the_mean_and_its_loss_is_the_squared_distance_in_standard_deviations(table: Path) -> None:
    work = work_for(table)
    spec: Any = work.experiment.objective
    train = [example.target for example in work.train]
    assert (spec.mean, spec.spread) == (statistics.fmean(train), statistics.pstdev(train))
    scores = score(work.model, work.objective, work.validation)
    actual = [example.target for example in work.validation]
    assert scores.more["predicted"] == pytest.approx([spec.mean] * len(actual))
    assert scores.loss == pytest.approx([((value - spec.mean) / spec.spread) ** 2 for value in actual])
    loss = work.objective.loss(work.model, work.objective.collate(work.validation, 0, HELD_OUT))
    assert (loss.total.item(), loss.count) == (pytest.approx(sum(scores.loss), rel=1e-5), len(actual))


def test_the_reference_loss_is_that_of_the_model(table: Path) -> None:
    work = work_for(table)
    torch.nn.init.normal_(work.model.network.classifier[1].weight)
    example = work.validation[0]
    expected = work.objective.reference_loss(work.model, example)
    assert expected is not None
    assert float(score(work.model, work.objective, [example]).loss[0]) == pytest.approx(float(expected), rel=1e-4)


def test_ridge_on_small_pictures_finds_a_number_that_is_a_sum_of_pixels(table: Path) -> None:
    from luthier.evaluation.baselines import BaselineContext
    from luthier.families.image_regression import ridge

    work = work_for(table)
    weights = np.random.default_rng(1).normal(size=shrink_pictures(work.train[:1]).shape[1])
    rows = {part: [row_with(example, float(shrink_pictures([example])[0] @ weights)) for example in examples]
            for part, examples in (("train", work.train), ("validation", work.validation))}  # fmt: skip
    asked = BaselineContext(("image",), 0, None, work.objective)
    found = ridge("small", shrink_pictures, rows["train"], rows["validation"], asked)
    constant = np.var([example.target for example in rows["validation"]])
    squares = (found.validation.more["predicted"] - found.validation.more["actual"]) ** 2
    assert squares.mean() < constant


def row_with(example: Any, target: float) -> Any:
    """The same image with another number."""
    from dataclasses import replace

    return replace(example, target=target)


def test_a_run_is_judged_against_the_mean_and_small_pictures_and_shows_its_worst_images(finished: Run) -> None:
    verdict = finished.verdict
    assert verdict is not None
    rivals = {verdict["trivial"]["name"], *(other["name"] for other in verdict["others"])}
    assert rivals == {"mean of the training rows", "small pictures + ridge regression"}
    assert verdict["metric"] == "rmse"
    proofs = {proof["name"]: proof["held"] for proof in finished.json("proofs.json")["proofs"]}
    assert proofs["pixels are served"] and proofs["starts near the mean"]
    assert "The test images that are farthest off" in (finished.folder / "report.html").read_text()


def test_a_bundle_as_base_is_judged_against_ridge_on_what_it_makes_of_the_images(finished: Run, table: Path, tmp_path: Path) -> None:
    again = luthier.run(table, base=str(finished.folder), out=tmp_path / "run", set=[*QUICK, "objective.side=16"], force=True)
    assert again.verdict is not None
    rivals = [again.verdict["trivial"]["name"], *(other["name"] for other in again.verdict["others"])]
    assert any(name.endswith("frozen + ridge regression") for name in rivals)


def test_prediction_says_a_number_for_a_file_and_for_a_table(finished: Run, table: Path, tmp_path: Path) -> None:
    (one,) = luthier.predict(finished.folder, next(iter(sorted((table.parent / "disc").iterdir()))))
    assert isinstance(one["value"], float)
    luthier.predict(finished.folder, table, out=tmp_path / "said.csv")
    with (tmp_path / "said.csv").open() as opened:
        assert all(float(row["predicted_value"]) for row in csv.DictReader(opened))


def test_showing_an_image_says_the_number_as_a_number(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app(args=["show", str(table)])
    said = capsys.readouterr().out
    assert ", with the number " in said
    assert "class" not in said


def test_a_table_without_the_column_of_images_is_told_of_its_own_columns_and_standard_input_of_files(finished: Run, table: Path) -> None:
    other = table.parent / "other.csv"
    other.write_text(table.read_text().replace("image", "file", 1))
    with pytest.raises(DataError, match="has no column 'image'") as problem:
        luthier.predict(finished.folder, other)
    assert "image." not in str(problem.value.remedy)
    with pytest.raises(DataError, match="images are not read from standard input"):
        luthier.predict(finished.folder, "-")
    empty = table.parent / "empty.csv"
    empty.write_text("")
    with pytest.raises(DataError, match="is empty") as problem:
        luthier.predict(finished.folder, empty)
    assert problem.value.remedy == "give at least one row"


def test_angles_with_a_degree_sign_beside_images_are_named_with_how_to_write_them(table: Path) -> None:
    angles = with_column(table, "angles.csv", angle=[f"{number}\u00b0" for number in range(90)])
    read = load_dataset(Data(path=angles), checks=())
    assert read.spec.task == "autoencoder"
    assert (
        "the cells of 'angle' look like numbers with a degree sign, such as '0\u00b0': to learn them, write the cells as plain numbers"
        in read.reason
    )
    for asked in ({"task": "image_regression"}, {"task": "image_regression", "target": "angle"}):
        with pytest.raises(DataError, match="the cells of 'angle' look like numbers with a degree sign"):
            load_dataset(Data(path=angles, **asked))
