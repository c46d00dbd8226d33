"""Autoencoders: what the loss is, what is drawn at random, what is learned from, who is refused, and that the encoder is a base."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kstest
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

import luthier
from luthier.core.errors import DataError, ExperimentError, LuthierError, ModelError
from luthier.core.run import Run
from luthier.core.types import HELD_OUT, Example, Loss, Record
from luthier.data.spec import Data
from luthier.evaluation.metrics import measure
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families.anomaly_baselines import component_baseline, mean_baseline, pixels_of
from luthier.families.anomaly_family import threshold_of
from luthier.families.autoencoder import FAMILY
from luthier.families.recognise import load_dataset
from luthier.models import autoencoder as networks
from luthier.models import store, vision
from luthier.models.base import Base
from luthier.objectives.anomaly import normal_draws
from luthier.objectives.autoencoder import Autoencoder, AutoencoderObjective
from luthier.training.assemble import assemble
from luthier.training.prove import find_disproved, prove
from luthier.training.steps import Work, steps
from tests.families.test_image_classification import shape, write

SMALL = ["objective.side=16", "objective.width=4", "objective.code=4", "training.epochs=6", "optimizer.lr=3e-3"]


def objective(**fields: Any) -> AutoencoderObjective:
    spec = Autoencoder(**{"side": 16, "colour": "grey", "code": 4, **fields})
    return spec.open(None, ("image",), "label" if spec.normal else None)


def examples(count: int = 6, side: int = 16, abnormal: int = -1) -> list[Example]:
    drawn = np.random.default_rng(1)
    pixels = [drawn.integers(0, 256, (side, side, 1), dtype=np.uint8) for _ in range(count)]
    return [
        Example(n, {"pixels": each}, None, Record(n + 1, {"image": f"{n}.png"}), 4, float(each.size), facts={"abnormal": abnormal, "label": ""})
        for n, each in enumerate(pixels)
    ]  # fmt: skip


def network(variant: str = "plain", seed: int = 1) -> networks.AutoencoderModel:
    return networks.make_autoencoder(1, 16, 4, 1, 4, variant == "variational", 0.0, seed)


def work_for(path: Path, base: Base | None = None, objective: dict[str, Any] | None = None, adaptation: Any = None) -> Work:
    """Two steps on a folder's images."""
    dataset = load_dataset(Data(path=str(path), task="autoencoder"), checks=())
    value: dict[str, Any] = {
        "data": dataset.spec.model_dump(mode="json"),
        "objective": {"kind": "autoencoder", "side": 16, "colour": "grey", "code": 4, "width": 4, **(objective or {})},
        "model": {"base": base.name if base else "", "dropout": 0.0},
        "adaptation": adaptation or {"kind": "full"},
        "optimizer": {"kind": "adamw", "lr": 1e-3},
        "schedule": {"kind": "linear"},
        "training": {"batch_size": 8, "steps": 2, "dtype": "float32"},
    }
    made = Experiment.of(value)
    return assemble(made, base, FAMILY.load_processor(base, made.objective), dataset.records)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rows"), "L", 120)


@pytest.fixture(scope="module")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return luthier.run(
        shapes, task="autoencoder", out=tmp_path_factory.mktemp("runs") / "run", set=[*SMALL, "data.normal=disc"], force=True
    )


@pytest.mark.parametrize("variant", ["plain", "denoising", "variational"])
def test_a_network_of_zeros_loses_the_mean_square_of_the_pixels(variant: str) -> None:
    at_work, model, rows = objective(variant=variant), network(variant).eval(), examples()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    loss = at_work.loss(model, at_work.collate(rows, 1, 0))
    assert loss.count == 6 * 16 * 16
    assert float(loss.total.detach()) / loss.count == pytest.approx(float((pixels_of(rows) ** 2).mean()), rel=1e-5)


def test_the_gradient_is_that_of_a_few_lines_of_torch() -> None:
    at_work, ours, plain, rows = objective(variant="plain"), network(), network(), examples()
    for each in (ours, plain):
        torch.nn.init.normal_(each.network.to_pixels.weight, generator=torch.Generator().manual_seed(3))
        each.train()
    loss = at_work.loss(ours, at_work.collate(rows, 1, 0))
    (loss.total / loss.count).backward()
    pixels = torch.tensor(pixels_of(rows), dtype=torch.float32).view(6, 1, 16, 16)
    torch.nn.functional.mse_loss(plain.network.decode(plain.network.encode(pixels)[0]), pixels).backward()
    for (name, one), (_, other) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        if one.grad is not None:
            assert other.grad is not None
            assert float((one.grad - other.grad).norm()) <= 1e-4 * float(other.grad.norm()) + 1e-6, name


def test_the_variational_loss_is_the_evidence_lower_bound_of_torchs_distributions() -> None:
    from torch.distributions import Normal, kl_divergence

    at_work, model, rows = objective(variant="variational", kl_weight=0.5), network("variational").eval(), examples()
    torch.nn.init.normal_(model.network.to_pixels.weight, generator=torch.Generator().manual_seed(3))
    batch = at_work.collate(rows, 1, 0)
    pixels = model.target(batch)
    mean, log_variance = model.network.encode(pixels)
    assert log_variance is not None
    code = mean + (0.5 * log_variance).exp() * batch.each["draw"]
    variance = 0.25  # of a pixel's noise: half of the weight
    likelihood = Normal(model.network.decode(code), math.sqrt(variance)).log_prob(pixels).sum() + pixels.numel() * math.log(
        math.sqrt(2 * math.pi * variance)
    )
    bound = likelihood - kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum()
    assert float(at_work.loss(model, batch).total.detach()) == pytest.approx(float(-2 * variance * bound.detach()), rel=1e-4)


@pytest.mark.parametrize(("variant", "name"), [("denoising", "noise"), ("variational", "draw")])
def test_what_is_drawn_depends_on_seed_step_and_row_alone_and_held_out_rows_get_none(variant: str, name: str) -> None:
    at_work, rows = objective(variant=variant), examples()
    one, again, later, other = (at_work.collate(rows, seed, step).each[name] for seed, step in ((1, 0), (1, 0), (1, 1), (2, 0)))
    assert torch.equal(one, again)
    assert not torch.equal(one, later)
    assert not torch.equal(one, other)
    assert torch.equal(at_work.collate(rows[2:3], 1, 0).each[name][0], one[2])
    assert name not in at_work.collate(rows, 1, HELD_OUT).each


def test_the_draws_are_from_a_normal_distribution() -> None:
    drawn = normal_draws(np.arange(40), 500, 1, "noise", 0)
    assert kstest(drawn.ravel(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(drawn[0], drawn[1])[0, 1]) < 0.15


def test_rows_that_are_known_to_be_abnormal_teach_nothing_and_are_scored_all_the_same() -> None:
    at_work, model = objective(normal="fine"), network().eval()
    rows = examples()
    rows[2] = replace(rows[2], facts={"abnormal": 1, "label": "odd"})
    batch = at_work.collate(rows, 1, HELD_OUT)
    found = at_work.score(model, batch)
    assert (found.loss[2], found.count[2]) == (0, 0)
    assert found.more["anomaly"][2] > 0
    assert float(at_work.loss(model, batch).total.detach()) == pytest.approx(found.loss.sum(), rel=1e-5)
    with pytest.raises(DataError, match=r"row 3 has the class 'odd'"):
        at_work.fit(rows)


def test_pca_and_the_mean_image_are_those_of_scikit_learn() -> None:
    rows = examples(40)
    train, held = rows[:30], rows[30:]
    flat = pixels_of(train)
    plane = PCA(3, random_state=0).fit(flat)
    seen = pixels_of(held)
    again = plane.inverse_transform(plane.transform(seen))
    assert component_baseline(train, held, 3, "error").validation.loss == pytest.approx(((seen - again) ** 2).sum(1))
    assert mean_baseline(train, held, "error").validation.more["anomaly"] == pytest.approx(((seen - flat.mean(0)) ** 2).mean(1))


def test_the_anomaly_auc_and_its_resamples_are_those_of_scikit_learn() -> None:
    from luthier.core.types import Scores
    from luthier.evaluation.metrics import METRICS

    drawn = np.random.default_rng(0)
    kind = np.array([-1, *drawn.integers(0, 2, 60)])
    anomaly = np.round(drawn.normal(size=61) + kind, 1)
    scores = Scores(np.zeros(61), np.ones(61), more={"abnormal": kind, "anomaly": anomaly})
    assert measure(scores, ("anomaly_auc",))["anomaly_auc"] == pytest.approx(roc_auc_score(kind[1:], anomaly[1:]))
    rows = drawn.integers(0, 61, 61)
    counts, known = np.bincount(rows, minlength=61), rows[rows > 0]
    over = METRICS["anomaly_auc"].over
    assert over is not None
    assert over(scores)(counts[None].astype(float))[0] == pytest.approx(roc_auc_score(kind[known], anomaly[known]))


def test_new_normal_rows_lie_above_the_threshold_as_seldom_as_was_asked() -> None:
    drawn = np.random.default_rng(0)
    above = [drawn.normal() > threshold_of(np.sort(drawn.normal(size=59)), 0.05) for _ in range(4000)]
    assert np.mean(above) == pytest.approx(0.05, abs=0.012)
    assert threshold_of(np.array([1.0, 2.0, 3.0]), 0.05) == 3.0  # too few rows for so small a share: the highest


def test_normal_rows_alone_are_learned_from_and_the_verdict_is_on_the_anomaly_auc(finished: Run) -> None:
    verdict = finished.verdict
    assert verdict is not None
    assert verdict["metric"] == "anomaly_auc"
    assert 0.5 < verdict["test"]["low"] <= verdict["test"]["value"] <= verdict["test"]["high"]
    names = {verdict["trivial"]["name"], *(other["name"] for other in verdict["others"])}
    assert names == {"the mean image", "PCA with 4 components", "low contrast alone"}
    assert all(len(other["difference"]) == 3 for other in verdict["others"])
    assert json.loads((finished.folder / "splits.json").read_text())["how"].startswith("by class")
    found = next(each for each in finished.findings if each.check == "split.normal")
    assert "'disc' alone are learned from" in found.claim
    proofs = json.loads((finished.folder / "proofs.json").read_text())["proofs"]
    assert {"held out rows have no noise", "starts in middle grey", "normal rows alone are learned"} <= {each["name"] for each in proofs}
    assert all(each["held"] for each in proofs)


def test_the_report_shows_the_most_anomalous_rows_with_what_is_drawn_of_them(finished: Run) -> None:
    page = (finished.folder / "report.html").read_text()
    assert "The most anomalous test images" in page
    assert page.count("data:image/png;base64,") >= 3 * 8
    assert "Called anomalous at a false-alarm rate of 5%" in page
    assert "from itself, from rows whose label is disc" in page
    assert "anomaly score " in page  # what is said of a test row


def test_prediction_gives_the_score_of_the_evaluation_and_the_threshold_of_the_validation_rows(
    finished: Run, shapes: Path, tmp_path: Path
) -> None:
    from luthier.pilot.stages.opened_bundle import load_bundle

    model, at_work = load_bundle(store.resolve(str(finished.folder)))
    records = load_dataset(Data(path=str(shapes), task="autoencoder", normal="disc"), checks=()).records
    normal = [each for each in at_work.prepare(records["validation"]) if each.facts["abnormal"] == 0]
    expected = np.sort(score(model, at_work, normal).more["anomaly"])
    assert float(model.network.threshold) == pytest.approx(threshold_of(expected, 0.05), rel=1e-5)
    found = luthier.predict(finished.folder, shapes / "disc", out=tmp_path / "found.csv")
    assert all(each["anomalous"] == (each["anomaly_score"] > float(model.network.threshold)) for each in found)
    with pytest.raises(DataError, match="no image was named"):
        luthier.predict(finished.folder, "")
    head, first = (tmp_path / "found.csv").read_text().splitlines()[:2]
    assert head == "image,predicted_anomaly_score,predicted_anomalous"
    assert first.rsplit(",", 1)[1] in ("true", "false")


def test_the_encoder_is_a_base_of_a_classifier_to_the_last_weight(finished: Run, shapes: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from luthier.models.vision import load_network

    kept = load_file(finished.folder / "bundle" / "model.safetensors")
    classifier = load_network(store.resolve(str(finished.folder)), ("cross", "disc"), 1, 0.0, 1)
    own = classifier.network.state_dict()
    encoder = [name for name in own if name.startswith("resnet.")]
    assert encoder
    assert all(torch.equal(own[name], kept[name]) for name in encoder)
    again = luthier.run(shapes, base=str(finished.folder), out=tmp_path / "run", set=["training.epochs=2"], force=True)
    assert again.verdict is not None
    assert again.verdict["task"] == "image_classification"


def test_a_classifiers_network_is_a_base_of_an_autoencoder_and_frozen_stages_keep_their_statistics(shapes: Path, tmp_path: Path) -> None:
    plain = luthier.run(shapes, out=tmp_path / "run", set=["objective.side=16", "objective.width=4", "training.epochs=1"], force=True)
    base = store.resolve(str(plain.folder))
    work = work_for(shapes, base, adaptation={"kind": "freeze", "depth": 1})
    before = {name: value.clone() for name, value in work.model.network.state_dict().items() if "running_mean" in name}
    list(steps(work))
    moved = {name for name, value in work.model.network.state_dict().items() if name in before and not torch.equal(value, before[name])}
    frozen = {name for name in before if "encoder.stages.0" in name}
    assert frozen
    assert not moved & frozen
    assert {name for name in before if name.startswith("decoder.")} <= moved


def test_adapters_are_refused_where_no_block_has_a_linear_layer(finished: Run, shapes: Path) -> None:
    with pytest.raises(ExperimentError, match="adapters stand beside linear layers, and the blocks of ResNetAutoencoder have none"):
        work_for(shapes, store.resolve(str(finished.folder)), adaptation={"kind": "lora"})


@pytest.mark.parametrize("base", [None, "scratch", "own"])
def test_adapters_are_refused_when_the_run_is_planned(finished: Run, shapes: Path, tmp_path: Path, base: str | None) -> None:
    with pytest.raises(
        ExperimentError, match=r"adaptation\.kind=lora does not fit autoencoder: adapters stand beside linear layers"
    ) as caught:
        luthier.run(shapes, task="autoencoder", base=str(finished.folder) if base == "own" else base, out=tmp_path / "run", set=["adaptation.kind=lora"], plan_only=True)  # fmt: skip
    assert "one that fits: freeze, full, gradual" in caught.value.remedy


def test_a_rate_says_that_a_base_is_kept_only_where_there_is_one(finished: Run) -> None:
    for adaptation in ("freeze", "gradual"):
        assert "what the base knows is kept" in FAMILY.learning_rate(store.resolve(str(finished.folder)), adaptation)[1]
        assert "base" not in FAMILY.learning_rate(None, adaptation)[1]


def test_planted_bugs_are_caught_by_name(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise on held-out rows; a loss divided by rows instead of pixels; an evaluation by the statistics of the batch at hand; statistics that stand still."""

    def catch() -> set[str]:
        work = work_for(shapes, objective={"variant": "denoising"})
        return {proof.name for proof in find_disproved(prove(work, lambda record: FAMILY.serving_inputs(record, work.objective), 1e6))}

    assert not catch()
    own_collate, own_loss, own_score = AutoencoderObjective.collate, AutoencoderObjective.loss, AutoencoderObjective.score
    with monkeypatch.context() as planted:
        planted.setattr(AutoencoderObjective, "collate", lambda self, rows, seed, step: own_collate(self, rows, seed, max(step, 0)))
        assert "held out rows have no noise" in catch()
    with monkeypatch.context() as planted:
        planted.setattr(
            AutoencoderObjective, "loss", lambda self, model, batch: Loss(own_loss(self, model, batch).total, float(len(batch)))
        )
        assert "judged as trained" in catch()

    def by_the_batch(self: Any, model: Any, batch: Any) -> Any:
        for module in model.modules():
            module.training = isinstance(module, torch.nn.BatchNorm2d)
        return own_score(self, model, batch)

    with monkeypatch.context() as planted:
        planted.setattr(AutoencoderObjective, "score", by_the_batch)
        assert "statistics move in training alone" in catch()
    with monkeypatch.context() as planted:
        planted.setattr(vision, "MOMENTUM", 0.0)
        assert "statistics move in training alone" in catch()


def test_a_folder_without_classes_is_an_autoencoders_and_a_labelled_one_only_when_asked(shapes: Path, tmp_path: Path) -> None:
    for number in range(40):
        shape(number, "L").save(tmp_path / f"{number:02}.png")
    found = load_dataset(Data(path=str(tmp_path)), checks=())
    assert (found.spec.task, found.spec.target, found.spec.normal) == ("autoencoder", None, "")
    assert load_dataset(Data(path=str(shapes)), checks=()).spec.task == "image_classification"
    asked = load_dataset(Data(path=str(shapes), task="autoencoder"), checks=())
    assert (asked.spec.task, asked.spec.normal) == ("autoencoder", "")
    assert "say which is normal with --set data.normal=CLASS" in asked.reason


def test_an_image_without_a_class_is_shown_without_one(shapes: Path) -> None:
    assert luthier.show(shapes, task="autoencoder").target == ""
    assert luthier.show(shapes).target in ("cross", "disc")


def test_the_class_that_is_normal_is_found_by_its_name(tmp_path: Path) -> None:
    for number in range(60):
        place = tmp_path / ("Healthy" if number % 2 else "sick")
        place.mkdir(exist_ok=True)
        shape(number, "L").save(place / f"{number:02}.png")
    found = load_dataset(Data(path=str(tmp_path), task="autoencoder"), checks=())
    assert (found.spec.target, found.spec.normal) == ("label", "Healthy")
    assert {record.values["label"] for record in found.records["train"]} == {"Healthy"}
    assert {record.values["label"] for record in found.records["test"]} == {"Healthy", "sick"}
    every = load_dataset(Data(path=str(tmp_path), task="autoencoder", normal=""), checks=())
    assert every.spec.target is None
    assert len(every.records["train"]) > len(found.records["train"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "autoencoder", "normal": "dics"}, r"no row has the class 'dics'.*\n.*disc"),
        ({"task": "image_classification", "normal": "disc"}, "a image_classification model learns from the rows of every class"),
    ],
)
def test_a_normal_class_that_cannot_be_is_refused_with_the_remedy(shapes: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as problem:
        load_dataset(Data(path=str(shapes), **change), checks=())
    import re

    assert re.search(message, str(problem.value))


def test_texts_wrong_bases_and_metrics_without_classes_are_refused(shapes: Path, tmp_path: Path, bases: Any) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("text,label\n" + "".join(f"a text number {n},{n % 2}\n" for n in range(40)))
    with pytest.raises(DataError, match="an autoencoder learns from images"):
        load_dataset(Data(path=str(table), task="autoencoder"))
    with pytest.raises(ModelError, match="it reads no images"):
        networks.load_autoencoder(bases("bert"), 1, 16, 4, False, 0.0, 1)
    with pytest.raises(ExperimentError, match="anomaly_auc needs rows that are known"):
        luthier.run(shapes, task="autoencoder", metric="anomaly_auc", out=tmp_path / "run", set=SMALL)
    with pytest.raises(LuthierError, match=r"few\.png|too few|at least"):
        Image.new("L", (20, 20)).save(tmp_path / "few.png")
        load_dataset(Data(path=str(tmp_path), format="images"))


def test_of_few_images_one_is_told_of_what_a_pretrained_network_sees_and_of_many_not(tmp_path: Path) -> None:
    few, many = (
        load_dataset(Data(path=str(write(tmp_path / str(count), "L", count)), task="autoencoder"), checks=()) for count in (60, 420)
    )
    assert "of so few images, 60, --task feature_autoencoder finds more" in few.reason
    assert "feature_autoencoder" not in many.reason
