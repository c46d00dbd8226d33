"""GloVe: counts, the loss and its gradients, baselines, and who is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import luthier
from luthier.core.errors import ExperimentError
from luthier.core.types import HELD_OUT, Loss, Record
from luthier.evaluation.cooccurrences import count_pairs
from luthier.experiment import Experiment
from luthier.families.glove import FAMILY, fit_numbers
from luthier.families.recognise import load_dataset
from luthier.models.word_vectors import count_words, make_tables, make_vocabulary
from luthier.objectives.glove import Glove, GloveObjective
from luthier.objectives.log_bilinear import TABLES, summed_loss
from luthier.training.prove import find_disproved, prove
from tests.families.test_contract import FOREVER, tried, work_of  # noqa: F401  # a fixture
from tests.families.test_word2vec import salad, write


def objective(texts: list[str], **fields: Any) -> GloveObjective:
    vocabulary = make_vocabulary(count_words(texts, True), 1, 0, True)
    return Glove(words=len(vocabulary), **fields).open(vocabulary, ("text",), None)


def records(texts: list[str]) -> list[Record]:
    return [Record(number, {"text": text}) for number, text in enumerate(texts, 1)]


def test_counts_are_those_of_words_one_by_one_whatever_is_added_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [np.array([0, 1, 2, 1, 0]), np.array([2, 2]), np.array([], dtype=int), np.array([1])]
    weights = 1 / np.arange(1, 4)
    expected = np.zeros((3, 3))
    for text in texts:
        for one in range(len(text)):
            for two in range(len(text)):
                if one != two and abs(one - two) <= 3:
                    expected[text[one], text[two]] += weights[abs(one - two) - 1]
    for buffer in (4_000_000, 1):
        monkeypatch.setattr("luthier.evaluation.cooccurrences.BUFFER", buffer)
        first, second, counts = count_pairs(texts, 3, weights)
        found = np.zeros((3, 3))
        found[first, second] = counts
        assert np.allclose(found, expected)
        assert (np.diff(first * 3 + second) > 0).all()


def test_loss_and_gradients_are_those_of_the_definition() -> None:
    texts = salad(60, 15, 24)
    at_work = objective(texts, width=5, most=3.0)
    batch = at_work.collate(at_work.prepare(records(texts))[:], 1, 0)
    model = make_tables(24, 5, True, 1)
    torch.manual_seed(1)
    for parameter in model.network.parameters():
        parameter.data.normal_()
    pairs = batch.flat
    words, contexts, one, two = (getattr(model.network, name).weight for name in TABLES)
    dense = [table.detach().clone().requires_grad_() for table in (words, contexts, one, two)]
    said = (dense[0][pairs["first"]] * dense[1][pairs["second"]]).sum(1) + dense[2][pairs["first"], 0] + dense[3][pairs["second"], 0]
    expected = (pairs["weights"] * (said - pairs["logarithms"]) ** 2).sum()
    expected.backward()
    found = summed_loss(model.network, pairs)
    found.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for table, other in zip((words, contexts, one, two), dense, strict=True):
        assert table.grad is not None and other.grad is not None
        assert torch.allclose(table.grad.to_dense(), other.grad, atol=1e-3, rtol=1e-4)
    scores = at_work.score(model, batch)
    assert scores.loss.sum() == pytest.approx(float(expected.detach()), rel=1e-5)


def test_counts_of_fewer_rows_stand_for_as_many_words_as_were_trained_on() -> None:
    texts = salad(200, 20, 24)
    at_work = objective(texts)
    columns: list[Any] = [at_work.prepare(records(some)).columns for some in (texts, texts[:50])]  # type: ignore[attr-defined]
    whole, part = (float(np.average(each["logarithms"], weights=each["weights"])) for each in columns)
    assert abs(whole - part) < 0.3


def test_numbers_of_words_are_found_where_counts_are_their_products() -> None:
    numbers = np.array([2.0, 1.0, 0.5, -1.0])
    first, second = (each.flatten() for each in np.meshgrid(np.arange(4), np.arange(4)))
    found = fit_numbers(first, second, numbers[first] + numbers[second], np.ones(16), 4)
    assert np.allclose(found, numbers, atol=1e-3)


def test_planted_bugs_are_caught_by_name(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    it = tried("glove")

    def catch() -> set[str]:
        work = work_of(it)
        return {proof.name for proof in find_disproved(prove(work, lambda record: FAMILY.serving_inputs(record, work.objective), FOREVER))}

    assert not catch()
    own = GloveObjective.loss
    monkeypatch.setattr(
        GloveObjective, "loss", lambda self, model, batch: Loss(own(self, model, batch).total, float(len(batch.flat["weights"])))
    )
    assert {"knowing nothing costs what it must", "judged as trained"} & catch()
    monkeypatch.setattr(GloveObjective, "loss", own)
    prepare = GloveObjective.prepare

    def one_sided(self: Any, rows: Any) -> Any:
        counts = prepare(self, rows)
        kept = counts.columns["tokens"] <= counts.columns["others"]  # type: ignore[attr-defined]
        counts.columns = {name: values[kept] for name, values in counts.columns.items()}  # type: ignore[attr-defined]
        return counts

    monkeypatch.setattr(GloveObjective, "prepare", one_sided)
    assert "counts are symmetric" in catch()


def test_a_vocabulary_larger_than_the_corpus_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, salad(60, 20, 30))
    with pytest.raises(ExperimentError, match=r"objective.vocabulary is 400, and the training rows hold 30 words"):
        luthier.run(file, task="glove", out=tmp_path / "run", set=["objective.vocabulary=400"], plan_only=True)


def test_evaluations_read_every_count_once() -> None:
    texts = salad(60, 20, 24)
    at_work = objective(texts)
    counts = at_work.prepare(records(texts))
    batch = at_work.collate(counts[:], 0, HELD_OUT)
    assert len(batch.flat["first"]) == len(counts.columns["tokens"])  # type: ignore[attr-defined]
    assert sum(example.size for example in counts) == len(batch.flat["first"])


def test_held_out_examples_are_the_rows_and_together_lose_what_their_counts_lose() -> None:
    texts = salad(200, 20, 24)
    at_work, held = objective(texts, width=5), [*records(texts[:40]), Record(41, {"text": "nothing known"})]
    whole = at_work.prepare(held)
    at_work.tokenizer.trained_on = ("", 100)
    rows = at_work.prepare(held)
    assert [example.facts["row"] for example in rows] == list(range(41))
    assert [example.record for example in rows] == held
    model = make_tables(24, 5, True, 1)
    torch.manual_seed(1)
    for parameter in model.network.parameters():
        parameter.data.normal_()
    ours, pooled = (at_work.score(model, at_work.collate(some[:], 0, HELD_OUT)) for some in (rows, whole))
    assert ours.rows == 41 and ours.loss[-1] == ours.count[-1] == 0
    assert ours.loss.sum() == pytest.approx(pooled.loss.sum(), rel=1e-4)
    assert ours.count.sum() == pytest.approx(pooled.count.sum(), rel=1e-4)


def test_rows_of_many_counts_are_blocks_that_are_drawn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = salad(20, 60, 24)
    at_work = objective(texts)
    at_work.tokenizer.trained_on = ("", 100)
    whole = at_work.collate(at_work.prepare(records(texts[:8]))[:], 0, HELD_OUT)
    monkeypatch.setattr("luthier.objectives.glove.CELLS", 50)
    for at_once in (1 << 31, 3 * 24):
        monkeypatch.setattr("luthier.objectives.glove.LARGEST", at_once)
        blocks = at_work.prepare(records(texts[:8]))
        assert len(blocks) > 8 and {example.facts["row"] for example in blocks} == set(range(8))
        made = at_work.collate(blocks[:], 0, HELD_OUT)
        assert all(torch.equal(made.flat[name], values) for name, values in whole.flat.items())


def test_a_verdict_is_on_the_rows_of_the_file(tried: Any) -> None:  # noqa: F811
    it = tried("glove")
    verdict = it.run.verdict
    data = Experiment.load(it.run.folder / "experiment.yaml").data
    assert verdict["test"]["n"] == len(load_dataset(data, checks=()).records["test"])
    assert verdict["difference"]["low"] < verdict["difference"]["high"]


def test_files_to_judge_by_are_read_before_anything_is_trained(tmp_path: Path) -> None:
    file = write(tmp_path, salad(60, 20, 30))
    (tmp_path / "pairs.txt").write_text("one two 3\nthree\n")
    for change, said in (
        (f"objective.analogies={tmp_path / 'none.txt'}", r"objective.analogies: .*none.txt cannot be read"),
        (f"objective.similarities={tmp_path / 'pairs.txt'}", r"objective.similarities: .*pairs.txt, line 2"),
    ):
        with pytest.raises(ExperimentError, match=said):
            luthier.run(file, task="glove", out=tmp_path / "run", set=[change], plan_only=True)
