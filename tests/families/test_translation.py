"""Translation: what the loss is, which planted bugs are named, who is refused, and what a bundle goes on to."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

import luthier
from luthier.core.errors import DataError, LuthierError, ModelError
from luthier.core.types import HELD_OUT, Example, Record, Scores, Stream
from luthier.data.spec import Data
from luthier.evaluation.baselines import BaselineContext
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.families.translation import find_faults, repeats
from luthier.families.translation_baselines import copy_of_source, nearest_target
from luthier.models.encoder_decoder import EncoderDecoder, make_translator
from luthier.models.translation_tokenizer import make_pair_tokenizer
from luthier.objectives.translation import Translation, TranslationObjective
from luthier.training.assemble import build
from luthier.training.devices import decide_device_fields
from luthier.training.prove import find_disproved, prove
from luthier.training.steps import Work
from tests.families.cases import sentence_pairs, write_lines

PAIRS = sentence_pairs()
SMALL = (
    "objective.vocabulary=400",
    "objective.layers=1",
    "objective.width=32",
    "objective.beams=2",
    "training.epochs=2",
    "optimizer.lr=0.003",
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_pair_tokenizer([text for row in PAIRS for text in row.values()], 400, 512)


def make_objective(tokenizer: Any, **fields: Any) -> TranslationObjective:
    return Translation(**fields).open(tokenizer, ("en",), "de")


def records(table: list[dict[str, Any]] = PAIRS) -> list[Record]:
    return [Record(number, row, "pairs.jsonl") for number, row in enumerate(table, 1)]


def test_a_network_of_zeros_loses_the_logarithm_of_its_vocabulary_smoothed_or_not(tokenizer: Any) -> None:
    model = make_translator(400, 1, 32, 0.0, 1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for smoothing in (0.0, 0.1):
        objective = make_objective(tokenizer, label_smoothing=smoothing)
        examples = objective.prepare(records())[:8]
        loss = objective.loss(model, objective.collate(examples, 1, 0))
        assert float(loss.total.detach()) / loss.count == pytest.approx(math.log(400), rel=1e-5)
        assert loss.count == sum(len(example.target) for example in examples)


def test_the_loss_of_padded_rows_is_transformers_and_torchs(tokenizer: Any) -> None:
    objective, model = make_objective(tokenizer, label_smoothing=0.1), make_translator(400, 2, 32, 0.0, 1)
    examples = objective.prepare(records())[:6]
    ours = objective.loss(model, objective.collate(examples, 1, 0))
    batch = tokenizer([row["en"] for row in PAIRS[:6]], text_target=[row["de"] for row in PAIRS[:6]], padding=True, return_tensors="pt")
    labels = batch["labels"].masked_fill(batch["labels"] == tokenizer.pad_token_id, -100)
    logits = model.network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).logits
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1, reduction="sum", ignore_index=-100)  # fmt: skip
    assert float(ours.total.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)


def test_a_row_that_is_too_long_loses_its_end_and_does_not_learn_to_stop_there(tokenizer: Any) -> None:
    objective = make_objective(tokenizer, max_length=8)
    (long, short) = objective.prepare(records([{"en": "a dog " * 9, "de": "ein hund " * 9}, {"en": "a dog", "de": "ein hund"}]))
    assert long.facts["cut"] > 0 and objective.end not in long.target and len(long.tokens) == 8
    assert short.facts["cut"] == 0 and short.target[-1] == objective.end


def work_of(tokenizer: Any, folder: Path) -> Work:
    rows = write_lines(folder, PAIRS)
    dataset = load_dataset(Data(path=str(rows), task="translation"), checks=())
    values = {
        "data": dataset.spec.model_dump(mode="json"), "objective": {"kind": "translation", "vocabulary": 400, "layers": 1, "width": 32},
        "model": {"base": "", "dropout": 0.0}, "adaptation": {"kind": "full"}, "optimizer": {"kind": "adamw", "lr": 1e-3}, "schedule": {"kind": "linear"},
        "training": {"metric": "chrf", "dtype": "float32"},
    }  # fmt: skip
    experiment = decide_device_fields(Experiment.of(values))
    objective: Any = experiment.objective
    at_work = objective.open(tokenizer, dataset.spec.input, dataset.spec.target)
    return build(experiment, None, at_work, at_work.prepare(dataset.records["train"]), at_work.prepare(dataset.records["validation"]))


def catch(work: Work) -> set[str]:
    return {
        proof.name
        for proof in find_disproved(prove(work, lambda record: family_of("translation").serving_inputs(record, work.objective), 1e6))
    }


def test_nothing_is_disproved_where_nothing_is_wrong(tokenizer: Any, tmp_path: Path) -> None:
    assert catch(work_of(tokenizer, tmp_path)) == set()


def plant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break one thing."""
    prepare, collate = TranslationObjective.prepare, TranslationObjective.collate

    def target_in_the_source(self: Any, rows: Any) -> list[Example]:
        made = prepare(self, rows)
        return [replace(each, inputs={"tokens": [*each.tokens[:-1], *each.target]}) for each in made]

    def stream(batch: Any, **values: Any) -> Any:
        return replace(batch, streams={"target": Stream(batch.streams["target"].lengths, {**batch.streams["target"].values, **values})})

    def not_shifted(self: Any, examples: Any, seed: int, step: int) -> Any:
        batch = collate(self, examples, seed, step)
        return stream(batch, shown=batch.streams["target"].values["next"])

    def pad(self: Any, rows: Any) -> list[Example]:
        made = prepare(self, rows)
        longest = max(len(each.target) for each in made)
        pad = self.tokenizer.pad_token_id
        return [replace(each, target=[*each.target, *[pad] * (longest - len(each.target))]) for each in made]

    def endless(self: Any, rows: Any) -> list[Example]:
        return [replace(each, target=each.target[:-1], units=each.units - 1) for each in prepare(self, rows)]

    bugs = {"target in the source": ("prepare", target_in_the_source), "not shifted": ("collate", not_shifted), "padded": ("prepare", pad), "endless": ("prepare", endless)}  # fmt: skip
    monkeypatch.setattr(TranslationObjective, *bugs[name])


@pytest.mark.parametrize(
    ("bug", "proof"),
    [
        ("target in the source", "the target is hidden from the encoder"),
        ("not shifted", "each word is learned behind those before it"),
        ("padded", "the end is learned and padding is not"),
        ("endless", "the end is learned and padding is not"),
    ],
)
def test_planted_bugs_are_caught_by_name(bug: str, proof: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(bug, monkeypatch)
    assert proof in catch(work_of(tokenizer, tmp_path))


def test_a_decoder_that_sees_what_comes_is_caught_by_name(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import luthier.models.encoder_decoder as module

    def all_of_it(asking: Any, looked_at: Any, causal: bool) -> Any:
        return looked_at.seen

    monkeypatch.setattr(module, "_visible", all_of_it)
    found = catch(work_of(tokenizer, tmp_path))
    assert {"no word sees those behind it", "padding changes nothing"} <= found


def test_an_attention_that_sees_padding_is_caught_by_name(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import luthier.models.encoder_decoder as module

    own = module._visible
    monkeypatch.setattr(module, "_visible", lambda asking, looked_at, causal: own(asking, looked_at, causal) if causal else None)
    assert {"packed is alone", "padding changes nothing"} & catch(work_of(tokenizer, tmp_path))


def test_columns_of_languages_are_recognised_and_both_sides_keep_rows_together(tmp_path: Path) -> None:
    table = [
        {"de": f"das ist der satz mit der nummer {n} und {n * 7}", "en": f"this is the {n * 3} sentence that has the number {n}"}
        for n in range(60)
    ]
    table.append({"de": table[0]["de"], "en": "an altogether different wording of what stands in the first line"})
    table.append({"de": "ganz andere woerter als irgendwo sonst in dieser datei", "en": table[1]["en"]})
    dataset = load_dataset(Data(path=str(write_lines(tmp_path, table))), checks=())
    assert (dataset.spec.task, dataset.spec.input, dataset.spec.target) == ("translation", ("de",), "en")
    part = {record.row: name for name, rows in dataset.records.items() for record in rows}
    assert part[1] == part[61] and part[2] == part[62]


@pytest.mark.parametrize(
    ("change", "asked", "message"),
    [
        (lambda row: {**row, "de": ""}, {"input": ("en",), "target": "de"}, "the column 'de' is empty in all 240 rows"),
        (lambda row: {**row, "de": row["en"]}, {"input": ("en",), "target": "de"}, "source and target are the same text in all"),
        (lambda row: {"text": row["en"]}, {}, "no pair of texts found among the columns text"),
        (lambda row: row, {"input": ("en",), "target": "fr"}, "has no column 'fr'"),
        (lambda row: row, {"input": ("en",), "target": "en"}, "both read and learned"),
    ],
)
def test_files_that_are_no_pairs_are_refused_with_one_message(change: Any, asked: Any, message: str, tmp_path: Path) -> None:
    file = write_lines(tmp_path, [change(row) for row in PAIRS])
    with pytest.raises(DataError, match=message) as refused:
        load_dataset(Data(path=str(file), task="translation", **asked), checks=())
    assert refused.value.remedy


def test_a_row_with_an_empty_side_is_set_aside_and_named(tmp_path: Path) -> None:
    table = [dict(row) for row in PAIRS]
    table[4]["de"], table[9]["en"] = "  ", ""
    dataset = load_dataset(Data(path=str(write_lines(tmp_path, table)), task="translation"), checks=())
    assert {(row.line, row.reason) for row in dataset.rejected} == {(5, "the target is empty ('de')"), (10, "the source is empty ('en')")}


def test_baselines_say_the_source_and_what_the_nearest_source_was_translated_as(tokenizer: Any) -> None:
    objective = make_objective(tokenizer)
    examples = [replace(each, index=number) for number, each in enumerate(objective.prepare(records()))]
    train, held = examples[:200], examples[200:]
    context = BaselineContext(("en",), 0, tokenizer, objective)
    copied, near = copy_of_source(train, held, context), nearest_target(train, held, context)
    scores = copied.score(held)
    assert scores.outputs is not None and list(scores.outputs) == [example.record.values["en"] for example in held]
    assert near.score(train).outputs is not None
    assert list(near.score(train).outputs) == [example.record.values["de"] for example in train]  # type: ignore[arg-type]
    uniform = sum(example.units for example in held) * math.log(len(tokenizer))
    assert 0 < near.validation.loss.sum() < uniform and 0 < copied.validation.loss.sum() < uniform


def test_empty_and_repeated_translations_are_named() -> None:
    outputs = np.array(["ein hund", "", None, "der der der hund", "a b a b a b"], dtype=object)
    scores = Scores(np.ones(5), np.ones(5), outputs=outputs, references=outputs)
    assert find_faults(scores) == {"empty": [1], "repeated": [3, 4]}
    assert not repeats("sehr sehr gut")
    family = family_of("translation")
    assert [found.claim for found in family.findings(scores, None)] == ["1 of 4 translations is empty", "2 translations of 4 are repeated"]
    assert family.details(scores, None)["tables"][0]["rows"][0][:2] == ("empty", 1)


def test_a_bundle_is_a_base_and_transformers_opens_it(tmp_path: Path) -> None:
    file = write_lines(tmp_path, PAIRS)
    first = luthier.run(file, task="translation", out=tmp_path / "first", set=[*SMALL], force=True)
    assert first.verdict is not None and first.verdict["base"] is None and first.verdict["metric"] == "chrf"
    assert {each["metric"] for each in first.verdict["answers"]} == {"bleu"}
    more = luthier.run(file, task="translation", base=str(first.folder), out=tmp_path / "more", set=[*SMALL], force=True)
    assert more.verdict is not None
    assert more.verdict["base"]["value"] == pytest.approx(first.verdict["test"]["value"], abs=1e-3)
    assert more.verdict["test"]["loss"] < first.verdict["test"]["loss"]
    (said,) = luthier.predict(more.folder, ["the big dog sees a cat 3"])
    network, tokenizer = (kind.from_pretrained(more.folder / "bundle") for kind in (AutoModelForSeq2SeqLM, AutoTokenizer))
    made = network.float().generate(
        **tokenizer("the big dog sees a cat 3", return_tensors="pt"), num_beams=2, max_new_tokens=40, early_stopping=False
    )
    if json.loads((more.folder / "bundle" / "luthier.json").read_text())["dtype"] == "float32":
        assert tokenizer.decode(made[0], skip_special_tokens=True).strip()[:20] == said["text"][:20]
    with pytest.raises(ModelError, match="does not hold conversations"):
        luthier.chat(more.folder)
    with pytest.raises(LuthierError):
        luthier.run(file, task="translation", input="de", target="en", metric="accuracy", out=tmp_path / "no")


def test_a_t5_folder_is_a_base_with_adapters_and_with_frozen_blocks_and_an_encoder_is_not(
    bases: Any, tokenizer: Any, tmp_path: Path
) -> None:
    file, folder = write_lines(tmp_path, PAIRS), tmp_path / "t5"
    torch.manual_seed(0)
    config = T5Config(vocab_size=400, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    config.decoder_start_token_id = 0
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for adaptation in (["adaptation.kind=lora", "adaptation.rank=4"], ["adaptation.kind=freeze", "adaptation.depth=2"]):
        run = luthier.run(file, task="translation", base=str(folder), out=tmp_path / adaptation[0][-4:], force=True,
                          set=['objective.prefix="translate: "', "objective.beams=1", "training.epochs=1", "training.batch_size=16", "optimizer.lr=0.003", *adaptation])  # fmt: skip
        assert run.verdict is not None and run.verdict["base"]["name"].endswith("untouched")
        assert all(proof["held"] for proof in run.json("proofs.json")["proofs"])
    with pytest.raises(ModelError, match="is an encoder, and translation"):
        luthier.run(file, task="translation", base=str(bases("bert").folder), out=tmp_path / "bert")


def test_the_target_changes_nothing_that_a_model_is_given_and_held_out_rows_are_alike_under_every_seed(tokenizer: Any) -> None:
    objective = make_objective(tokenizer)
    one, two = objective.prepare(records([{"en": "a dog", "de": "ein hund"}, {"en": "a dog"}]))
    assert one.inputs == two.inputs and two.units == 0 and two.target == []
    assert torch.equal(*(objective.collate([one], seed, HELD_OUT).flat["tokens"] for seed in (1, 2)))
    assert isinstance(make_translator(400, 1, 32, 0.0, 1), EncoderDecoder)


@pytest.mark.parametrize("task", [None, "translation"])
def test_a_column_that_is_empty_in_all_rows_is_named_and_no_classes_are_spoken_of(task: str | None, tmp_path: Path) -> None:
    rows = [{"en": f"a sentence of its own, number {number}", "de": ""} for number in range(60)]
    with pytest.raises(DataError, match="the column 'de' is empty in all 60 rows") as problem:
        load_dataset(Data(path=str(write_lines(tmp_path, rows)), task=task), ())
    assert "classifier" not in problem.value.remedy


def test_two_texts_under_names_that_say_nothing_are_told_of_the_families_that_read_them(tmp_path: Path) -> None:
    rows = [{"left": f"a sentence of its own, number {number}", "right": f"ein eigener Satz, Nummer {number}"} for number in range(60)]
    with pytest.raises(DataError, match="looks like a label") as problem:
        load_dataset(Data(path=str(write_lines(tmp_path, rows))), ())
    assert "--task translation" in problem.value.remedy
