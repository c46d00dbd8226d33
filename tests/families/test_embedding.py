"""Sentence embeddings: what is recognised and refused, planted bugs that are caught by name, and what a bundle is good for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import luthier
from luthier.app.reporters import format_prediction
from luthier.core.errors import DataError, ExperimentError, LuthierError, ModelError
from luthier.core.types import Loss, Record
from luthier.data.spec import Data
from luthier.evaluation.metrics import measure
from luthier.families import family_of
from luthier.families.embedding_report import cosine_of_words, describe_neighbours
from luthier.families.recognise import load_dataset
from luthier.models import embedding as models
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import inspect, resolve
from luthier.objectives import embedding as objectives
from luthier.objectives.embedding import Embedding, EmbeddingObjective
from luthier.training.assemble import assemble
from luthier.training.prove import find_disproved, prove
from luthier.training.steps import Work
from tests.conftest import rows
from tests.families.cases import questions, write_lines
from tests.training.test_steps import experiment

FOREVER = 1e6


def score_rows() -> list[dict[str, Any]]:
    """Pairs of texts that share a word or not, with a number that says so."""
    made = []
    for number, row in enumerate(questions()):
        other = row["positive"] if number % 2 else f"nothing of the kind {number}"
        made.append({"sentence1": row["anchor"], "sentence2": other, "score": (4.0 if number % 2 else 0.5) + number % 3 / 10})
    return made


def triples() -> list[dict[str, Any]]:
    """The questions, each with another question's answer."""
    table = questions()
    kinds = sorted({row["positive"] for row in table})
    return [{**row, "negative": kinds[kinds.index(row["positive"]) - 3]} for row in table]


def work_for(base: Any, table: list[dict[str, Any]], spec: Embedding | None = None, target: str | None = None, **changes: Any) -> Work:
    """Everything that a run needs, on these rows."""
    records = [Record(number, row) for number, row in enumerate(table, 1)]
    columns = tuple(name for name in table[0] if name != target)
    asked = experiment("classification", base.name).model_copy(
        update={"objective": spec or Embedding(), "data": Data(path="rows.jsonl", task="embedding", input=columns, target=target)}
    )
    for path, value in changes.items():
        asked = asked.replace(path, value)
    return assemble(asked, base, load_tokenizer(base), {"train": records[:-20], "validation": records[-20:]})


def find_failed(work: Work) -> set[str]:
    """The proofs that failed."""
    served = family_of("embedding").serving_inputs
    return {proof.name for proof in find_disproved(prove(work, lambda record: served(record, work.objective), FOREVER))}


# rows


def test_pairs_and_triples_are_recognised_by_their_columns_and_scored_pairs_only_where_asked(tmp_path: Path) -> None:
    def find(table: list[dict[str, Any]], **asked: Any) -> tuple[Any, ...]:
        spec = load_dataset(Data(path=str(write_lines(tmp_path, table)), **asked)).spec
        return spec.task, spec.input, spec.target

    assert find(questions()) == ("embedding", ("anchor", "positive"), None)
    assert find(triples()) == ("embedding", ("anchor", "positive", "negative"), None)
    assert find([{"query": row["anchor"], "passage": row["positive"]} for row in questions()]) == ("embedding", ("query", "passage"), None)
    assert find(score_rows())[0] == "regression"
    assert find(score_rows(), task="embedding") == ("embedding", ("sentence1", "sentence2"), "score")
    words = [{"word1": f"{number} one", "word2": f"{number * 7} two", "similarity": number / 7} for number in range(90)]
    assert find(words)[0] == "regression"
    assert find(words, task="embedding") == ("embedding", ("word1", "word2"), "similarity")
    named = [{"a": row["sentence1"], "b": row["sentence2"], "number": row["score"]} for row in score_rows()]
    assert find(named, task="embedding", input=("a", "b"), target="number") == ("embedding", ("a", "b"), "number")
    assert find(named, task="embedding", input=("a", "b")) == ("embedding", ("a", "b"), None)


def test_an_explicit_task_is_refused_with_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two columns of texts") as told:
        load_dataset(Data(path=str(write_lines(tmp_path, rows(60))), task="embedding"))
    assert "--input anchor,positive" in told.value.remedy
    with pytest.raises(DataError, match="holds no numbers"):
        load_dataset(Data(path=str(write_lines(tmp_path, triples())), task="embedding", input=("anchor", "positive"), target="negative"))
    with pytest.raises(DataError, match="three columns"):
        table = [{**row, "score": 1.0} for row in triples()]
        load_dataset(
            Data(path=str(write_lines(tmp_path, table)), task="embedding", input=("anchor", "positive", "negative"), target="score")
        )


def test_rows_that_cannot_be_learned_from_are_set_aside_by_name(tmp_path: Path) -> None:
    table = triples()
    table[2] = {**table[2], "positive": " "}
    table[3] = {**table[3], "positive": table[3]["anchor"].upper()}
    table[4] = {**table[4], "negative": table[4]["positive"]}
    table[5] = {**table[5], "anchor": ["a", "list"]}
    found = load_dataset(Data(path=str(write_lines(tmp_path, table))))
    assert {row.line: row.reason for row in found.rejected} == {
        3: "positive says nothing",
        4: "anchor and positive are the same text",
        5: "positive and negative are the same text: what belongs to the anchor cannot also not belong to it",
        6: "anchor holds a list, not a text",
    }
    numbers = score_rows()
    numbers[7]["score"] = "many"
    found = load_dataset(Data(path=str(write_lines(tmp_path, numbers)), task="embedding"))
    assert [row.reason for row in found.rejected] == ["score is 'many', which is not a finite number"]


def test_rows_with_one_positive_for_all_are_one_clear_message(tmp_path: Path) -> None:
    same = [{**row, "positive": "the same"} for row in questions()]
    with pytest.raises(DataError, match="nothing to tell apart"):
        load_dataset(Data(path=str(write_lines(tmp_path, same))))


def test_like_anchors_stay_in_one_part_and_a_common_positive_does_not_tie_rows(tmp_path: Path) -> None:
    table = questions()
    table += [{"anchor": row["anchor"], "positive": "quite another answer"} for row in table[:30]]
    table += [{"anchor": "what the answer is asked", "positive": table[50]["anchor"]}]
    found = load_dataset(Data(path=str(write_lines(tmp_path, table))))
    part = {record.values["anchor"]: name for name, records in found.records.items() for record in records}
    assert all(part[record.values["anchor"]] == name for name, records in found.records.items() for record in records)
    assert part["what the answer is asked"] == part[table[50]["anchor"]]
    kinds = [{record.values["positive"] for record in records} for records in found.records.values()]
    assert len(kinds[0] & kinds[2]) > 5


def test_scores_are_brought_to_cosines_and_one_outside_the_scale_is_named(tmp_path: Path) -> None:
    family = family_of("embedding")
    dataset = load_dataset(Data(path=str(write_lines(tmp_path, score_rows())), task="embedding"))
    fitted = family.fit_spec(Embedding(), dataset)
    numbers = [record.values["score"] for record in dataset.records["train"]]
    assert (fitted.low, fitted.high) == (min(numbers), max(numbers))
    assert family.fit_spec(fitted, dataset) == fitted
    with pytest.raises(DataError, match=r"line \d+: the score 4.* lies outside the scale from 0 to 3"):
        family.fit_spec(Embedding(low=0, high=3), dataset)
    cosines = [{**row, "score": row["score"] / 5} for row in score_rows()]
    own = family.fit_spec(Embedding(), load_dataset(Data(path=str(write_lines(tmp_path, cosines)), task="embedding")))
    assert (own.low, own.high) == (0.0, 1.0)
    with pytest.raises(ExperimentError, match="needs pairs that belong together"):
        family.metric(dataset, "mrr")


def test_scores_far_from_all_others_do_not_decide_the_scale_and_are_named(tmp_path: Path) -> None:
    family = family_of("embedding")

    def fit(scores: list[float], spec: Embedding | None = None) -> Any:
        table = [{**row, "score": score} for row, score in zip(score_rows(), scores, strict=False)]
        dataset = load_dataset(Data(path=str(write_lines(tmp_path, table)), task="embedding"))
        dataset.records["train"] = sorted((record for part in dataset.records.values() for record in part), key=lambda record: record.row)
        return family.fit_spec(spec or Embedding(), dataset)

    usual = [number % 11 / 2 for number in range(len(score_rows()))]
    with pytest.raises(DataError, match=r"line 4 \(99\), line 8 \(99\): far from all other scores, which lie between 0 and 5") as caught:
        fit([99 if place in (3, 7) else score for place, score in enumerate(usual)])
    assert "set objective.low=0 and objective.high=99" in caught.value.remedy
    found = fit([99 if place in (3, 7) else score for place, score in enumerate(usual)], Embedding(low=0, high=99))
    assert (found.low, found.high) == (0, 99)
    assert fit([5.0 if score > 4 else 0.0 for score in usual]).high == 5  # nearly all have nothing in common: no slip
    assert fit([100 * 0.9**place for place in range(len(usual))]).high == 100  # few are alike, and no gap is wide


def test_a_decoder_is_refused(bases: Any) -> None:
    with pytest.raises(ModelError, match="is no encoder"):
        models.load_embedding(bases("llama"), "auto", 256, 0.0, 0)


def test_a_base_is_pooled_as_its_own_files_say(bases: Any, tmp_path: Path) -> None:
    base = bases("bert")
    folder = tmp_path / "base"
    folder.mkdir()
    for file in base.folder.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "1_Pooling").mkdir()
    for said, expected in (
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
    ):
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
        assert models.load_embedding(inspect(folder, "base"), "auto", 256, 0.0, 0).pooling == expected
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ModelError, match="pooling_mode_max_tokens"):
        models.load_embedding(inspect(folder, "base"), "auto", 256, 0.0, 0)


def test_similarity_of_bases_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ExperimentError,
        match=r"similarity is read off classes or answers, and here [\s\S]*`luthier transfer DATA --task [\w]+ --from [\w-]+,OTHER`",
    ):
        luthier.similar(write_lines(tmp_path, questions()), ["minilm-l6"])


def test_a_vector_and_a_similarity_are_lines_in_a_terminal() -> None:
    assert format_prediction({"row": 1, "vector": [0.6, -0.8]}, False) == "[0.6, -0.8]"
    assert format_prediction({"row": 1, "vector": [0.6, -0.8], "similarity": 0.25, "other_vector": [1.0, 0.0]}, False) == "0.25"


# planted bugs


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_honest_rows_prove_themselves(bases: Any, kind: str) -> None:
    assert not find_failed(work_for(bases(kind), questions()))
    assert not find_failed(work_for(bases(kind), triples()))
    assert not find_failed(work_for(bases(kind), score_rows(), Embedding(low=0.0, high=5.0), target="score"))


def test_a_positive_that_is_its_own_negative_is_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "no_negatives", lambda keys: torch.zeros(len(keys), len(keys) * (keys.shape[1] - 1), dtype=torch.bool))
    for table in (questions(), triples()):
        assert "no text is its own negative" in find_failed(work_for(bases("bert"), table))


def test_pooling_over_padding_is_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = models.pool  # pyright: ignore[reportPrivateImportUsage]

    def with_padding(hidden: Any, lengths: Any, pooling: str) -> Any:
        return own(hidden, lengths, pooling) * (lengths / lengths.max())[:, None] + hidden[0] * (1 - lengths / lengths.max())[:, None]

    monkeypatch.setattr(models, "pool", with_padding)
    assert "vectors are the librarys" in find_failed(work_for(bases("bert"), questions()))


def test_texts_that_see_each_other_are_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = EmbeddingObjective.prepare

    def one_text(self: Any, records: Any) -> Any:
        return [replace(row, inputs={**row.inputs, "place": [*range(len(row.tokens) - 1), 0]}) for row in own(self, records)]

    monkeypatch.setattr(EmbeddingObjective, "prepare", one_text)
    assert "vectors are the librarys" in find_failed(work_for(bases("bert"), questions()))


def test_labels_that_are_shifted_are_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = EmbeddingObjective.losses

    def shift(self: Any, vectors: Any, batch: Any) -> Any:
        return own(self, torch.cat([vectors[:, :1], vectors[:, 1:].roll(1, 0)], 1), batch)

    monkeypatch.setattr(EmbeddingObjective, "losses", shift)
    assert "the loss is that of the definition" in find_failed(work_for(bases("bert"), questions()))
    work = work_for(bases("bert"), score_rows(), Embedding(low=0.0, high=5.0), target="score")
    assert "the loss is that of the definition" in find_failed(work)


def test_a_forgotten_scale_is_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = EmbeddingObjective.losses

    def unscale(self: Any, vectors: Any, batch: Any) -> Any:
        self.spec = self.spec.model_copy(update={"scale": 1.0})
        return own(self, vectors, batch)

    monkeypatch.setattr(EmbeddingObjective, "losses", unscale)
    assert "the loss is that of the definition" in find_failed(work_for(bases("bert"), questions()))


def test_an_evaluation_that_forgets_rows_is_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = EmbeddingObjective.loss
    monkeypatch.setattr(EmbeddingObjective, "loss", lambda self, model, batch: Loss(own(self, model, batch).total, 1.0))
    assert "judged as trained" in find_failed(work_for(bases("bert"), questions()))


# judging


def test_words_in_common_are_a_baseline_and_the_report_shows_wrong_neighbours(bases: Any) -> None:
    work = work_for(bases("bert"), questions())
    found = cosine_of_words(work.train, work.validation, work.objective)
    scores = found.score(work.validation)
    assert scores.more["rank"].min() >= 1
    words = {table["title"]: table["rows"] for table in describe_neighbours(scores)["tables"]}
    assert sum(count for _, count in words["The place of the right text"]) == 20
    assert all(right != wrong for _, right, _, wrong in words["Nearest wrong neighbours"])
    work = work_for(bases("bert"), score_rows(), Embedding(low=0.0, high=5.0), target="score")
    scores = cosine_of_words(work.train, work.validation, work.objective).score(work.validation)
    assert measure(scores, ("spearman",))["spearman"] > 0.5
    assert describe_neighbours(scores)["tables"][0]["rows"]


# use


def test_a_bundle_gives_vectors_is_read_by_plain_transformers_and_is_a_base(bases: Any, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    quick = ["training.steps=10", "optimizer.lr=0.003", "objective.max_length=64"]
    run = luthier.run(write_lines(tmp_path, triples()), base=str(bases("bert").folder), out=tmp_path / "run", set=quick, force=True)
    bundle = run.folder / "bundle"
    asked = ["pizza at the river", "a drum", "the castle, its food, and all that is long " * 60]
    with pytest.warns(UserWarning, match="1 of 3 texts was longer than the 64 tokens"):
        said = luthier.predict(run.folder, asked)
    assert [set(row) for row in said] == [{"row", "vector"}, {"row", "vector"}, {"row", "vector", "cut"}]
    assert np.linalg.norm(said[0]["vector"]) == pytest.approx(1, abs=1e-5)
    (both,) = luthier.predict(run.folder, [{"anchor": asked[0], "positive": asked[1]}])
    assert both["similarity"] == pytest.approx(float(np.dot(said[0]["vector"], said[1]["vector"])), abs=1e-5)
    with pytest.raises(LuthierError, match="no column 'anchor'"):
        luthier.predict(run.folder, [{"positive": asked[1]}])
    with pytest.warns(UserWarning, match="1 of 3 texts was longer"):
        luthier.predict(run.folder, [{"anchor": text} for text in asked], out=tmp_path / "vectors.jsonl")
    kept = [json.loads(line) for line in (tmp_path / "vectors.jsonl").read_text().splitlines()]
    assert kept[1]["predicted_vector"] == said[1]["vector"]

    # as sentence-transformers reads it: the modules, their settings, and the same numbers
    modules = json.loads((bundle / "modules.json").read_text())
    assert [(each["path"], each["type"].split(".")[-1]) for each in modules] == [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        ("2_Normalize", "Normalize"),
    ]
    pooling = json.loads((bundle / "1_Pooling" / "config.json").read_text())
    longest = json.loads((bundle / "sentence_bert_config.json").read_text())["max_seq_length"]
    assert pooling["pooling_mode_mean_tokens"] is True and pooling["pooling_mode_cls_token"] is False
    network, tokenizer = AutoModel.from_pretrained(bundle).eval(), AutoTokenizer.from_pretrained(bundle)
    assert pooling["word_embedding_dimension"] == network.config.hidden_size
    read = tokenizer(asked, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    with torch.no_grad():
        states = network(**read).last_hidden_state
    mask = read["attention_mask"][:, :, None]
    plain = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    assert np.allclose(plain.numpy(), [row["vector"] for row in said], atol=1e-5)

    base = resolve(str(run.folder))
    assert models.load_embedding(base, "auto", 256, 0.0, 0).pooling == "mean"
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    after = luthier.run(
        write_lines(labelled, rows(120)), base=str(run.folder), out=tmp_path / "classes", set=["training.steps=4"], force=True
    )
    assert after.verdict is not None and after.verdict["task"] == "classification"
    more = luthier.run(
        write_lines(tmp_path, triples()), base=str(run.folder), out=tmp_path / "more", set=["training.steps=2", quick[-1]], force=True
    )
    assert more.verdict is not None and more.verdict["base"]["value"] == pytest.approx(run.verdict["test"]["value"], abs=1e-4)  # type: ignore[index]


def test_scored_pairs_are_judged_by_the_order_of_their_cosines(bases: Any, tmp_path: Path) -> None:
    changes = ["training.steps=40", "optimizer.lr=0.003", "adaptation.kind=lora"]
    file = write_lines(tmp_path, score_rows())
    run = luthier.run(file, base=str(bases("bert").folder), task="embedding", out=tmp_path / "run", set=changes, force=True)
    assert run.verdict is not None
    assert run.verdict["metric"] == "spearman" and run.verdict["test"]["value"] > 0.5
    assert run.verdict["trivial"]["name"] == "TF-IDF cosine"
    assert "farthest from their score" in (run.folder / "report.html").read_text()


def test_a_score_in_words_is_refused_where_all_pairs_would_be_learned_as_belonging_together(tmp_path: Path) -> None:
    rows = [{"sentence1": f"one {n}", "sentence2": f"another {n}", "score": ("high", "low")[n % 2]} for n in range(60)]
    path = write_lines(tmp_path, rows)
    with pytest.raises(DataError, match=r"the column 'score' holds no numbers") as problem:
        load_dataset(Data(path=str(path), task="embedding"), ())
    assert "--input sentence1,sentence2" in problem.value.remedy
    named = load_dataset(Data(path=str(path), task="embedding", input=("sentence1", "sentence2")), ())
    assert named.spec.target is None  # who names both has decided
