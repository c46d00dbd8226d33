"""Image classification from a folder to a bundle: what is learned, what is served, and that a kill at any moment changes no byte."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import ResNetForImageClassification

import luthier
from luthier.core.errors import DataError, LuthierError, ModelError, Stopped
from luthier.core.run import Run
from luthier.core.types import HELD_OUT, Record
from luthier.data.batches import choose_rows
from luthier.data.spec import Data
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families.image_classification import FAMILY
from luthier.families.image_family import MANY, fit_squares
from luthier.families.recognise import load_dataset
from luthier.models import store, vision
from luthier.models.spec import Model
from luthier.objectives import image_classification
from luthier.optim.schedules import share_done
from luthier.pilot.stages.opened_bundle import load_bundle
from luthier.training.assemble import assemble
from luthier.training.steps import Work, steps
from tests import processes

FEW = ["objective.side=16", "objective.width=8", "training.epochs=8", "training.batch_size=16", "optimizer.lr=3e-3"]


def shape(number: int, mode: str = "RGB", side: int = 20) -> Image.Image:
    """A disc or a cross, somewhere, on noise."""
    drawn = np.random.default_rng(number)
    image = Image.fromarray(drawn.integers(0, 90, (side, side, 3), dtype=np.uint8))
    x, y = drawn.integers(4, side - 4, 2).tolist()
    pen, bright = ImageDraw.Draw(image), tuple(drawn.integers(170, 255, 3).tolist())
    if number % 2:
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=bright)
    else:
        pen.line((x - 5, y, x + 5, y), fill=bright, width=1)
        pen.line((x, y - 5, x, y + 5), fill=bright, width=1)
    return image.convert(mode)


def write(folder: Path, mode: str = "RGB", count: int = 120) -> Path:
    """A folder with a sub-folder for each class."""
    for number in range(count):
        place = folder / "shapes" / ("disc" if number % 2 else "cross")
        place.mkdir(parents=True, exist_ok=True)
        shape(number, mode).save(place / f"{number:03}.png")
    return folder / "shapes"


CASE: dict[str, Any] = {"name": "image_classification", "write": write, "run": {"set": FEW}, "predict": lambda path: path / "disc"}
"""How its rows are written (folder → what is given to run), arguments of `luthier.run`, and what to predict (of what was given to run)."""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return luthier.run(shapes, out=tmp_path_factory.mktemp("runs") / "run", set=FEW)


def weights(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("bundle/model.safetensors", "bundle/config.json", "metrics.jsonl")}


def work_for(path: Path, **changes: Any) -> Work:
    dataset = load_dataset(Data(path=str(path)), checks=())
    value: dict[str, Any] = {
        "seed": 7,
        "data": dataset.spec.model_dump(mode="json"),
        "objective": {"kind": "image_classification", "side": 16, "width": 4},
        "model": {"base": "", "dropout": 0.0},
        "adaptation": {"kind": "full"},
        "optimizer": {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.1},
        "schedule": {"kind": "linear", "warmup": 0.25},
        "training": {"batch_size": 8, "steps": 4, "dtype": "float32"},
    }
    made = Experiment.of(value)
    made = made.model_copy(update={"objective": FAMILY.fit_spec(made.objective, dataset)})
    for name, given in changes.items():
        made = made.replace(name.replace("__", "."), given)
    return assemble(made, None, FAMILY.load_processor(None, made.objective), dataset.records)


def test_a_folder_goes_the_whole_way_and_beats_its_baselines(finished: Run) -> None:
    verdict = finished.verdict
    assert verdict is not None
    assert verdict["test"]["value"] > 0.85
    assert {verdict["trivial"]["name"], *(other["name"] for other in verdict["others"])} == {
        "majority class",
        "nearest class mean of small pictures",
    }
    proofs = json.loads((finished.folder / "proofs.json").read_text())["proofs"]
    assert all(proof["held"] for proof in proofs)
    assert {"pixels are served", "starts where it must"} <= {proof["name"] for proof in proofs}
    assert "luthier predict PATH image.png" in (finished.folder / "bundle" / "README.md").read_text()
    assert (finished.folder / "report.html").is_file()


def test_a_network_from_scratch_promises_from_its_validation_rows(finished: Run) -> None:
    table = finished.json("evaluation.json")["abstention"]
    assert table["rows"] == len(finished.json("splits.json")["rows"]["validation"]) == table["counts"][-1]["answered"]
    assert json.loads((finished.folder / "bundle" / "luthier.json").read_text())["abstention"]["counts"] == table["counts"]


def test_prediction_says_what_the_evaluation_said(finished: Run, shapes: Path) -> None:
    base = store.resolve(str(finished.folder))
    assert (base.kind, base.family, base.blocks, base.width) == ("image", "resnet", 2, 16)
    model, objective = load_bundle(base)
    test = load_dataset(Data(path=str(shapes)), checks=()).records["test"]
    scores = score(model, objective, objective.prepare(test))
    assert scores.probabilities is not None
    verdict = finished.verdict
    assert verdict is not None
    assert float((scores.probabilities.argmax(1) == scores.target).mean()) == verdict["test"]["value"]
    said = luthier.predict(finished.folder, [str(shapes / record.values["image"]) for record in test])
    assert [one["label"] for one in said] == [objective.spec.labels[place] for place in scores.probabilities.argmax(1)]
    assert [one["confidence"] for one in said] == scores.probabilities.max(1).tolist()


def test_a_fresh_process_predicts_from_a_folder_a_table_and_a_file(finished: Run, shapes: Path, tmp_path: Path) -> None:
    some = sorted((shapes / "disc").iterdir())[:3]
    table = shapes / "asked.csv"
    table.write_text("image,note\n" + "".join(f"disc/{path.name},{number}\n" for number, path in enumerate(some)))
    code = (
        "import luthier, sys, json; bundle, folder, table, file, out = sys.argv[1:];"
        "print(json.dumps([luthier.predict(bundle, folder)[:3], luthier.predict(bundle, table, out=out), luthier.predict(bundle, file)]))"
    )
    asked = [str(finished.folder / "bundle"), str(shapes / "disc"), str(table), str(some[0]), str(tmp_path / "said.csv")]
    try:
        done = processes.run("-c", code, *asked, check=True)
    finally:
        table.unlink()
    of_folder, of_table, of_file = json.loads(done.stdout)
    assert [one["row"] for one in of_table] == [2, 3, 4]  # lines of the table
    assert [one["label"] for one in of_folder] == [one["label"] for one in of_table]
    for one, other in zip(of_folder, of_table, strict=True):  # batch norm in eval mode: the images beside it change rounding alone
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
    assert of_file[0]["probabilities"] == pytest.approx(of_table[0]["probabilities"], abs=1e-6)
    with (tmp_path / "said.csv").open() as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == ["image", "note", "predicted_label", "predicted_confidence"]


def test_transformers_alone_says_the_same_of_a_bundle(finished: Run, shapes: Path) -> None:
    base = store.resolve(str(finished.folder))
    network: Any = ResNetForImageClassification.from_pretrained(base.folder).eval()
    told = json.loads((base.folder / "preprocessor_config.json").read_text())
    file = shapes / "cross" / "000.png"
    image = Image.open(file).resize((told["size"]["width"], told["size"]["height"]), told["resample"])
    pixels = (torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] * told["rescale_factor"] - 0.5) / 0.5
    with torch.no_grad():
        shares = network(pixels).logits.softmax(-1)[0].tolist()
    (said,) = luthier.predict(finished.folder, file)
    assert {network.config.id2label[number]: share for number, share in enumerate(shares)} == pytest.approx(said["probabilities"], abs=1e-5)


def test_two_steps_equal_a_plain_loop_in_weights_and_in_statistics(shapes: Path) -> None:
    work = work_for(shapes)
    plain = ResNetForImageClassification(work.model.network.config)
    plain.load_state_dict(work.model.network.state_dict())
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = vision.MOMENTUM
    named = dict(plain.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [each for each in named.values() if each.ndim > 1], "weight_decay": 0.1},
            {"params": [each for each in named.values() if each.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=1e-3,
    )
    schedule: Any = work.experiment.schedule
    plain.train()
    for number in range(2):
        rows = [work.train[position] for position in choose_rows(number, len(work.train), 8, 7)]
        pixels = torch.stack([torch.tensor(row.inputs["pixels"]).permute(2, 0, 1) for row in rows]).float() / 127.5 - 1
        optimizer.zero_grad()
        cross_entropy(plain(pixels).logits, torch.tensor([row.target for row in rows])).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), work.masters.spec.clip)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * schedule.factor(share_done(number, work.total))
        optimizer.step()
    for step in steps(work):
        if step.number == 2:
            break
    ours = {**work.masters.weights(), **work.masters.buffers()}
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(ours[name], tensor, atol=1e-5), name
    assert not torch.equal(ours["resnet.embedder.embedder.normalization.running_mean"], torch.zeros(4))


def test_a_run_stopped_at_a_step_is_resumed_to_the_same_bytes(finished: Run, shapes: Path, tmp_path: Path) -> None:
    def stop(step: Any) -> None:
        if step.number == 23:
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        luthier.run(shapes, out=tmp_path / "run", set=FEW, watchers=[stop])
    resumed = luthier.resume(tmp_path / "run")
    assert weights(resumed.folder) == weights(finished.folder)
    kept = load_file(resumed.folder / "bundle" / "model.safetensors")
    assert kept["resnet.embedder.embedder.normalization.running_mean"].abs().sum() > 0


KILLED = """
import os, sys, luthier
def kill(step):
    if step.number == 31:
        os.kill(os.getpid(), 9)
luthier.train(sys.argv[1], out=sys.argv[2], watchers=[kill])
"""


def test_a_run_killed_without_warning_is_resumed_to_the_same_bytes(finished: Run, tmp_path: Path) -> None:
    assert processes.run("-c", KILLED, finished.folder / "experiment.yaml", tmp_path / "run").returncode == -signal.SIGKILL
    assert weights(luthier.resume(tmp_path / "run").folder) == weights(finished.folder)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_new_network_begins_at_the_logarithm_of_the_number_of_classes(shapes: Path, smoothing: float) -> None:
    work = work_for(shapes, objective__label_smoothing=smoothing)
    batch = work.objective.collate(work.train[:6], 7, HELD_OUT)
    loss = work.objective.loss(work.model, batch)
    assert float(loss.total.detach()) / loss.count == pytest.approx(math.log(2), rel=1e-6)
    assert not any(parameter.any() for parameter in work.model.network.classifier.parameters())


def test_images_are_changed_in_training_where_asked_and_never_when_held_out(shapes: Path) -> None:
    plain, changed = work_for(shapes), work_for(shapes, augment__share=1.0)
    for work in (plain, changed):
        assert torch.equal(
            work.objective.collate(work.train[:4], 7, HELD_OUT).each["pixels"],
            plain.objective.collate(plain.train[:4], 7, 3).each["pixels"],
        )
    one, two, later = (changed.objective.collate(changed.train[:4], 7, step).each["pixels"] for step in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, later)


def test_grey_images_have_one_channel_and_the_statistics_of_one(tmp_path: Path) -> None:
    work = work_for(write(tmp_path, "L", 60), augment__share=1.0)
    assert work.experiment.objective.colour == "grey"  # type: ignore[attr-defined]
    assert work.model.network.config.num_channels == 1
    assert work.objective.collate(work.train[:4], 7, 0).each["pixels"].shape == (4, 1, 16, 16)
    losses = [step.loss for step in steps(work)]
    assert all(math.isfinite(loss) for loss in losses)


def test_grey_images_of_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    spec = image_classification.ImageClassification(labels=("a", "b"), side=32, colour="grey")
    (example,) = spec.open(None, ("image",), "label").prepare([Record(1, {"image": str(tmp_path / "deep.png")})])
    assert np.abs(example.inputs["pixels"][:, :, 0].astype(int) - deep // 256).max() <= 1


@pytest.mark.parametrize("side", [8, 16, 28, 32, 64, 96])
def test_one_image_alone_can_be_trained_on_whatever_its_side(side: int) -> None:
    network = vision.make_network(["a", "b", "c"], 1, side, 4, 1, 0.0, 0)
    assert len(network.blocks) == vision.stages_for(side) <= vision.STAGES
    assert network.network(torch.zeros(1, 1, side, side)).logits.shape == (1, 3)


def test_what_is_no_image_is_refused_by_its_row(finished: Run, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    good = str(shapes / "disc" / "001.png")
    for asked, said in (
        ([good, str(tmp_path / "broken.png")], r"row 2: .*broken\.png cannot be read: it is no image: it holds text"),
        ([good, str(tmp_path / "away.png")], r"row 2: there is no image .*away\.png"),
        ([{"image": good}, {"picture": good}], "row 2 has no 'image'"),
        ([good, np.zeros((4, 4, 3))], "row 2 is a ndarray, not the name of an image"),
        (np.zeros((4, 4, 3)), "row 1 is a ndarray, not the name of an image"),
        ([{"image": good}, {"image": None}], "row 2 has no 'image'"),
        ("a long text " * 100, "there is no image"),
        ([f"{'a' * 300}.png"], "there is no image"),
        (shapes / "disc" / "0001.png", r"there is no image"),
        (tmp_path / "empty", "holds no images"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=said):
            luthier.predict(finished.folder, asked)


def test_an_image_that_changes_behind_the_run_names_its_row(tmp_path: Path) -> None:
    path = write(tmp_path, count=60)
    dataset = load_dataset(Data(path=str(path)), checks=())
    record = dataset.records["train"][3]
    (path / record.values["image"]).write_bytes(b"gone")
    spec = image_classification.ImageClassification(labels=dataset.labels, side=16, colour="rgb")
    with pytest.raises(DataError, match=rf"row {record.row}: .* cannot be read"):
        spec.open(None, ("image",), "label").prepare(dataset.records["train"])


def test_pillow_that_is_missing_is_answered_by_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None)
    spec = image_classification.ImageClassification(labels=("a", "b"), side=16, colour="rgb")
    with pytest.raises(DataError, match=r"Pillow(.|\n)*luthier\[images\]"):
        spec.open(None, ("image",), "label").prepare([Record(1, {"image": "one.png"})])


def test_a_side_that_is_too_small_and_a_base_for_text_are_refused(bases: Any, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(LuthierError, match=r"side.* 8 pixels or more"):
        luthier.run(shapes, out=tmp_path / "one", set=["objective.side=4"])
    with pytest.raises(ModelError, match="reads no images"):
        FAMILY.load(
            image_classification.ImageClassification(labels=("a", "b"), side=16, colour="rgb"), Model(dropout=0.0), bases("bert"), 0
        )


def test_a_bundle_can_be_trained_further_with_its_head_kept(finished: Run) -> None:
    base = store.resolve(str(finished.folder))
    spec = image_classification.ImageClassification(labels=("cross", "disc"), side=16, colour="rgb", width=8)
    network = FAMILY.load(spec, Model(dropout=0.0), base, 0).network
    kept = load_file(base.folder / "model.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())


def test_the_family_is_imported_without_torch() -> None:
    code = "import sys, luthier.families.image_classification; print([name for name in ('torch', 'transformers', 'sklearn', 'PIL') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ})
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("count", "side", "batch"), [(9_999, 32, 32), (10_000, 64, 128)])
def test_many_small_images_become_larger_squares_in_larger_steps(count: int, side: int, batch: int) -> None:
    row = Record(1, {"image": "1.png", "image.width": 28, "image.height": 28, "image.mode": "L"})
    dataset: Any = SimpleNamespace(records={"train": [row] * count})
    assert fit_squares(image_classification.ImageClassification(), dataset, MANY).side == side
    assert FAMILY.batch_size(dataset, 8).value == batch
