"""Word2Vec: what is kept, drawn and proven, who is refused, what a bundle holds and says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import luthier
from luthier.app.reporters import format_prediction
from luthier.core.errors import DataError, ExperimentError, ModelError
from luthier.core.randomness import mix
from luthier.core.types import HELD_OUT, Record
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.families.vector_baselines import fit_factorised_counts, frequencies
from luthier.models.kernels import shared_library
from luthier.models.word_vectors import count_words, make_tables, make_vocabulary
from luthier.objectives.word2vec import Word2Vec, Word2VecObjective
from luthier.objectives.word_pieces import LONGEST
from luthier.pilot.show import Shown
from luthier.training.prove import find_disproved, prove
from tests.families.cases import CASES
from tests.families.test_contract import FOREVER, norm_of, our_steps, plain_steps, tried, work_of  # noqa: F401  # a fixture

SMALL = ["objective.width=8", "objective.least_count=1", "training.batch_size=32"]


def salad(rows: int, words: int, kinds: int, name: str = "salad") -> list[str]:
    """Texts in which words of one of two halves stand together."""
    drawn = mix(name, np.arange(rows * words)).reshape(rows, words) % np.uint64(kinds // 2)
    return [" ".join(f"word{value + (row % 2) * (kinds // 2)}" for value in each) for row, each in enumerate(drawn.astype(int))]


def objective(texts: list[str], **fields: Any) -> Word2VecObjective:
    vocabulary = make_vocabulary(count_words(texts, True), 1, 0, True)
    return Word2Vec(words=len(vocabulary), **fields).open(vocabulary, ("text",), None)


def records(texts: list[str]) -> list[Record]:
    return [Record(number, {"text": text}) for number, text in enumerate(texts, 1)]


def write(folder: Path, texts: list[str]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def test_frequent_words_are_left_out_as_often_as_word2vec_does() -> None:
    texts = ["the " * 8 + f"rare{number % 50} end" for number in range(300)]
    at_work = objective(texts, subsample=1e-2)
    examples = at_work.prepare(records(texts))
    share = 8 / 10
    wanted = min(1.0, (1e-2 / share) ** 0.5 + 1e-2 / share)
    words = at_work.tokenizer.numbers
    seen = total = 0
    for step in range(3):
        batch = at_work.collate(examples[:], 1, step)
        kept = at_work.windows(batch).centres[batch.flat["texts"] < len(examples)]
        seen += int((kept == words["the"]).sum())
        total += 8 * len(texts)
    assert seen / total == pytest.approx(wanted, abs=0.02)


def test_draws_depend_on_seed_step_and_row_alone_and_evaluations_on_nothing() -> None:
    texts = salad(40, 30, 20)
    at_work = objective(texts, subsample=0.05)
    examples = at_work.prepare(records(texts))[:]
    one, again, later = (at_work.collate(examples, 1, step).flat for step in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["noise"][:1], later["noise"][:1])
    held, other = (at_work.collate(examples, seed, HELD_OUT).flat for seed in (1, 2))
    assert all(torch.equal(held[name], other[name]) for name in held)
    alone = at_work.collate(examples[7:8], 1, HELD_OUT)
    beside = at_work.collate(examples, 1, HELD_OUT)
    mine = beside.flat["texts"] == 7
    assert torch.equal(at_work.windows(beside).centres[mine], at_work.windows(alone).centres[alone.flat["texts"] == 0])


def test_a_long_row_is_read_in_pieces_and_made_only_when_it_is_asked_for() -> None:
    texts = [" ".join(f"word{number % 50}" for number in range(3 * LONGEST + 10)), "word1", "nothing known"]
    at_work = objective(texts[:2])
    pieces = at_work.prepare(records(texts))
    assert [example.size for example in pieces] == [LONGEST, LONGEST, LONGEST, 10, 1, 1]
    assert [example.facts["row"] for example in pieces] == [0, 0, 0, 0, 1, 2]
    assert [example.units for example in pieces] == [1, 1, 1, 1, 0, 0]
    whole = np.concatenate([example.tokens for example in pieces[:4]])
    assert whole.tolist() == at_work.tokenizer.encode(texts[0]).tolist()


@pytest.mark.parametrize("model", ["skip_gram", "cbow"])
def test_planted_bugs_are_caught_by_name(tried: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    it = tried("word2vec")

    def catch() -> set[str]:
        work = work_of(it, objective__model=model)
        return {
            proof.name
            for proof in find_disproved(prove(work, lambda record: family_of("word2vec").serving_inputs(record, work.objective), FOREVER))
        }

    assert not catch()
    kind = Word2VecObjective
    own_windows, own_collate, own_loss = kind.windows, kind.collate, kind.loss

    def positive(self: Any, batch: Any) -> Any:
        """Negative = positive: the negatives of a group are its own words."""
        windows = own_windows(self, batch)
        own = windows.centres.view(len(windows.noise), -1)[:, : windows.noise.shape[1]].contiguous()
        return type(windows)(windows.words, windows.left, windows.right, own, windows.negatives, windows.reach)

    monkeypatch.setattr(kind, "windows", positive)
    assert "negatives are drawn" in catch()
    monkeypatch.setattr(kind, "windows", own_windows)

    def twice(self: Any, network: Any, batch: Any) -> Any:
        """A wrong normaliser: divided by half of the pairs."""
        found = own_loss(self, network, batch)
        return type(found)(found.total, found.count / 2)

    monkeypatch.setattr(kind, "loss", twice)
    assert "knowing nothing costs what it must" in catch()
    monkeypatch.setattr(kind, "loss", own_loss)

    def across(self: Any, examples: Any, seed: int, step: int) -> Any:
        """Windows that reach from one row into the next."""
        from luthier.objectives.windows import window_sides

        batch = own_collate(self, examples, seed, step)
        count = int((batch.flat["texts"] < len(examples)).sum())
        sides = window_sides(np.zeros(count, dtype=int), np.full(count, self.spec.window, dtype=np.int32))
        for name, side in zip(("left", "right"), sides, strict=True):
            batch.flat[name].copy_(torch.from_numpy(side))
        return batch

    monkeypatch.setattr(kind, "collate", across)
    assert "pairs stand in windows" in catch()


@pytest.mark.skipif(not shared_library.can_compile(), reason="there is no C++ compiler")
@pytest.mark.usefixtures("compiling")
def test_compiled_steps_are_those_of_a_plain_loop(tried: Any) -> None:  # noqa: F811
    changes = {"objective__model": "cbow", "training__dtype": "float32"}
    fast, slow = (work_of(tried("word2vec"), **changes, training__kernels=kernels) for kernels in ("compiled", "plain"))
    assert fast.model.kernels is not None and slow.model.kernels is None
    start = {name: each.detach().clone() for name, each in slow.model.network.named_parameters()}
    for ours, plain in zip(our_steps(fast, 3), plain_steps(slow, 3), strict=True):
        apart = [ours.gradients[name] - gradient for name, gradient in plain.gradients.items()]
        assert norm_of(apart) < 3e-5 * norm_of(plain.gradients.values())
        told = {
            name: each.abs() > 1e-3 * each.abs().max() for name, each in plain.gradients.items()
        }  # of others AdaGrad makes whole steps too
        moved = norm_of((each - start[name])[told[name]] for name, each in plain.parameters.items())
        off = norm_of((ours.parameters[name] - each)[told[name]] for name, each in plain.parameters.items())
        assert moved > 0 and off < 1e-3 * moved, (off, moved)


@pytest.mark.skipif(not shared_library.can_compile(), reason="there is no C++ compiler")
@pytest.mark.usefixtures("compiling")
def test_a_compiled_run_that_was_stopped_and_resumed_ships_the_same_bytes(tmp_path: Path) -> None:
    file = write(tmp_path, salad(240, 20, 40))
    changes = [*SMALL, "training.epochs=4", "objective.model=cbow", "training.checkpoint_seconds=0"]

    def stop(step: Any) -> None:
        if step.number == 9:
            raise KeyboardInterrupt

    whole = luthier.run(file, task="word2vec", out=tmp_path / "whole", set=changes, force=True)
    assert Experiment.load(whole.folder / "experiment.yaml").training.kernels == "compiled"
    assert not [proof["name"] for proof in whole.json("proofs.json")["proofs"] if proof["held"] is False]
    with pytest.raises(KeyboardInterrupt):
        luthier.run(file, task="word2vec", out=tmp_path / "cut", set=changes, force=True, watchers=[stop])
    again = luthier.resume(tmp_path / "cut")
    one, two = (load_file(run.folder / "bundle" / "model.safetensors") for run in (whole, again))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_vocabulary_larger_than_the_corpus_and_too_few_words_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, salad(60, 20, 30))
    with pytest.raises(ExperimentError, match=r"objective.vocabulary is 5,000, and the training rows hold 30 words"):
        luthier.run(file, task="word2vec", out=tmp_path / "one", set=["objective.vocabulary=5000"], plan_only=True)
    with pytest.raises(DataError, match=r"0 of 30 different words .* 10000 times or more"):
        luthier.run(file, task="word2vec", out=tmp_path / "two", set=["objective.least_count=10000"], plan_only=True)
    for kind, said in (("lora", "no blocks that adapters"), ("freeze", "no blocks that could be frozen")):
        with pytest.raises(ExperimentError, match=said):
            luthier.run(
                file, task="word2vec", out=tmp_path / kind, set=[f"adaptation.kind={kind}", "objective.least_count=1"], plan_only=True
            )
    with pytest.raises(DataError, match="learns from the texts alone"):
        luthier.run(file, task="word2vec", target="text", out=tmp_path / "three")


def test_baselines_are_scored_with_the_same_loss_and_counts_beat_frequencies_where_words_keep_company() -> None:
    texts = salad(300, 20, 40)
    at_work = objective(texts, width=8)
    train, held = at_work.prepare(records(texts[:240])), at_work.prepare(records(texts[240:]))
    context: Any = type("Context", (), {"objective": at_work, "processor": at_work.tokenizer, "poll": staticmethod(lambda: None)})()
    common, counted = frequencies(train, held, context), fit_factorised_counts(train, held, context)
    nothing = make_tables(40, 8, False, 1)
    with torch.no_grad():
        nothing.network.words.weight.zero_()
    zero = score(nothing, at_work, held)
    assert common.validation.count.tolist() == zero.count.tolist()
    # forty equally frequent words: a context is as likely as a negative sample, so a pair is told from five of them at one in six
    expected = np.log(6) + 5 * np.log(6 / 5)
    assert common.validation.loss.sum() / zero.count.sum() == pytest.approx(expected, rel=0.01)
    assert counted.validation.loss.sum() < 0.95 * common.validation.loss.sum()


def test_a_bundle_is_read_by_others_goes_on_and_says_which_words_are_near(tmp_path: Path) -> None:
    file = write(tmp_path, salad(240, 20, 40))
    first = luthier.run(
        file, task="word2vec", out=tmp_path / "first", set=[*SMALL, "training.epochs=8", "objective.model=cbow"], force=True
    )
    bundle = first.folder / "bundle"
    vectors = load_file(bundle / "model.safetensors")["words.weight"].numpy()
    words = json.loads((bundle / "vocabulary.json").read_text())["words"]
    lines = (bundle / "vectors.txt").read_text().splitlines()
    assert lines[0] == f"{len(words)} 8" and [line.split(" ")[0] for line in lines[1:]] == words
    assert np.allclose([[float(value) for value in line.split(" ")[1:]] for line in lines[1:]], vectors, rtol=1e-4, atol=1e-6)
    head, _, rest = (bundle / "vectors.bin").read_bytes().partition(b"\n")
    assert head == lines[0].encode()
    for word, vector in zip(words, vectors, strict=True):
        start = len(word) + 1
        assert rest[:start] == f"{word} ".encode()
        assert np.array_equal(np.frombuffer(rest[start : start + 32], dtype="<f4"), vector)
        rest = rest[start + 33 :]
    assert {"vectors.bin", "vectors.txt", "vocabulary.json"} <= set(json.loads((bundle / "luthier.json").read_text())["files"])
    (near, sum_of) = luthier.predict(first.folder, ["word3", "word3 - word25 + word26 unheard"])
    assert len(near["words"]) == 10 and all(int(each["word"][4:]) < 20 for each in near["words"][:3])
    assert sum_of["note"] == "without unheard, which has no vector"
    assert format_prediction(sum_of, False) == f"{sum_of['text']}  (without unheard, which has no vector)"
    assert sum_of["unknown"] == ["unheard"] and "word3" not in sum_of["text"].split(", ")
    with pytest.raises(DataError, match="row 1: none of its words"):
        luthier.predict(first.folder, ["unheard of"])
    more = luthier.run(
        file,
        task="word2vec",
        base=str(first.folder),
        out=tmp_path / "more",
        set=[*SMALL, "training.epochs=2", "objective.model=cbow"],
        force=True,
    )
    assert more.verdict is not None and first.verdict is not None
    assert more.verdict["base"]["value"] == pytest.approx(first.verdict["test"]["value"], rel=1e-4)
    with pytest.raises(ModelError, match="word2vec run, which are learned otherwise"):
        luthier.run(file, task="glove", base=str(first.folder), out=tmp_path / "other", set=["objective.least_count=1"], force=True)


def test_a_text_file_becomes_passages(tmp_path: Path) -> None:
    file = tmp_path / "novel.txt"
    file.write_text("\n".join(salad(200, 15, 40)))
    run = luthier.run(file, task="word2vec", out=tmp_path / "run", set=SMALL, plan_only=True)
    assert len(run.json("splits.json")["rows"]["train"]) >= 20
    assert CASES["word2vec"].options == {"task": "word2vec"}


def test_a_row_of_unknown_words_among_others_gets_a_note(tried: Any, tmp_path: Path) -> None:  # noqa: F811
    bundle, asked, out = tried("word2vec").run.folder / "bundle", tmp_path / "asked.csv", tmp_path / "said.csv"
    asked.write_text("text\nphone\nzzqx\ngreat\n")
    known, unknown, also = luthier.predict(bundle, asked, out=out)
    assert known["text"] and also["text"] and "note" not in known
    assert unknown["text"] == "" and unknown["note"] == "none of its words (zzqx) has a vector"
    assert format_prediction(unknown, False) == "(no answer: none of its words (zzqx) has a vector)"
    assert "predicted_note" in out.read_text().splitlines()[0]
    with pytest.raises(DataError, match="row 1: none of its words"):
        luthier.predict(bundle, ["zzqx", "zzqy"])


@pytest.mark.parametrize(
    ("task", "said"),
    [("word2vec", "the words near each word, up to 5 to either side"), ("glove", "how often words stand near each other, up to 10 apart")],
)
def test_the_whole_row_is_shown_and_what_is_learned_of_it(task: str, said: str, tmp_path: Path) -> None:
    texts = salad(60, LONGEST + 20, 30)
    texts[0] += " alone"
    shown = luthier.show(write(tmp_path, texts), 1, task=task, set=["objective.least_count=2"])
    assert isinstance(shown, Shown)
    assert shown.pieces == texts[0].split()[:-1] and all(shown.learned)
    assert shown.about.startswith(said) and shown.about.endswith("1 word of this row has no vector and is left out")
