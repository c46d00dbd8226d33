"""The loss of sentence embeddings: its definition, its gradients, what is no negative, and the scale of scores."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from luthier.core.types import HELD_OUT, Record
from luthier.evaluation.metrics import measure
from luthier.evaluation.retrieval import score_retrieval
from luthier.evaluation.score import score
from luthier.models.embedding import load_embedding
from luthier.models.pretrained import load_tokenizer
from luthier.objectives.embedding import Embedding, no_negatives

TEXTS = ("pizza at the river", "a drum", "the castle and its food", "the stone was great, and so was the garden behind it", "an awful meal")


def make_objective(
    bases: Any, kind: str = "bert", columns: tuple[str, ...] = ("anchor", "positive"), target: str | None = None, **fields: Any
) -> Any:
    """A tiny base and the objective at work."""
    base = bases(kind)
    spec = Embedding(**fields)
    return load_embedding(base, "mean", spec.max_length, 0.0, 0).eval(), spec.open(load_tokenizer(base), columns, target)


def records(*rows: tuple[str, ...], columns: tuple[str, ...] = ("anchor", "positive")) -> list[Record]:
    return [Record(number, dict(zip(columns, row, strict=True))) for number, row in enumerate(rows, 1)]


def plain_vectors(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Mean pooling as sentence-transformers writes it: the states of padding times zero."""
    read = tokenizer(texts, padding=True, return_tensors="pt")
    with model._as_transformers():
        states = model.network(input_ids=read["input_ids"], attention_mask=read["attention_mask"]).last_hidden_state
    mask = read["attention_mask"][:, :, None].expand(states.size()).float()
    return (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
@pytest.mark.parametrize("texts", [2, 3])
def test_loss_and_gradients_are_those_of_multiple_negatives_ranking_in_plain_torch(bases: Any, kind: str, texts: int) -> None:
    columns = ("anchor", "positive", "negative")[:texts]
    model, objective = make_objective(bases, kind, columns)
    rows = [tuple(TEXTS[(number + side) % 5] + f" {number}{side}" for side in range(texts)) for number in range(4)]
    batch = objective.collate(objective.prepare(records(*rows, columns=columns)), 0, HELD_OUT)
    loss = objective.loss(model, batch)
    assert loss.count == 4
    (loss.total / loss.count).backward()
    ours = {name: each.grad.clone() for name, each in model.network.named_parameters() if each.grad is not None}
    model.zero_grad()
    sides = [plain_vectors(model, objective.tokenizer, [row[side] for row in rows]) for side in range(texts)]
    scores = 20.0 * cosine_similarity(sides[0][:, None], torch.cat(sides[1:])[None], dim=-1)
    plain = cross_entropy(scores, torch.arange(4))
    plain.backward()
    assert float(loss.total.detach()) / 4 == pytest.approx(float(plain.detach()), rel=1e-5)
    theirs = {name: each.grad for name, each in model.network.named_parameters() if each.grad is not None}
    assert ours.keys() == theirs.keys()
    apart = sum(float((ours[name] - theirs[name]).norm() ** 2) for name in ours) ** 0.5
    length = sum(float(theirs[name].norm() ** 2) for name in ours) ** 0.5
    assert apart < 1e-4 * length


def test_the_loss_of_scores_is_the_squared_distance_of_the_cosine(bases: Any) -> None:
    columns = ("anchor", "positive")
    model, objective = make_objective(bases, columns=columns, target="score", low=0.0, high=5.0)
    rows = [
        Record(1, {"anchor": TEXTS[0], "positive": TEXTS[1], "score": "5"}),
        Record(2, {"anchor": TEXTS[2], "positive": TEXTS[3], "score": 1.0}),
    ]
    batch = objective.collate(objective.prepare(rows), 0, HELD_OUT)
    one, two = (plain_vectors(model, objective.tokenizer, [str(row.values[name]) for row in rows]) for name in columns)
    expected = (cosine_similarity(one, two) - torch.tensor([1.0, 0.2])).square().sum()
    assert float(objective.loss(model, batch).total.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert objective.splits is True


def test_where_all_vectors_are_alike_the_loss_is_the_logarithm_of_the_texts_to_choose_from(bases: Any) -> None:
    _, objective = make_objective(bases)
    rows = records(*((f"a {number}", f"b {number}") for number in range(4)))
    batch = objective.collate(objective.prepare(rows), 0, HELD_OUT)
    alike = torch.ones(4, 2, 3) / 3**0.5
    assert objective.losses(alike, batch).tolist() == pytest.approx([math.log(4)] * 4)
    assert objective.splits is False


def test_what_belongs_to_a_row_is_no_negative_where_it_stands_in_another(bases: Any) -> None:
    _, objective = make_objective(bases, columns=("anchor", "positive", "negative"))
    rows = records(
        ("one", "yes", "no"),
        ("two", "YES ", "perhaps"),
        ("one", "aye", "never"),
        ("yes", "one", "two"),
        columns=("anchor", "positive", "negative"),
    )
    keys = objective.collate(objective.prepare(rows), 0, HELD_OUT).each["key"]
    found = no_negatives(keys)
    positives = [
        [False, True, True, True],  # the same positive; the same anchor; a positive that is the anchor itself
        [True, False, False, False],
        [True, False, False, True],
        [True, True, False, False],
    ]
    assert found[:, :4].tolist() == positives
    assert found[:, 4:].tolist() == [[False] * 4, [False, False, False, True], [False] * 4, [False] * 4]


def test_vectors_do_not_depend_on_the_texts_beside_them_nor_on_padding(bases: Any) -> None:
    for kind in ("bert", "mpnet"):
        model, objective = make_objective(bases, kind)
        tokens = [read for read, _ in objective.encode(list(TEXTS))]
        together = model.embed_tokens(tokens)
        assert np.allclose(together, np.concatenate([model.embed_tokens([each]) for each in tokens]), atol=1e-5)
        plain = torch.nn.functional.normalize(plain_vectors(model, objective.tokenizer, list(TEXTS)), dim=-1)
        assert np.allclose(together, plain.detach().numpy(), atol=1e-5)


def test_ranks_count_the_same_text_once_and_every_right_one_as_right() -> None:
    queries = np.eye(3)[[0, 1, 0]]
    documents = np.array([[0.9, 0.1, 0.0], [0.8, 0.0, 0.2], [0.9, 0.1, 0.0]])
    found = score_retrieval(queries, documents, ["a", "b", "c"], ["x", "y", "x"])
    assert found["rank"].tolist() == [1, 2, 1]
    assert found["wrong"].tolist() == [1, 0, 1]
    assert score_retrieval(queries, documents, ["a", "b", "a"], ["x", "y", "z"])["rank"].tolist() == [1, 3, 1]
    assert score_retrieval(np.zeros((3, 3)), documents, ["a", "b", "c"], ["x", "y", "z"])["rank"].tolist() == [
        2,
        2,
        2,
    ]  # all at the same cosine
    assert score_retrieval(queries, documents, ["a", "b", "y"], ["x", "y", "x"])["rank"].tolist() == [1, 2, 1]  # itself is left out
    broken = np.where(np.arange(9).reshape(3, 3) == 0, np.nan, documents)
    assert np.isnan(score_retrieval(queries, broken, ["a", "b", "c"], ["x", "y", "z"])["rank"]).all()


def test_metrics_are_means_over_the_places(bases: Any) -> None:
    model, objective = make_objective(bases)
    examples = objective.prepare(records(*((text, f"{text} again") for text in TEXTS)))
    scores = score(model, objective, examples)
    found = measure(scores, ("mrr", "recall_at_1", "recall_at_10"))
    assert found["mrr"] == pytest.approx(float((1 / scores.more["rank"]).mean()))
    assert found["recall_at_1"] == pytest.approx(float((scores.more["rank"] == 1).mean()))
    assert found["recall_at_10"] == 1.0
    vectors = [
        plain_vectors(model, objective.tokenizer, [str(row.record.values[name]) for row in examples]) for name in ("anchor", "positive")
    ]
    cosines = cosine_similarity(vectors[0][:, None], vectors[1][None], dim=-1)
    plain = 1 + (cosines > cosines.diagonal()[:, None]).sum(1)
    assert scores.more["rank"].tolist() == plain.tolist()


def test_a_row_that_is_too_long_is_cut_side_by_side(bases: Any) -> None:
    _, objective = make_objective(bases, max_length=8)
    (example,) = objective.prepare(records(("great " * 30, "meal")))
    assert example.inputs["place"][:8] == list(range(8)) and example.inputs["place"].count(0) == 2
    assert example.facts["cut"] > 0
    assert replace(example, index=3).facts["keys"] == example.facts["keys"]
