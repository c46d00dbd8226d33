"""What is read off the floors: equal to trusted implementations, and to closed forms."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import luthier
from luthier.app.cli import app
from luthier.core.errors import ExperimentError
from luthier.models.encode import layer_vectors
from luthier.pilot.stages.base_similarity import BaseSimilarity, rank_bases
from luthier.studies import similarity
from luthier.studies.similarity import (
    PLAIN,
    BitsPerByte,
    Depth,
    LayerProbe,
    Nearness,
    best_base_probability,
    cross_validated_class,
    depth,
    depth_for,
    domain_shift,
    h_score,
    nearest_neighbour_class,
    nearness,
    probe_layers,
    variability,
)
from tests.data.test_malformed import sentence


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 3, 240)
    return draws.normal(size=(240, 10)) + 1.2 * np.eye(10)[labels], labels


def parts(count: int) -> list[list[int]]:
    return [list(range(start, count, 5)) for start in range(5)]


def test_nearest_neighbours_agree_with_scikit_learn(drawn) -> None:
    from sklearn.model_selection import LeaveOneOut, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    rows, labels = drawn
    theirs = cross_val_predict(KNeighborsClassifier(10, metric="cosine"), rows, labels, cv=LeaveOneOut())
    assert np.array_equal(nearest_neighbour_class(rows, labels), theirs)


@pytest.mark.parametrize("more", [0, 600])
def test_the_probe_is_ridge_regression_and_chooses_its_strength_by_leaving_each_row_out(drawn, more) -> None:
    from sklearn.linear_model import RidgeCV

    rows, labels = drawn
    rows = np.concatenate([rows, np.random.default_rng(1).normal(size=(240, more)) * 0.5], 1)  # least squares alone would fit the noise
    theirs = np.zeros(240, dtype=int)
    for held in parts(240):
        train = np.setdiff1d(np.arange(240), held)
        model = RidgeCV(similarity.STRENGTHS * len(train)).fit(rows[train], np.eye(3)[labels[train]])  # by leaving each row out
        theirs[held] = model.predict(rows[held]).argmax(1)
    found = cross_validated_class(rows, labels, parts(240))
    assert np.array_equal(found, theirs)
    assert (found == labels).mean() > 0.5


def test_the_probe_of_noise_guesses(drawn) -> None:
    _, labels = drawn
    noise = np.random.default_rng(2).normal(size=(240, 10))
    assert (cross_validated_class(noise, labels, parts(240)) == labels).mean() == pytest.approx(1 / 3, abs=0.12)


def test_the_h_score_of_two_classes_is_its_closed_form() -> None:
    draws = np.random.default_rng(0)
    labels = np.arange(20_000) % 2
    rows = draws.normal(size=(20_000, 6))
    rows[:, 2] += 1.5 * (2 * labels - 1)  # the covariance is I + m mᵀ, that of the means m mᵀ: the trace is m² / (1 + m²)
    assert h_score(rows, labels) == pytest.approx(1.5**2 / (1 + 1.5**2), abs=0.01)


@pytest.mark.parametrize("family", ["bert", "distilbert", "llama", "mpnet", "deberta-v2"])
def test_floors_are_transformers_hidden_states(bases, family) -> None:
    from transformers import AutoModel

    from luthier.models.pretrained import load_tokenizer

    base = bases(family)
    texts = [sentence(number) for number in range(7)] * 2  # rows of one length, and of several
    found = layer_vectors(base, texts)
    plain, tokenizer = AutoModel.from_pretrained(base.folder).eval(), load_tokenizer(base)
    for row, text in enumerate(texts):
        with torch.no_grad():
            states = plain(torch.tensor([tokenizer(text)["input_ids"]]), output_hidden_states=True).hidden_states
        theirs = np.stack([state[0].mean(0).numpy() for state in states])
        last = len(theirs) - (family == "llama")  # transformers puts the final norm into the last one
        assert found[row, :last] == pytest.approx(theirs[:last], abs=1e-4)
    rounded = layer_vectors(base, texts, "bfloat16")
    assert 0 < np.linalg.norm(rounded - found) < 0.02 * np.linalg.norm(found)


def floor(blocks: int, accuracy: float) -> LayerProbe:
    return LayerProbe(blocks, accuracy, accuracy, 0.01, 0.0, 0.0, np.ones(1))


@pytest.mark.parametrize(
    ("accuracies", "rows", "rarest", "expected"),
    [
        ([0.5, 0.6, 0.7, 0.8, 0.9, 0.895, 0.9], 1_500, 30, 3),  # the fourth floor is enough: the block below it may move
        ([0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9], 15_000, 30, 2),  # many rows: no more than a third
        ([0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9], 500, 30, 4),  # few rows: no more than three quarters
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9], 1_500, 30, 2),  # no fewer than a third
        ([0.5, 0.6, 0.7, 0.8, 0.9, 0.895, 0.9], 1_500, 100, 0),  # rows enough of each class: everything may move
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9], 1_500, 700, 0),
    ],
)
def test_the_depth_is_the_floor_below_the_first_that_is_as_good_as_any_where_a_class_has_few_rows(
    accuracies, rows, rarest, expected
) -> None:
    found = depth([floor(number, accuracy) for number, accuracy in enumerate(accuracies)], rows, rarest)
    assert found.blocks == expected
    assert expected not in found.others
    assert found.others, "something else to try"


def test_where_everything_may_move_the_depth_that_would_cost_least_is_still_named() -> None:
    found = depth([floor(number, accuracy) for number, accuracy in enumerate([0.5, 0.6, 0.7, 0.8, 0.9, 0.895, 0.9])], 1_500, 700)
    assert (found.blocks, found.others) == (0, (3, 2))


def test_blocks_that_stay_by_default_stay_in_the_proposal_however_many_rows_there_are() -> None:
    accuracies = [0.5, 0.6, 0.9, 0.895, 0.9, 0.9, 0.9, 0.9, 0.9]
    for rarest in (30, 700):
        assert depth([floor(number, accuracy) for number, accuracy in enumerate(accuracies)], 1_500, rarest, least=4).blocks == 4


def test_the_chance_to_be_best_is_shared_by_equals_and_certain_where_one_is_always_right() -> None:
    right = np.random.default_rng(0).random(300) < 0.8
    assert best_base_probability([right, right]) == [0.5, 0.5]
    assert best_base_probability([np.ones(300), right]) == [1.0, 0.0]


def test_floors_of_separable_states_tell_the_classes_from_where_they_are_separable_on(drawn) -> None:
    rows, labels = drawn
    noise = np.random.default_rng(3).normal(size=rows.shape)
    found = probe_layers(np.stack([noise, rows, rows * 2], 1), labels, parts(240))
    assert found[0].probe < 0.5 < 0.6 < found[1].probe == found[2].probe  # scale changes nothing


def test_the_verb_ranks_bases_and_the_command_prints_them(bases, tmp_path) -> None:
    lines = [f"{sentence(number)} {('good', 'bad')[number % 2]},{('yes', 'no')[number % 2]}" for number in range(120)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    names = [str(bases(family).folder) for family in ("bert", "llama")]
    found = luthier.similar(tmp_path / "rows.csv", names)
    assert {one.base for one in found} == set(names)
    assert sum(one.chance for one in found) == pytest.approx(1)
    assert [len(one.floors) for one in found] == [4, 4]
    assert {one.base: one.depth.blocks for one in found} == {
        names[0]: 1,
        names[1]: 1,
    }  # 42 rows a class; a decoder keeps its half in any case
    said = CliRunner().invoke(app, ["similar", str(tmp_path / "rows.csv"), "--bases", ",".join(names), "--quiet"])
    assert said.exit_code == 0, said.output
    assert "← best" in said.output
    assert "luthier search" in said.output
    as_json = CliRunner().invoke(app, ["similar", str(tmp_path / "rows.csv"), "--bases", names[0], "--json"])
    assert json.loads(as_json.stdout)[0]["base"] == names[0]
    (tmp_path / "chat.jsonl").write_text(
        "".join(json.dumps({"prompt": sentence(n), "completion": sentence(n + 500)}) + "\n" for n in range(60))
    )
    with pytest.raises(ExperimentError, match="is an encoder"):
        luthier.similar(tmp_path / "chat.jsonl", names)


def test_without_names_the_known_bases_that_are_here_and_fit_the_task_are_compared(bases, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    for name in ("smollm2-135m", "mpnet-base"):
        folder = tmp_path / "home" / "models" / name
        shutil.copytree(bases("llama").folder, folder)
        (folder / "store.json").write_text(json.dumps({"sha256": "0", "size": (folder / "model.safetensors").stat().st_size}))
    rows = [{"prompt": sentence(n), "completion": sentence(n + 500)} for n in range(60)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = CliRunner().invoke(app, ["similar", str(tmp_path / "chat.jsonl")])
    assert said.exit_code == 0, said.output
    assert "gemma3-270m (238 MB); luthier models pull gemma3-270m" in " ".join(said.output.split())
    assert "smollm2-135m (" in said.output and "mpnet-base" not in said.output


def test_the_variability_is_the_trace_within_over_between() -> None:
    draws = np.random.default_rng(0)
    labels = np.arange(900) % 3
    rows = draws.normal(size=(900, 8)) + 2 * np.eye(8)[labels]
    means = np.stack([rows[labels == label].mean(0) for label in range(3)])
    inside = np.cov((rows - means[labels]).T, bias=True)
    between = np.cov(means.T, bias=True)
    assert variability(rows, labels) == pytest.approx(np.trace(inside @ np.linalg.pinv(between)) / 3)
    assert variability(rows * 7 + 3, labels) == pytest.approx(variability(rows, labels))  # neither scale nor place matter


@pytest.mark.parametrize(
    ("accuracy", "kind", "rate"), [(0.95, "close", 0.577), (0.85, "between", 1.0), (0.6, "far", 1.633), (1.0, "close", 0.3)]
)
def test_a_task_is_as_near_as_the_best_floor_leaves_little_to_learn(accuracy, kind, rate) -> None:
    found = nearness([floor(0, 0.5), floor(1, accuracy)], np.arange(100) % 2)
    assert found.kind == kind
    assert found.learning_rate_factor == pytest.approx(rate, abs=0.001)
    assert found.room == pytest.approx((1 - accuracy) / 0.5)


@pytest.mark.parametrize(
    ("bits", "pieces", "kind", "blocks"), [(0.9, 1.3, "close", 15), (1.15, 1.3, "between", 10), (1.4, 1.3, "far", 0), (0.9, 2.0, "far", 0)]
)
def test_texts_are_strange_by_their_bits_or_by_their_pieces(bits, pieces, kind, blocks) -> None:
    near = domain_shift(BitsPerByte(1.0, bits, 1.0, pieces, 1.2, np.ones((1, 2))))
    assert near.kind == kind
    assert depth_for(near, 30).blocks == blocks


def test_a_base_that_knows_nothing_foresees_answers_at_the_logarithm_of_its_vocabulary(bases, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    base = bases("llama")
    folder = tmp_path / "blank"
    shutil.copytree(base.folder, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: torch.zeros_like(value) for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    rows = [{"prompt": sentence(n), "completion": sentence(n + 500)} for n in range(60)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    blank, ours = str(folder), str(base.folder)
    found = {one.base: one for one in luthier.similar(tmp_path / "chat.jsonl", [blank, ours])}
    fluency = found[blank].fluency
    assert fluency is not None and not found[blank].floors
    from luthier.models.pretrained import load_tokenizer

    tokenizer, size = load_tokenizer(base), json.loads((base.folder / "config.json").read_text())["vocab_size"]
    unsealed = fluency.rows.shape[0]
    assert unsealed >= 40
    each = fluency.rows[:, 0] / math.log2(size)  # tokens learned, a whole number: the answer's and its end
    assert each == pytest.approx(np.round(each), abs=1e-4)
    assert fluency.plain == pytest.approx(
        math.log2(size) * (len(tokenizer(PLAIN)["input_ids"]) - 1) / len(tokenizer.decode(tokenizer(PLAIN)["input_ids"][1:]).encode()),
        rel=1e-5,
    )
    assert sum(one.chance for one in found.values()) == pytest.approx(1)
    assert CliRunner().invoke(app, ["similar", str(tmp_path / "chat.jsonl"), "--bases", ours, "--quiet"]).output.count("bits a byte") >= 2


def test_of_bases_that_tie_the_largest_is_proposed_and_one_that_knows_less_comes_last() -> None:
    draws = np.random.default_rng(1)
    well, badly = (draws.random(400) < 0.9).astype(float), (draws.random(400) < 0.6).astype(float)

    def base(name: str, megabytes: float, right: np.ndarray) -> BaseSimilarity:
        floors = [LayerProbe(6, float(right.mean()), float(right.mean()), 0.01, 0.0, 0.0, right)]
        return BaseSimilarity(name, megabytes, floors, None, Nearness("close", 0.1, 1.0, ""), Depth(2, (), ""), 1e-4, 1.0, 400)

    found = rank_bases([base("small", 45, well), base("huge", 900, badly), base("whole", 90, well)])
    assert [one.base for one in found] == ["whole", "small", "huge"]
    assert [round(one.chance, 2) for one in found] == [0.5, 0.5, 0.0]
