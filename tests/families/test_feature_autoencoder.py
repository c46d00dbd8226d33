"""Autoencoders of what a network sees: what is reconstructed, where it begins, what is kept, who is refused, and what is said of the most anomalous images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.decomposition import PCA
from torch.nn.functional import adaptive_avg_pool2d
from transformers import AutoModelForImageClassification

import luthier
from luthier.core.errors import DataError, ExperimentError, ModelError
from luthier.core.run import Run
from luthier.core.types import HELD_OUT, Batch, Loss
from luthier.data.spec import Data
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families.anomaly_baselines import component_baseline, pixels_of, small_greys
from luthier.families.feature_autoencoder import FAMILY, draw_places
from luthier.families.recognise import load_dataset
from luthier.models.base import Base
from luthier.models.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig
from luthier.models.feature_autoencoder import FeatureAutoencoderModel, load_feature_autoencoder, place_weights
from luthier.models.store import inspect
from luthier.objectives.feature_autoencoder import FeatureAutoencoderObjective
from luthier.training.assemble import assemble
from luthier.training.prove import find_disproved, prove
from luthier.training.steps import Work, steps
from tests.conftest import make_image_base
from tests.families.cases import write_lines
from tests.families.test_image_classification import write

SIDE = 32
TASK = "feature_autoencoder"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rows"), "L", 120)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_image_base(tmp_path_factory.mktemp("base") / "resnet")


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Base:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base") / "lite"
    network = EfficientNetLite(EfficientNetLiteConfig([1] * 7, [8, 8, 8, 8, 16, 16, 24], SIDE, num_labels=3))
    for module in network.train().modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # its statistics are those of what it sees now
    with torch.no_grad():
        network(torch.randn(8, 3, SIDE, SIDE))
    network.eval().save_pretrained(folder)
    return inspect(folder, str(folder))


@pytest.fixture(scope="module")
def finished(shapes: Path, lite: Base, tmp_path_factory: pytest.TempPathFactory) -> Run:
    changes = ["data.normal=disc", f"objective.side={SIDE}", "objective.code=4", "objective.hidden=16", "training.epochs=10"]
    return luthier.run(shapes, task=TASK, base=str(lite.folder), out=tmp_path_factory.mktemp("runs") / "run", set=changes, force=True)  # fmt: skip


def work_for(path: Path, base: Base, adaptation: str = "freeze", **objective: Any) -> Any:
    """Two steps on a folder's images."""
    dataset = load_dataset(Data(path=str(path), task=TASK, normal="disc"), checks=())
    value: dict[str, Any] = {
        "data": dataset.spec.model_dump(mode="json"),
        "objective": {"kind": TASK, "side": SIDE, "colour": "rgb", "code": 4, "hidden": 16, "normal": "disc", **objective},
        "model": {"base": str(base.folder), "dropout": 0.0},
        "adaptation": {"kind": adaptation},
        "optimizer": {"kind": "adamw", "lr": 1e-3},
        "schedule": {"kind": "linear"},
        "training": {"batch_size": 8, "steps": 2, "dtype": "float32"},
    }
    made = Experiment.of(value)
    return assemble(made, base, FAMILY.load_processor(base, made.objective), dataset.records)


def test_the_vectors_are_pooled_hidden_states_of_transformers_centred_and_scaled_by_the_training_images(shapes: Path, resnet: Base) -> None:
    work, plain = work_for(shapes, resnet), AutoModelForImageClassification.from_pretrained(resnet.folder).eval()

    def vector(example: Any) -> np.ndarray:
        pixels = torch.tensor(example.inputs["pixels"]).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            maps = plain(pixels, output_hidden_states=True).hidden_states[2]  # behind the stem and two of three stages
        return adaptive_avg_pool2d(maps, min(4, maps.shape[2])).flatten().double().numpy()

    train = np.stack([vector(example) for example in work.train])
    spread = np.sqrt(((train - train.mean(0)) ** 2).mean())
    assert work.objective.vectors(work.train) == pytest.approx((train - train.mean(0)) / spread, abs=2e-3)
    held = np.stack([vector(example) for example in work.validation])
    assert work.objective.vectors(work.validation) == pytest.approx((held - train.mean(0)) / spread, abs=2e-3)


def test_a_network_that_transformers_does_not_have_is_read_behind_two_thirds_of_its_stages(shapes: Path, lite: Base) -> None:
    model = work_for(shapes, lite).model
    pixels = torch.randint(0, 256, (2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch = Batch(torch.arange(2), torch.ones(2), {}, {"pixels": pixels})
    with torch.no_grad():
        maps = model.network.eval().stage_maps(model.normalised_pixels(batch))[4]
    assert torch.allclose(model.row_vectors(batch), maps.mean((2, 3)) if maps.shape[2] == 1 else adaptive_avg_pool2d(maps, 2).flatten(1), atol=1e-5)  # fmt: skip
    assert model.width == 16 * 4


@pytest.mark.parametrize(("length", "grid"), [(8, 4), (7, 4), (14, 4), (2, 4), (5, 1)])
def test_places_are_those_of_torchs_adaptive_pooling(length: int, grid: int) -> None:
    maps = torch.randn(2, 3, length, length, generator=torch.Generator().manual_seed(1))
    weights = torch.from_numpy(place_weights(length, grid))
    assert torch.allclose(weights @ maps @ weights.T, adaptive_avg_pool2d(maps, min(length, grid)), atol=1e-6)


def test_a_new_network_is_pca_to_the_number(shapes: Path, lite: Base) -> None:
    work = work_for(shapes, lite)
    train, held = work.objective.vectors(work.train), work.objective.vectors(work.validation)
    fitted = PCA(4, random_state=0).fit(train)
    expected = ((held - fitted.inverse_transform(fitted.transform(held))) ** 2).mean(1)
    assert score(work.model, work.objective, work.validation).more["anomaly"] == pytest.approx(expected, rel=1e-2, abs=1e-4)
    baseline = component_baseline(work.train, work.validation, 4, "error", work.objective.vectors, " of the base's maps")
    assert baseline.name == "PCA with 4 components of the base's maps"
    assert baseline.validation.more["anomaly"] == pytest.approx(expected, rel=1e-4)


def test_more_components_than_images_allow_are_left_at_zero(shapes: Path, lite: Base) -> None:
    work = work_for(shapes, lite, code=100)
    assert 0 < int((work.model.network.autoencoder.down.weight.abs().sum(1) > 0).sum()) < len(work.train)


def test_the_gradient_is_that_of_a_few_lines_of_torch_and_the_base_has_none(shapes: Path, lite: Base) -> None:
    work = work_for(shapes, lite)
    own, batch = work.model.network.autoencoder, work.objective.collate(work.train[:8], 1, 0)
    for seed, each in enumerate((own.to_code, own.to_vector)):
        torch.nn.init.normal_(each.weight, generator=torch.Generator().manual_seed(seed))
    loss = work.objective.loss(work.model, batch)
    (loss.total / loss.count).backward()
    names = [name for name, _ in own.named_parameters()]
    weights = {name: each.detach().clone().requires_grad_() for name, each in own.named_parameters()}
    target = torch.tensor(work.objective.vectors(work.train[:8]), dtype=torch.float32)
    given, gelu = target + batch.each["noise"], torch.nn.functional.gelu

    def layer(name: str, values: torch.Tensor) -> torch.Tensor:
        return values @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(()))

    code = layer("down", given) + layer("to_code", gelu(layer("narrow", given)))
    torch.nn.functional.mse_loss(layer("up", code) + layer("to_vector", gelu(layer("widen", code))), target).backward()
    for name in names:
        assert torch.allclose(own.get_parameter(name).grad, weights[name].grad, rtol=1e-3, atol=1e-6), name
    assert all(each.grad is None for name, each in work.model.network.named_parameters() if not name.startswith("autoencoder."))


def test_training_moves_what_reconstructs_and_leaves_the_base_and_its_statistics_as_they_were(shapes: Path, lite: Base) -> None:
    work = work_for(shapes, lite)
    before = {name: value.clone() for name, value in work.model.network.state_dict().items()}
    list(steps(work))
    moved = {name for name, value in work.model.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("autoencoder.") and name.endswith((".weight", ".bias")) for name in moved)


def test_images_are_looked_at_once(shapes: Path, lite: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    own = FeatureAutoencoderModel.maps
    monkeypatch.setattr(FeatureAutoencoderModel, "maps", lambda self, batch: seen.append(len(batch)) or own(self, batch))
    work = work_for(shapes, lite)
    assert sum(seen) == 1 + len(work.train) + len(work.validation)  # one to know how wide the maps are
    seen.clear()
    list(steps(work))
    score(work.model, work.objective, work.validation)
    assert not seen


def test_noise_depends_on_seed_step_and_row_alone_and_held_out_rows_get_none(shapes: Path, lite: Base) -> None:
    work = work_for(shapes, lite)
    at_work, some = work.objective, work.train[:6]
    one, again, later, other = (at_work.collate(some, seed, step).each["noise"] for seed, step in ((1, 0), (1, 0), (1, 1), (2, 0)))
    assert torch.equal(one, again) and not torch.equal(one, later) and not torch.equal(one, other)
    assert torch.equal(at_work.collate(some[2:3], 1, 0).each["noise"][0], one[2])
    assert float(one.std()) == pytest.approx(0.5, rel=0.15)
    assert "noise" not in at_work.collate(some, 1, HELD_OUT).each


def test_the_verdict_names_what_was_compared_and_the_report_shows_where_images_are_unusual(finished: Run) -> None:
    verdict = finished.verdict
    assert verdict is not None
    assert verdict["metric"] == "anomaly_auc"
    names = {verdict["trivial"]["name"], *(other["name"] for other in verdict["others"])}
    both = {"PCA with 4 components of the base's maps", "PCA with 4 components of the pixels"}
    assert names == {"the mean map", *both, "the nearest training image", "low contrast alone"}
    page = (finished.folder / "report.html").read_text()
    assert "how badly each place of it is reconstructed" in page
    proofs = json.loads((finished.folder / "proofs.json").read_text())["proofs"]
    assert {"maps are the bases", "held out images have no noise", "starts as components"} <= {each["name"] for each in proofs}


def test_prediction_gives_the_evaluations_score_and_whether_it_is_above_the_threshold(finished: Run, shapes: Path) -> None:
    images = sorted(str(file) for file in shapes.rglob("*.png"))[:3]
    found = luthier.predict(finished.folder, images)
    threshold = float(load_file(finished.folder / "bundle" / "model.safetensors")["threshold"])
    assert np.isfinite(threshold)
    assert all(set(each) == {"row", "anomaly_score", "anomalous"} for each in found)
    assert [each["anomalous"] for each in found] == [each["anomaly_score"] > threshold for each in found]


def test_its_bundle_is_no_base_of_a_classifier_which_is_said_in_one_line(finished: Run, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="as it was: a feature_autoencoder model does not train its base"):
        luthier.run(shapes, task="image_classification", base=str(finished.folder), out=tmp_path / "run")


@pytest.mark.parametrize("adaptation", ["full", "gradual", "lora"])
def test_a_base_that_would_move_is_refused_when_the_run_is_planned(shapes: Path, lite: Base, tmp_path: Path, adaptation: str) -> None:
    changes, base = [f"adaptation.kind={adaptation}"], str(lite.folder)
    with pytest.raises(ExperimentError, match=f"adaptation.kind={adaptation} does not fit feature_autoencoder: .* has to stay as it is"):
        luthier.run(shapes, task="feature_autoencoder", base=base, out=tmp_path / "run", set=changes, plan_only=True)


def test_texts_bases_of_texts_and_a_network_from_scratch_are_refused(shapes: Path, bases: Any, tmp_path: Path) -> None:
    file = write_lines(tmp_path, [{"text": f"row {number}"} for number in range(40)])
    with pytest.raises(DataError, match="no column of text names image files"):
        load_dataset(Data(path=str(file), task="feature_autoencoder"), checks=())
    with pytest.raises(ModelError, match="it reads no images"):
        load_feature_autoencoder(bases("bert"), 3, SIDE, 4, 4, 16, 0)
    with pytest.raises(ExperimentError, match="is not made from scratch"):
        luthier.run(shapes, task="feature_autoencoder", base="scratch", out=tmp_path / "run", plan_only=True)


def test_small_greys_are_the_means_of_blocks_of_pixels(shapes: Path, lite: Base) -> None:
    rows = work_for(shapes, lite).validation
    greys = small_greys(rows)
    assert greys == pytest.approx(pixels_of(rows).reshape(len(rows), SIDE * SIDE, 3).mean(2))
    assert draw_places(np.array([[0.0, 1.0], [2.0, 4.0]]), 4.0, 4)[:, :, 0].tolist() == [[0, 0, 63, 63]] * 2 + [[127, 127, 255, 255]] * 2


def test_planted_bugs_are_caught_by_name(shapes: Path, lite: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise on held-out rows; a loss divided by rows; kept vectors of another image; components that are too long."""

    def catch(work: Work) -> set[str]:
        return {proof.name for proof in find_disproved(prove(work, lambda record: FAMILY.serving_inputs(record, work.objective), 1e6))}

    assert not catch(work_for(shapes, lite))
    own_collate, own_loss = FeatureAutoencoderObjective.collate, FeatureAutoencoderObjective.loss
    with monkeypatch.context() as planted:
        work = work_for(shapes, lite)
        planted.setattr(FeatureAutoencoderObjective, "collate", lambda self, some, seed, step: own_collate(self, some, seed, max(step, 0)))
        assert "held out images have no noise" in catch(work)
    with monkeypatch.context() as planted:
        wrong = lambda self, model, batch: Loss(own_loss(self, model, batch).total, float(len(batch)))  # noqa: E731
        planted.setattr(FeatureAutoencoderObjective, "loss", wrong)
        assert "judged as trained" in catch(work_for(shapes, lite))
    work = work_for(shapes, lite)
    every = [*work.train, *work.validation]
    work.model.keep_vectors(every[::-1], np.stack([work.objective.vectors([example])[0] for example in every]).astype(np.float32))
    assert "maps are the bases" in catch(work)
    work = work_for(shapes, lite)
    with torch.no_grad():
        work.model.network.autoencoder.up.weight.mul_(2)
    assert "starts as components" in catch(work)
