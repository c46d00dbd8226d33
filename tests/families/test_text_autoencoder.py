"""Text autoencoders: what is reconstructed, what the loss is, what is kept, who is refused, and what is said of the most anomalous texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

import luthier
from luthier.core.errors import DataError, ExperimentError, ModelError
from luthier.core.run import Run
from luthier.core.types import HELD_OUT, Loss
from luthier.data.spec import Data
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families.anomaly_baselines import nearest_baseline
from luthier.families.recognise import load_dataset
from luthier.families.text_autoencoder import FAMILY
from luthier.models.base import Base
from luthier.models.text_autoencoder import load_text_autoencoder
from luthier.objectives.text_autoencoder import TextAutoencoderObjective
from luthier.training.assemble import assemble
from luthier.training.prove import find_disproved, prove
from luthier.training.steps import Work, steps
from tests.conftest import rows
from tests.families.cases import PLACES, write_lines

SMALL = ["objective.code=4", "objective.hidden=16", "training.epochs=20", "optimizer.lr=3e-3"]


def texts(count: int = 200) -> list[dict[str, str]]:
    """Sentences of one kind, and every fifth a row of words that stand in none of them."""
    plain = [{"text": f"{row['text']} {number}", "kind": "normal"} for number, row in enumerate(rows(count))]
    for number in range(0, count, 5):
        plain[number] = {"text": " ".join([PLACES[number * step % 11] for step in (1, 3, 7, 9)] + [str(number)]), "kind": "odd"}
    return plain


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("rows"), texts())


@pytest.fixture(scope="module")
def finished(table: Path, bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, base = tmp_path_factory.mktemp("runs") / "run", str(bases("bert").folder)
    return luthier.run(table, task="text_autoencoder", target="kind", base=base, out=folder, set=SMALL, force=True)


def work_for(path: Path, base: Base, adaptation: str = "freeze", **objective: Any) -> Any:
    """Two steps on a table's rows."""
    dataset = load_dataset(Data(path=str(path), task="text_autoencoder", target="kind"), checks=())
    value: dict[str, Any] = {
        "data": dataset.spec.model_dump(mode="json"),
        "objective": {"kind": "text_autoencoder", "code": 4, "hidden": 16, "normal": "normal", **objective},
        "model": {"base": str(base.folder), "dropout": 0.0},
        "adaptation": {"kind": adaptation},
        "optimizer": {"kind": "adamw", "lr": 1e-3},
        "schedule": {"kind": "linear"},
        "training": {"batch_size": 8, "steps": 2, "dtype": "float32"},
    }
    made = Experiment.of(value)
    return assemble(made, base, FAMILY.load_processor(base, made.objective), dataset.records)


def test_the_vectors_are_the_normalised_means_of_transformers_centred_and_scaled_by_the_training_texts(table: Path, bases: Any) -> None:
    work, plain = work_for(table, bases("bert")), AutoModel.from_pretrained(bases("bert").folder).eval()

    def vector(example: Any) -> np.ndarray:
        with torch.no_grad():
            found = plain(torch.tensor([example.tokens])).last_hidden_state[0].mean(0)
        return (found / found.norm()).numpy().astype(np.float64)

    train = np.stack([vector(example) for example in work.train])
    centred = train - train.mean(0)
    expected = centred / np.sqrt((centred**2).mean())
    assert work.objective.vectors(work.train) == pytest.approx(expected, abs=2e-3)
    held = (np.stack([vector(example) for example in work.validation]) - train.mean(0)) / np.sqrt((centred**2).mean())
    assert work.objective.vectors(work.validation) == pytest.approx(held, abs=2e-3)


def test_a_new_network_loses_the_variance_of_the_training_texts_which_is_one(table: Path, bases: Any) -> None:
    work = work_for(table, bases("bert"))
    found = score(work.model, work.objective, work.train)
    assert found.loss.sum() / found.count.sum() == pytest.approx(1.0, rel=1e-4)
    assert found.more["anomaly"].mean() == pytest.approx(1.0, rel=1e-4)


def test_the_gradient_is_that_of_a_few_lines_of_torch_and_the_base_has_none(table: Path, bases: Any) -> None:
    work = work_for(table, bases("bert"), noise=0.5)
    own, batch = work.model.network.autoencoder, work.objective.collate(work.train[:8], 1, 0)
    torch.nn.init.normal_(own.to_vector.weight, generator=torch.Generator().manual_seed(3))
    loss = work.objective.loss(work.model, batch)
    (loss.total / loss.count).backward()
    target = torch.tensor(work.objective.vectors(work.train[:8]), dtype=torch.float32)
    weights = [
        each.detach().clone().requires_grad_()
        for layer in (own.narrow, own.to_code, own.widen, own.to_vector)
        for each in (layer.weight, layer.bias)
    ]
    hidden = torch.nn.functional.gelu((target + batch.each["noise"]) @ weights[0].T + weights[1]) @ weights[2].T + weights[3]
    again = torch.nn.functional.gelu(hidden @ weights[4].T + weights[5]) @ weights[6].T + weights[7]
    torch.nn.functional.mse_loss(again, target).backward()
    ours = [each.grad for layer in (own.narrow, own.to_code, own.widen, own.to_vector) for each in (layer.weight, layer.bias)]
    assert all(torch.allclose(one, other.grad, rtol=1e-3, atol=1e-6) for one, other in zip(ours, weights, strict=True))
    assert all(each.grad is None for name, each in work.model.network.named_parameters() if not name.startswith("autoencoder."))


def test_training_moves_what_reconstructs_and_leaves_the_base_as_it_was(table: Path, bases: Any) -> None:
    work = work_for(table, bases("bert"))
    before = {name: value.clone() for name, value in work.model.network.state_dict().items()}
    list(steps(work))
    moved = {name for name, value in work.model.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("autoencoder.") and name.endswith((".weight", ".bias")) for name in moved)


def test_noise_depends_on_seed_step_and_row_alone_and_held_out_rows_get_none(table: Path, bases: Any) -> None:
    work = work_for(table, bases("bert"))
    at_work, some = work.objective, work.train[:6]
    one, again, later, other = (at_work.collate(some, seed, step).each["noise"] for seed, step in ((1, 0), (1, 0), (1, 1), (2, 0)))
    assert torch.equal(one, again)
    assert not torch.equal(one, later)
    assert not torch.equal(one, other)
    assert torch.equal(at_work.collate(some[2:3], 1, 0).each["noise"][0], one[2])
    assert float(one.std()) == pytest.approx(0.5, rel=0.15)
    assert "noise" not in at_work.collate(some, 1, HELD_OUT).each


def test_texts_are_read_once_and_what_is_kept_is_found_again_by_whoever_goes_on(
    table: Path, bases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.models.text_autoencoder import TextAutoencoderModel

    read: list[int] = []
    own = TextAutoencoderModel.embed
    monkeypatch.setattr(TextAutoencoderModel, "embed", lambda self, batch: read.append(len(batch)) or own(self, batch))
    work = work_for(table, bases("bert"))
    assert sum(read) == len(work.train) + len(work.validation)
    read.clear()
    list(steps(work))
    score(work.model, work.objective, work.validation)
    assert not read


def test_the_nearest_training_text_is_that_of_a_search_through_all(table: Path, bases: Any) -> None:
    work = work_for(table, bases("bert"))
    train, held = (work.objective.vectors(part) for part in (work.train, work.validation))
    apart = ((held[:, None] - train[None]) ** 2).mean(2).min(1)
    found = nearest_baseline(work.train, work.validation, "error", work.objective.vectors, "text")
    assert found.name == "the nearest training text"
    assert found.validation.more["anomaly"] == pytest.approx(apart, rel=1e-3, abs=1e-4)


def test_a_text_in_windows_is_the_mean_of_their_vectors(table: Path, bases: Any) -> None:
    whole, cut = (work_for(table, bases("bert"), max_length=8, overlap=0, long_rows=how) for how in ("windows", "cut"))
    row = next(example for example in whole.train if list(example.inputs["place"]).count(0) > 1)
    starts = [place for place, within in enumerate(row.inputs["place"]) if within == 0]
    pieces = [row.tokens[start:stop] for start, stop in zip(starts, [*starts[1:], len(row.tokens)], strict=True)]
    expected = cut.model.embed_tokens(pieces).mean(0)
    found = whole.model.row_vectors(whole.objective.collate([row], 0, HELD_OUT))[0].numpy()
    assert found == pytest.approx(expected, abs=1e-4)


def test_odd_texts_are_found_and_the_report_shows_them(finished: Run) -> None:
    verdict = finished.verdict
    assert verdict is not None
    assert verdict["metric"] == "anomaly_auc"
    assert verdict["test"]["low"] > 0.8
    names = {verdict["trivial"]["name"], *(other["name"] for other in verdict["others"])}
    assert names == {"the mean vector", "PCA with 4 components", "the nearest training text"}
    assert all(len(other["difference"]) == 3 for other in verdict["others"])
    page = (finished.folder / "report.html").read_text()
    assert "The most anomalous test texts" in page
    assert "Called anomalous at a false-alarm rate of 5%" in page
    shown = next(each for each in finished.json("evaluation.json")["tables"] if each["title"] == "The most anomalous test texts")
    assert shown["head"] == ["anomaly score", "threshold", "class", "text"]
    assert shown["rows"][0][1:3] == ["above", "odd"]
    assert any(place in shown["rows"][0][3] for place in PLACES)
    proofs = json.loads((finished.folder / "proofs.json").read_text())["proofs"]
    assert {"vectors are the bases", "held out texts have no noise", "starts at the mean vector"} <= {each["name"] for each in proofs}


def test_prediction_gives_a_score_and_whether_it_is_above_the_threshold(finished: Run, tmp_path: Path) -> None:
    odd, usual = luthier.predict(finished.folder, ["river garden violin castle", "the phone number 3 was lovely indeed"])
    assert set(odd) == {"row", "anomaly_score", "anomalous"}
    assert odd["anomaly_score"] > usual["anomaly_score"]
    threshold = float(load_file(finished.folder / "bundle" / "model.safetensors")["threshold"])
    assert [each["anomalous"] for each in (odd, usual)] == [each["anomaly_score"] > threshold for each in (odd, usual)]
    assert np.isfinite(threshold)
    luthier.predict(finished.folder, [{"text": "a film"}], out=tmp_path / "found.csv")
    assert (tmp_path / "found.csv").read_text().splitlines()[0] == "text,predicted_anomaly_score,predicted_anomalous"


def test_its_bundle_is_no_base_of_a_classifier_which_is_said_in_one_line(finished: Run, table: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="as it was: a text_autoencoder model does not train its base") as refused:
        luthier.run(table, target="kind", base=str(finished.folder), out=tmp_path / "run")
    assert "--base " in str(refused.value)


@pytest.mark.parametrize("adaptation", ["full", "gradual", "lora"])
def test_a_base_that_would_move_is_refused(table: Path, bases: Any, adaptation: str) -> None:
    with pytest.raises(ExperimentError, match=f"adaptation.kind={adaptation} moves the base"):
        work_for(table, bases("bert"), adaptation)


@pytest.mark.parametrize("adaptation", ["full", "gradual", "lora"])
def test_a_base_that_would_move_is_refused_when_the_run_is_planned(table: Path, bases: Any, tmp_path: Path, adaptation: str) -> None:
    changes, base = [f"adaptation.kind={adaptation}"], str(bases("bert").folder)
    with pytest.raises(ExperimentError, match=f"adaptation.kind={adaptation} does not fit text_autoencoder: .* has to stay as it is"):
        luthier.run(table, task="text_autoencoder", base=base, out=tmp_path / "run", set=changes, plan_only=True)


def test_decoders_classes_that_are_not_there_and_tables_that_nobody_gave_it_are_refused(table: Path, bases: Any) -> None:
    with pytest.raises(ModelError, match="is no encoder"):
        load_text_autoencoder(bases("llama"), 4, 16, "auto", 64, 0)
    with pytest.raises(DataError, match="no row has the class 'nromal'"):
        load_dataset(Data(path=str(table), task="text_autoencoder", target="kind", normal="nromal"), checks=())
    assert load_dataset(Data(path=str(table)), checks=()).spec.task == "classification"


def test_texts_without_classes_are_all_learned_from(tmp_path: Path) -> None:
    file = write_lines(tmp_path, [{"text": row["text"]} for row in texts(60)])
    found = load_dataset(Data(path=str(file), task="text_autoencoder"), checks=())
    assert (found.spec.target, found.spec.normal) == (None, "")


def test_planted_bugs_are_caught_by_name(table: Path, bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise on held-out rows; a loss divided by rows instead of numbers; kept vectors that are another text's."""

    def catch(work: Work) -> set[str]:
        return {proof.name for proof in find_disproved(prove(work, lambda record: FAMILY.serving_inputs(record, work.objective), 1e6))}

    assert not catch(work_for(table, bases("bert")))
    own_collate, own_loss = TextAutoencoderObjective.collate, TextAutoencoderObjective.loss
    with monkeypatch.context() as planted:
        work = work_for(table, bases("bert"))
        planted.setattr(TextAutoencoderObjective, "collate", lambda self, some, seed, step: own_collate(self, some, seed, max(step, 0)))
        assert "held out texts have no noise" in catch(work)
    with monkeypatch.context() as planted:
        planted.setattr(
            TextAutoencoderObjective, "loss", lambda self, model, batch: Loss(own_loss(self, model, batch).total, float(len(batch)))
        )
        assert "judged as trained" in catch(work_for(table, bases("bert")))
    work = work_for(table, bases("bert"))
    every = [*work.train, *work.validation]
    work.model.keep_vectors(every[::-1], np.stack([work.objective.vectors([example])[0] for example in every]).astype(np.float32))
    assert "vectors are the bases" in catch(work)
