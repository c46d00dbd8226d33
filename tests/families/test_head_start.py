"""A head that begins as a linear probe: it is the regression, the same bits come again, and a wrong one is caught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

import luthier
from luthier.core.cache import Cache
from luthier.core.run import Run, file_hash
from luthier.core.types import Record
from luthier.data.spec import Data
from luthier.evaluation.baselines import MOST_ERROR
from luthier.evaluation.linear_heads import fit_labels, fit_number
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families import family_of, head_start
from luthier.families.recognise import load_dataset
from luthier.models.linear_probe import last_layer
from luthier.models.pretrained import load_tokenizer
from luthier.training.assemble import build, open_objective
from luthier.training.prove import Disproved
from tests.families.cases import QUICK, several_labels, write_lines

WORDS = ("stone", "violin", "market", "garden", "river", "lamp")


def rows(count: int) -> list[dict[str, Any]]:
    return [{"text": f"{WORDS[number % 6]} {WORDS[number * 7 % 5]} {number}", "label": WORDS[number % 6]} for number in range(count)]


def folder_for(path: Path) -> Path:
    path.mkdir()
    return path


def experiment(base: Any, **objective: Any) -> Experiment:
    return Experiment.of(
        {
            "seed": 7,
            "data": {"path": "rows.jsonl", "task": "classification", "input": ["text"], "target": "label"},
            "objective": {"kind": "classification", "labels": sorted(WORDS), **objective},
            "model": {"base": str(base.folder), "dropout": 0.0},
            "adaptation": {"kind": "full"},
            "optimizer": {"kind": "adamw", "lr": 1e-3},
            "schedule": {"kind": "linear"},
            "training": {"batch_size": 8, "steps": 4, "dtype": "float32"},
        }
    )


def build_model(base: Any, cache: Cache | None = None, **objective: Any) -> Any:
    asked = experiment(base, **objective)
    opened = open_objective(asked, load_tokenizer(base))
    records = [Record(number, row) for number, row in enumerate(rows(150), 1)]
    return build(asked, base, opened, opened.prepare(records[:120]), opened.prepare(records[120:]), cache=cache)


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
@pytest.mark.parametrize("pooling", ["auto", "mean"])
def test_before_step_one_the_model_says_what_logistic_regression_on_the_heads_input_says(bases: Any, kind: str, pooling: str) -> None:
    if kind == "roberta" and pooling == "mean":
        pytest.skip("its head reads the first token alone")
    base = bases(kind)
    work = build_model(base, head="probe", pooling=pooling)
    assert float(score(work.model, work.objective, work.train).loss.mean()) < 0.8 * np.log(6)
    seen: list[np.ndarray] = []
    layer = last_layer(work.model)
    hook = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().numpy()))
    said = score(work.model, work.objective, work.train).probabilities
    hook.remove()
    features = np.concatenate([each.reshape(-1, each.shape[-1]) for each in seen])
    logits = features @ layer.weight.detach().numpy().T + (0 if layer.bias is None else layer.bias.detach().numpy())
    likely = np.exp(logits - logits.max(1, keepdims=True))
    assert said is not None
    assert np.allclose(np.sort(said, 0), np.sort(likely / likely.sum(1, keepdims=True), 0), atol=1e-4)


def test_it_is_the_regression_of_scikit_learn(bases: Any) -> None:
    work = build_model(bases("bert"), head="probe")
    layer = last_layer(work.model)
    model = work.model.eval()
    inputs = head_start._inputs_of(layer, model, work.objective.collate(work.train, 0, -1))
    targets = np.array([example.target for example in work.train])
    centre, spread = inputs.mean(0), inputs.std(0)
    scale = 4 / np.sqrt(inputs.shape[1]) / np.maximum(spread, 1e-6 + 1e-3 * spread.mean())
    theirs = [
        LogisticRegression(C=strength, max_iter=300).fit((inputs - centre) * scale, targets).predict_proba((inputs - centre) * scale)
        for strength in (0.1, 1.0, 10.0)
    ]
    with torch.no_grad():
        ours = layer(torch.from_numpy(inputs)).softmax(-1).numpy()
    assert min(np.abs(ours - each).max() for each in theirs) < 1e-3


def test_the_same_bits_come_again_from_the_cache_and_without_it(bases: Any, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first, again, anew = (build_model(bases("bert"), each, head="probe") for each in (cache, Cache(tmp_path), None))
    assert len(list(tmp_path.glob("head-*.safetensors"))) == 1
    for work in (again, anew):
        assert torch.equal(last_layer(work.model).weight, last_layer(first.model).weight)
        assert torch.equal(last_layer(work.model).bias, last_layer(first.model).bias)


def test_a_random_head_stays_the_default(bases: Any) -> None:
    plain = build_model(bases("bert"))
    spec: Any = experiment(bases("bert")).objective
    assert spec.head == "new"
    assert abs(float(score(plain.model, plain.objective, plain.train).loss.mean()) - np.log(6)) < 0.5


def test_many_classes_of_few_rows_choose_it_and_others_do_not(bases: Any, tmp_path: Path) -> None:
    few = [{"text": f"request number {number} about {number % 12}", "label": f"class {number % 12}"} for number in range(240)]
    two = [{"text": f"request number {number} about {number % 2}", "label": f"class {number % 2}"} for number in range(50)]
    family = family_of("classification")
    chosen = []
    for name, each in (("few", few), ("two", two)):
        dataset = load_dataset(Data(path=str(write_lines(folder_for(tmp_path / name), each))))
        chosen.append({choice.path: choice for choice in family.defaults(dataset, bases("bert"), "auto")})
        assert {choice.path for choice in family.defaults(dataset, None, "auto")} == {*chosen[-1]}
    assert chosen[0]["objective.head"].value == "probe"
    assert "12 classes of about" in chosen[0]["objective.head"].reason
    assert "objective.head" not in chosen[1]
    assert chosen[0]["optimizer.lr"].value == pytest.approx(0.3 * chosen[1]["optimizer.lr"].value)


@pytest.mark.parametrize(
    ("task", "begins"),
    [("masked_lm", True), ("causal_lm", True), ("embedding", True), ("classification", False), ("multi_label", False), ("", True)],
)
def test_a_bundle_that_brings_no_head_of_classes_begins_as_any_other_base(bases: Any, tmp_path: Path, task: str, begins: bool) -> None:
    few = [{"text": f"request number {number} about {number % 12}", "label": f"class {number % 12}"} for number in range(240)]
    dataset = load_dataset(Data(path=str(write_lines(tmp_path, few))))
    base = replace(bases("bert"), bundle={"task": task} if task else None)
    chosen = {choice.path for choice in family_of("classification").defaults(dataset, base, "auto")}
    assert ("objective.head" in chosen) == begins


@pytest.mark.parametrize(
    "typed, lr",
    [([], 3e-5), (["objective.head=new"], 1e-4), (["adaptation.kind=freeze"], 9e-5), (["objective.head=new", "optimizer.lr=2e-4"], 2e-4)],
)
def test_the_learning_rate_follows_the_head_and_the_adaptation_that_a_person_sets(
    bases: Any, tmp_path: Path, typed: list[str], lr: float
) -> None:
    few = [{"text": f"request number {number} about {number % 12}", "label": f"class {number % 12}"} for number in range(240)]
    run = luthier.run(write_lines(tmp_path, few), base=str(bases("bert").folder), out=tmp_path / "run", set=typed, plan_only=True)
    assert Experiment.load(run.folder / "experiment.yaml").optimizer.model_dump()["lr"] == pytest.approx(lr)


def test_a_run_ends_with_the_same_bundle_twice_and_a_head_with_shuffled_classes_is_caught(
    bases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_lines(tmp_path, rows(150))
    asked = [*QUICK, "objective.head=probe"]
    runs = [luthier.run(data, base=str(bases("bert").folder), out=tmp_path / name, set=asked, force=True) for name in ("one", "two")]
    hashes = [file_hash(Run(run.folder).folder / "bundle" / "model.safetensors") for run in runs]
    assert hashes[0] == hashes[1]
    fitted = head_start._fit

    def shuffle(*given: Any) -> dict[str, np.ndarray]:
        return {name: np.roll(values, 1, 0) for name, values in fitted(*given).items()}

    monkeypatch.setattr(head_start, "_fit", shuffle)
    with pytest.raises(Disproved, match="the loss begins at"):
        luthier.run(data, base=str(bases("bert").folder), out=tmp_path / "shuffled", set=asked, force=True)


LINEAR = {
    "multi_label": ({"labels": sorted(WORDS)}, lambda row: [WORDS[row % 6], *([WORDS[row * 7 % 5]] if row % 3 else [])]),
    "regression": ({"mean": 2.5, "spread": 1.7}, lambda row: row % 6),
}


def build_for(base: Any, kind: str, **objective: Any) -> Any:
    fields, target = LINEAR[kind]
    asked = experiment(base).model_dump(mode="json")
    asked |= {"data": asked["data"] | {"task": kind}, "objective": {"kind": kind, **fields, **objective}}
    asked = Experiment.of(asked)
    opened = open_objective(asked, load_tokenizer(base))
    records = [Record(number, row | {"label": target(number)}) for number, row in enumerate(rows(150), 1)]
    return build(asked, base, opened, opened.prepare(records[:120]), opened.prepare(records[120:]))


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_several_labels_and_numbers_begin_as_the_linear_model_of_scikit_learn(bases: Any, kind: str) -> None:
    work = build_for(bases("bert"), kind, head="probe")
    layer, model = last_layer(work.model), work.model.eval()
    inputs = head_start._inputs_of(layer, model, work.objective.collate(work.train, 0, -1)).astype(np.float64)
    target = work.objective.targets(work.train).double().numpy().reshape(len(work.train), -1)
    centre, spread = inputs.mean(0), inputs.std(0)
    seen = (inputs - centre) * 4 / np.sqrt(inputs.shape[1]) / np.maximum(spread, 1e-6 + 1e-3 * spread.mean())
    if kind == "regression":
        theirs = [
            Ridge(alpha=strength).fit(seen, target).predict(seen).reshape(len(seen), -1) for strength in (0.1, 1.0, 10.0, 100.0, 1000.0)
        ]
    else:
        each = [[LogisticRegression(C=strength, max_iter=300).fit(seen, column) for column in target.T] for strength in (0.1, 1.0, 10.0)]
        theirs = [np.stack([model.predict_proba(seen)[:, 1] for model in models], 1) for models in each]
    with torch.no_grad():
        ours = layer(torch.from_numpy(inputs).float())
    ours = (ours.sigmoid() if kind == "multi_label" else ours).numpy()
    assert min(np.abs(ours - other).max() for other in theirs) < 5e-3
    plain = build_for(bases("bert"), kind)
    assert score(work.model, work.objective, work.train).loss.mean() < score(plain.model, plain.objective, plain.train).loss.mean()


FAR = {
    "classification": ({"labels": ["food", "music", "none"]}, lambda row: row["topics"][0] if row["topics"] else "none"),
    "multi_label": ({"labels": ["food", "music"]}, lambda row: row["topics"]),
    "regression": ({"mean": 2.5, "spread": 1.7}, lambda row: 3.0 * ("food" in row["topics"]) + len(row["text"]) / 20),
}


@pytest.mark.parametrize("kind", [*FAR])
def test_a_head_whose_inputs_hardly_vary_far_from_0_says_the_same_in_bfloat16(bases: Any, kind: str) -> None:
    base = bases("bert", layers=2)
    fields, target = FAR[kind]
    asked = experiment(base).model_dump(mode="json")
    asked |= {"data": asked["data"] | {"task": kind}, "objective": {"kind": kind, "head": "probe", **fields}}
    asked = Experiment.of(asked)
    opened = open_objective(asked, load_tokenizer(base))
    prepared = opened.prepare([Record(number, row | {"label": target(row)}) for number, row in enumerate(several_labels(), 1)])
    work = build(asked, base, opened, prepared[:168], prepared[168:])
    layer = last_layer(work.model)
    inputs = torch.from_numpy(head_start._inputs_of(layer, work.model.eval(), work.objective.collate(work.train, 0, -1)))
    assert (inputs.mean(0).abs() / inputs.std(0)).max() > 100
    with torch.no_grad():
        exact = layer(inputs)
        rounded = layer.to(torch.bfloat16)(inputs.to(torch.bfloat16)).float()
    assert (rounded - exact).square().mean().sqrt() < 0.25
    assert exact.std(0).min() > 0.2


def test_where_rounding_moves_little_the_head_is_what_it_is_without_a_limit() -> None:
    rows_seen = np.random.default_rng(1).normal(1, 1, size=(60, 5))
    target = np.stack([rows_seen[:, 0] > 1, rows_seen[:, 1] > 1], 1).astype(float)
    for fit, wanted in ((fit_labels, target), (fit_number, rows_seen[:, :1])):
        free, limited = (fit(rows_seen[:40], wanted[:40], rows_seen[40:], wanted[40:], lambda: None, most) for most in (np.inf, MOST_ERROR))
        assert all(np.array_equal(one, other) for one, other in zip(free, limited, strict=True))


def test_a_label_that_every_training_row_has_or_none_begins_at_its_odds() -> None:
    rows_seen = np.random.default_rng(1).normal(size=(40, 3))
    target = np.stack([np.ones(40), np.zeros(40), rows_seen[:, 0] > 0], 1).astype(float)
    weight, bias = fit_labels(rows_seen, target, rows_seen, target, lambda: None)
    assert bias[:2] == pytest.approx([np.log(41), -np.log(41)])
    assert not weight[:2].any()
    assert ((rows_seen @ weight[2] + bias[2] > 0) == (target[:, 2] > 0)).mean() > 0.9


def test_several_labels_begin_so_by_themselves_and_a_head_with_shuffled_labels_is_caught(
    bases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_lines(tmp_path, several_labels())
    run = luthier.run(data, base=str(bases("bert").folder), out=tmp_path / "planned", plan_only=True)
    assert Experiment.load(run.folder / "experiment.yaml").objective.model_dump()["head"] == "probe"
    fitted = head_start._fit

    def turn(*given: Any) -> dict[str, np.ndarray]:
        return {name: -4 * values for name, values in fitted(*given).items()}

    monkeypatch.setattr(head_start, "_fit", turn)
    with pytest.raises(Disproved, match="the loss of a row begins at"):
        luthier.run(data, base=str(bases("bert").folder), out=tmp_path / "turned", set=QUICK, force=True)
