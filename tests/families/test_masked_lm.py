"""Masked language modelling: what is hidden, what the loss is, and who is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import luthier
from luthier.core.cache import Cache
from luthier.core.errors import DataError, ExperimentError, ModelError
from luthier.core.types import HELD_OUT, Record
from luthier.data.spec import Data
from luthier.evaluation.score import score
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.models.masked import make_masked, make_tokenizer
from luthier.objectives import masked_lm
from luthier.objectives.masked_lm import MaskedLm, MaskedLmObjective
from luthier.pilot.show import Shown
from luthier.training.proofs.context import ProofInputs
from luthier.training.prove import Disproved
from tests.conftest import rows
from tests.families.test_contract import FOREVER, tried, work_of  # noqa: F401

TEXTS = [row["text"] for row in rows()]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(TEXTS, 400)


def objective(tokenizer: Any, **fields: Any) -> MaskedLmObjective:
    return MaskedLm(**fields).open(tokenizer, ("text",), None)


def examples(at_work: MaskedLmObjective, texts: list[str] = TEXTS) -> Any:
    return at_work.prepare([Record(number, {"text": text}) for number, text in enumerate(texts, 1)])


def test_a_network_of_zeros_loses_the_logarithm_of_its_vocabulary(tokenizer) -> None:
    at_work = objective(tokenizer)
    model = make_masked(400, 2, 32, 0.0, 1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    loss = at_work.loss(model, at_work.collate(examples(at_work)[:8], 1, 0))
    assert float(loss.total.detach()) / loss.count == pytest.approx(math.log(400), rel=1e-5)


def test_a_rows_loss_is_that_of_transformers(tokenizer) -> None:
    at_work = objective(tokenizer, mask_share=0.4)
    model = make_masked(400, 2, 32, 0.0, 1).eval()
    rows_of_it = examples(at_work)[:5]
    batch = at_work.collate(rows_of_it, 0, HELD_OUT)
    found = at_work.score(model, batch)
    ends = batch.lengths.cumsum(0).tolist()
    model.network.set_attn_implementation("eager")
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        labels = batch.flat["hidden"][start:end].clone()
        labels[labels < 0] = -100
        with torch.no_grad():
            theirs = model.network(input_ids=batch.flat["tokens"][None, start:end], labels=labels[None]).loss
        assert found.loss[number] / found.count[number] == pytest.approx(float(theirs), rel=1e-4)


def test_masks_are_drawn_anew_each_step_alike_each_time_and_whatever_stands_beside_a_row(tokenizer) -> None:
    at_work = objective(tokenizer)
    some = examples(at_work)[:6]
    one, again, later = (at_work.collate(some, 1, step).flat["hidden"] for step in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, later)
    alone = at_work.collate(some[2:3], 1, 0).flat["hidden"]
    start = int(sum(example.size for example in some[:2]))
    assert torch.equal(one[start : start + some[2].size], alone)


def test_evaluations_hide_the_same_tokens_under_every_seed(tokenizer) -> None:
    at_work = objective(tokenizer)
    some = examples(at_work)[:6]
    assert torch.equal(at_work.collate(some, 1, HELD_OUT).flat["hidden"], at_work.collate(some, 2, HELD_OUT).flat["hidden"])


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_about_the_asked_share_is_guessed_four_fifths_of_it_hidden_and_never_what_the_tokenizer_adds(tokenizer, share: float) -> None:
    at_work = objective(tokenizer, mask_share=share)
    some = examples(at_work, [" ".join(TEXTS[start : start + 5]) for start in range(0, 60, 5)])
    guessed = hidden = able = kept = 0
    for step in range(40):
        batch = at_work.collate(some, 3, step)
        tokens, wanted = batch.flat["tokens"].numpy(), batch.flat["hidden"].numpy()
        whole = np.concatenate([example.tokens for example in some])
        words = np.concatenate([example.facts["words"] for example in some])
        assert (wanted[words < 0] < 0).all()
        assert (wanted[wanted >= 0] == whole[wanted >= 0]).all()
        able += int((words >= 0).sum())
        guessed += int((wanted >= 0).sum())
        hidden += int((tokens[wanted >= 0] == tokenizer.mask_token_id).sum())
        kept += int((tokens[wanted >= 0] == whole[wanted >= 0]).sum())
    assert guessed / able == pytest.approx(share, abs=0.02)
    assert hidden / guessed == pytest.approx(0.8, abs=0.02)
    assert kept / guessed == pytest.approx(0.1, abs=0.02)


def test_whole_words_are_hidden_with_all_their_pieces(tokenizer) -> None:
    at_work = objective(tokenizer, whole_words=True)
    some = examples(at_work, ["unbelievably extraordinary circumstances happen"] * 20)
    pieces = 0
    for example in some:
        wanted = at_work.collate([example], 1, 0).flat["hidden"].numpy() >= 0
        words = np.array(example.facts["words"])
        for word in set(words[words >= 0].tolist()):
            assert len(set(wanted[words == word].tolist())) == 1
            pieces += int((words == word).sum() > 1)
    assert pieces


def test_the_same_texts_give_the_same_tokenizer(tokenizer) -> None:
    assert make_tokenizer(TEXTS, 400).get_vocab() == tokenizer.get_vocab()
    assert tokenizer.decode(tokenizer("the Phone was great")["input_ids"], skip_special_tokens=True).strip() == "the Phone was great"


def write(folder: Path, table: list[dict[str, str]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in table))
    return file


def test_the_task_is_obeyed_where_it_is_named_and_a_label_is_not_read(tmp_path: Path) -> None:
    file = write(tmp_path, [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(rows(90))])
    found = load_dataset(Data(path=str(file), task="masked_lm"))
    assert (found.spec.task, found.spec.input, found.spec.target, found.labels) == ("masked_lm", ("text",), None, ())
    assert load_dataset(Data(path=str(file))).spec.task == "classification"


def test_a_target_and_a_classifier_from_scratch_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(rows(90))])
    with pytest.raises(DataError, match="learns from the texts alone"):
        luthier.run(file, task="masked_lm", target="label", out=tmp_path / "one")
    with pytest.raises(ExperimentError, match="not made from scratch"):
        luthier.run(file, base="scratch", out=tmp_path / "two")


def test_a_base_without_a_mask_token_is_refused_with_what_to_do(bases, tmp_path: Path) -> None:
    file = write(tmp_path, [{"text": f"{row['text']} {number}"} for number, row in enumerate(rows(90))])
    with pytest.raises(ExperimentError, match="no mask token"):
        luthier.run(file, task="masked_lm", base=str(bases("bert").folder), out=tmp_path / "run")


def test_a_bundle_goes_on_is_a_base_for_a_classifier_and_says_where_a_gap_is_missing(tmp_path: Path) -> None:
    table = [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(rows(240))]
    file = write(tmp_path, table)
    small = ["objective.vocabulary=400", "objective.depth=2", "objective.width=64", "training.epochs=3", "optimizer.lr=0.003"]
    first = luthier.run(file, task="masked_lm", base="scratch", out=tmp_path / "first", set=small, force=True)
    assert first.verdict is not None and first.verdict["base"] is None
    with pytest.raises(DataError, match="row 1 has no gap"):
        luthier.predict(first.folder, ["nothing is hidden here"])
    (filled,) = luthier.predict(first.folder, ["the [MASK] number 3 was [MASK]"])
    assert len(filled["words"]) == 2 and all(len(words) == 5 for words in filled["words"])
    more = luthier.run(file, task="masked_lm", base=str(first.folder), out=tmp_path / "more", set=["training.epochs=3"], force=True)
    assert more.verdict is not None
    assert more.verdict["test"]["value"] < first.verdict["test"]["value"]
    assert more.verdict["base"]["value"] == pytest.approx(first.verdict["test"]["value"], rel=1e-4)
    classes = luthier.run(
        file, base=str(first.folder), out=tmp_path / "classes", set=["training.epochs=4", "optimizer.lr=0.003", "training.ships=trained"]
    )
    assert classes.verdict is not None and classes.verdict["test"]["value"] > 0.8


def test_a_long_text_is_learned_in_pieces_that_hold_each_of_its_tokens_once(tokenizer) -> None:
    at_work = objective(tokenizer, max_length=16)
    long, short = " ".join(TEXTS), TEXTS[0]
    found = examples(at_work, [short, long, short])
    assert [example.facts["document"] for example in found] == [0, *[1] * (len(found) - 2), 2]
    pieces = found[1:-1]
    whole = tokenizer(long, add_special_tokens=False)["input_ids"]
    assert [token for piece in pieces for token in piece.tokens[1:-1]] == whole
    assert {(piece.tokens[0], piece.tokens[-1]) for piece in pieces} == {(tokenizer.cls_token_id, tokenizer.sep_token_id)}
    assert "".join(piece.facts["read_text"]() for piece in pieces).replace(" ", "") == long.replace(" ", "")
    assert [piece.facts["at"] for piece in pieces] == np.cumsum([0, *(piece.size for piece in pieces[:-1])]).tolist()
    assert found[0].facts["read_text"]() == short and found[-1].index == len(found) - 1
    scores = at_work.score(make_masked(400, 1, 32, 0.0, 1).eval(), at_work.collate(found[:5], 0, HELD_OUT))
    assert scores.groups is not None and scores.groups.tolist() == [0, 1, 1, 1, 1]


def test_texts_that_fit_hide_the_same_tokens_whatever_pieces_there_could_be(tokenizer) -> None:
    one, other = (objective(tokenizer, max_length=length) for length in (64, 128))
    assert torch.equal(one.collate(examples(one)[:6], 1, 3).flat["hidden"], other.collate(examples(other)[:6], 1, 3).flat["hidden"])


def test_a_budget_makes_the_network_smaller_that_suits_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.core.interfaces import NullReporter
    from luthier.pilot.stages.options import choose_experiment
    from luthier.studies.space import value_at

    monkeypatch.setattr("luthier.models.machine_speed.training_operations_per_second", lambda: 1e10)
    dataset = load_dataset(Data(path=str(corpus(tmp_path, 40)), task="masked_lm"))
    dataset.records["train"] = [Record(number, {"text": "word " * 20_000}) for number in range(200)]
    depths = [
        value_at(choose_experiment(dataset, "scratch", (), 1, NullReporter(), seconds)[0], "objective.depth")
        for seconds in (None, 1e6, 12_000.0, 30.0)
    ]
    assert depths[0] == depths[1] == 4
    assert depths[1] > depths[2] > depths[3] == 2


def test_experiments_that_say_layers_are_still_read() -> None:
    old = MaskedLm.model_validate({"kind": "masked_lm", "layers": 3, "width": 128})
    assert (old.depth, old.wide) == (3, 128)
    assert MaskedLm(depth=12).wide == 768  # BERT's own size


def corpus(folder: Path, documents: int) -> Path:
    """Files of text, each some hundred words."""
    place = folder / "texts"
    place.mkdir()
    for number in range(documents):
        said = [f"{row['text']} {number * 7 + place_of} times" for place_of, row in enumerate(rows(4000 // documents))]
        (place / f"{number:03}.txt").write_text("\n".join(said) + "\n")
    return place


@pytest.mark.parametrize("documents", [3, 40])
def test_a_folder_of_texts_is_learned_from_whole_files_or_from_passages_of_a_few(tmp_path: Path, documents: int) -> None:
    found = load_dataset(Data(path=str(corpus(tmp_path, documents)), task="masked_lm"))
    assert found.spec.format == "passages"
    assert (found.spec.time == "position") == (documents == 3)
    assert found.records["test"]


@pytest.mark.usefixtures("in_this_process")
def test_a_folder_makes_a_network_whose_size_follows_the_text_and_which_a_classifier_begins_from(tmp_path: Path) -> None:
    small = ["objective.vocabulary=400", "objective.max_length=32", "training.steps=12", "optimizer.lr=0.003"]
    first = luthier.run(corpus(tmp_path, 40), task="masked_lm", base="scratch", out=tmp_path / "first", set=small, force=True)
    config = json.loads((first.folder / "bundle" / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"]) == ("bert", 2, 128, 2)
    labelled = write(tmp_path, [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(rows(120))])
    second = luthier.run(labelled, base=str(first.folder), out=tmp_path / "second", set=["training.epochs=1"], force=True)
    assert second.verdict is not None
    luthier.export(first.folder, to="safetensors", out=tmp_path / "exported")  # of long texts the first piece is read alike
    with pytest.raises(ModelError, match="knows 512 positions") as problem:
        luthier.run(
            tmp_path / "texts", task="masked_lm", base="scratch", out=tmp_path / "third", set=["objective.max_length=600"], force=True
        )
    assert "--set objective.max_length=512" in problem.value.remedy


def test_a_new_head_begins_with_the_frequency_of_each_token_and_a_head_of_the_base_stays(tokenizer) -> None:
    at_work = objective(tokenizer)
    train = examples(at_work)
    family = family_of("masked_lm")

    def began(fingerprint: str) -> tuple[bool, Any]:
        model = make_masked(400, 2, 32, 0.0, 1).eval()
        return family.start_head(model, at_work, fingerprint, train, train, Cache()), model

    started, model = began("")
    kept, other = began("a base that has a head")
    counts = np.full(400, 0.1)
    for example in train:
        np.add.at(counts, example.tokens, 1)
    assert (started, kept) == (True, False)
    assert np.exp(model.output_bias.detach().numpy()) == pytest.approx(counts / counts.sum(), rel=1e-5)
    assert not other.output_bias.any()
    losses = [float(score(each, at_work, train).loss.sum()) for each in (model, other)]
    assert losses[0] < 0.9 * losses[1]


def catch(it: Any, **changes: Any) -> dict[str, str]:
    """The family's own proofs that fail, and what they say."""
    work = work_of(it, **changes)
    context = ProofInputs(work, lambda record: family_of("masked_lm").serving_inputs(record, work.objective), list(work.train[:4]), FOREVER)
    found = {proof.__name__.replace("_", " "): proof(context) for proofs in family_of("masked_lm").proofs() for proof in proofs}
    return {name: proof.claim for name, proof in found.items() if proof is not None and proof.held is False}


@pytest.mark.parametrize("changes", [{}, {"objective__whole_words": True}, {"objective__mask_share": 0.4}, {"objective__mask_share": 0.02}])
def test_healthy_masks_raise_no_alarm(tried: Any, changes: dict[str, Any]) -> None:  # noqa: F811
    assert not catch(tried("masked_lm"), **changes)


@pytest.mark.parametrize("shares", [(0.04, 0.05), (0.74, 0.9), (0.8, 0.96), (1.0, 1.0)])
def test_masks_that_leak_or_hide_too_much_are_caught(tried: Any, monkeypatch: pytest.MonkeyPatch, shares: tuple[float, float]) -> None:  # noqa: F811
    monkeypatch.setattr(masked_lm, "HIDDEN", shares[0])
    monkeypatch.setattr(masked_lm, "RANDOM", shares[1])
    for whole_words in (False, True):
        found = catch(tried("masked_lm"), objective__whole_words=whole_words)
        assert list(found) == ["hidden is hidden"]
        assert "in training" in found["hidden is hidden"] and "should" in found["hidden is hidden"]


def test_a_run_whose_masks_leak_stops_before_step_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, [{"text": f"{row['text']} {number}"} for number, row in enumerate(rows(90))])
    monkeypatch.setattr(masked_lm, "HIDDEN", 0.04)
    monkeypatch.setattr(masked_lm, "RANDOM", 0.05)
    small = ["objective.vocabulary=400", "objective.depth=2", "objective.width=32", "training.epochs=1"]
    with pytest.raises(Disproved, match="hidden is hidden: in training"):
        luthier.run(file, task="masked_lm", base="scratch", out=tmp_path / "run", set=small)


def test_masks_that_leak_in_evaluations_alone_are_caught(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    own = MaskedLmObjective._hide

    def hide(self: Any, example: Any, seed: int, step: int) -> Any:
        shown, wanted = own(self, example, seed, step)
        return (np.where(wanted >= 0, wanted, shown) if step == HELD_OUT else shown), wanted

    monkeypatch.setattr(MaskedLmObjective, "_hide", hide)
    assert "in evaluation 0 of" in catch(tried("masked_lm"))["hidden is hidden"]


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_another_share_of_guesses_than_asked_for_is_caught(tried: Any, monkeypatch: pytest.MonkeyPatch, share: float) -> None:  # noqa: F811
    own = MaskedLmObjective._hide

    def hide(self: Any, example: Any, seed: int, step: int) -> Any:
        self.spec, asked = self.spec.model_copy(update={"mask_share": share}), self.spec
        try:
            return own(self, example, seed, step)
        finally:
            self.spec = asked

    monkeypatch.setattr(MaskedLmObjective, "_hide", hide)
    assert "are guessed, and about 40% should be" in catch(tried("masked_lm"), objective__mask_share=0.4)["hidden is hidden"]


def shift(shown: np.ndarray, wanted: np.ndarray, example: Any) -> tuple[np.ndarray, np.ndarray]:
    """What is to be guessed is the token one place before."""
    return shown, np.where(wanted >= 0, np.roll(np.asarray(example.tokens), 1), -1)


def around_learned(shown: np.ndarray, wanted: np.ndarray, example: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the tokenizer puts around a text, as padding is, has to be guessed."""
    return shown, np.where(np.asarray(example.facts["words"]) < 0, example.tokens, wanted)


def leave_out(shown: np.ndarray, wanted: np.ndarray, example: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of the hidden tokens only the first is asked for."""
    return shown, np.where(np.cumsum(wanted >= 0) == 1, wanted, -1)


@pytest.mark.parametrize(
    ("plant", "said"), [(shift, "the targets are moved"), (around_learned, "put around the text"), (leave_out, "nobody asks")]
)
def test_targets_that_did_not_stand_there_are_caught(tried: Any, monkeypatch: pytest.MonkeyPatch, plant: Any, said: str) -> None:  # noqa: F811
    own = MaskedLmObjective._hide
    monkeypatch.setattr(MaskedLmObjective, "_hide", lambda self, example, seed, step: plant(*own(self, example, seed, step), example))
    assert said in catch(tried("masked_lm"))["a guess is what stood there"]


@pytest.mark.parametrize("more", [[], ["objective.whole_words=true", "objective.mask_share=0.3"]])
def test_show_has_the_masks_and_says_what_stood_there(tmp_path: Path, more: list[str]) -> None:
    said = "the parcel was late and the box was broken again, and nobody at the counter could say when the next one would come to the house"
    file = write(tmp_path, [{"text": f"{said} {number}"} for number in range(60)])
    shown = luthier.show(file, 7, task="masked_lm", base="scratch", set=["objective.vocabulary=400", *more])
    assert isinstance(shown, Shown)
    marked = [piece for piece, learned in zip(shown.pieces, shown.learned, strict=True) if learned]
    assert marked and "[MASK]" in shown.pieces
    assert all(learned for piece, learned in zip(shown.pieces, shown.learned, strict=True) if piece == "[MASK]")
    stood = shown.about.partition(": ")[2].partition(". Each step")[0].split("', ")
    assert len(stood) == len(marked)
    assert all(each.strip("'") in f"{said} 6" for each in stood)
    assert (
        "of the words" if more else "of the tokens"
    ) in shown.about and "80% of these stand behind [MASK], 10% are replaced" in shown.about


def test_a_vocabulary_of_which_most_would_never_occur_is_refused_before_a_network_is_made(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(f"the {number} cats sat down and {number * 7} dogs went" for number in range(400)))
    with pytest.raises(DataError, match=r"different tokens, and objective.vocabulary=200000 were asked for") as problem:
        luthier.run(file, task="masked_lm", base="scratch", out=tmp_path / "run", set=["objective.vocabulary=200000"])
    assert "set objective.vocabulary=" in problem.value.remedy
