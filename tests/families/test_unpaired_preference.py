"""Single answers that were called good or bad: what is recognised and refused, planted bugs that are caught by name, what reversed labels do, and what a bundle is good for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import luthier
from luthier.core.errors import DataError, ExperimentError, OutOfMemory
from luthier.core.types import Example, Loss, Record
from luthier.data.judged_answers import is_good
from luthier.data.read_rows import read
from luthier.data.row_reader import Columns
from luthier.data.spec import Data
from luthier.evaluation.metrics import measure
from luthier.evaluation.score import score
from luthier.families import family_of
from luthier.families.recognise import load_dataset, recognise
from luthier.families.unpaired_preference_report import describe_answers, trivial_models
from luthier.models.modes import eval_mode
from luthier.models.pretrained import load_tokenizer
from luthier.models.referenced import load_referenced
from luthier.objectives.reference import complete, log_probabilities, sum_by_answer
from luthier.objectives.unpaired_preference import MISMATCHED, UnpairedObjective, UnpairedPreference
from luthier.pilot.show import Shown
from luthier.training.assemble import assemble
from luthier.training.proofs.context import ProofInputs
from luthier.training.prove import find_disproved, prove
from luthier.training.steps import Work, steps
from tests.families.cases import judge, pairs, write_lines
from tests.training.test_steps import experiment

FOREVER = 1e6


def work_for(base: Any, table: list[dict[str, Any]], held: list[dict[str, Any]] | None = None, **changes: Any) -> Work:
    """Everything that a run needs, on these rows."""
    records = [Record(number, row) for number, row in enumerate(table, 1)]
    validation = [Record(number, row) for number, row in enumerate(held or table[-20:], 1000)]
    asked = experiment("classification", base.name)
    data = Data(path="rows.jsonl", task="unpaired_preference", input=("prompt", "completion"), target="label")
    asked = asked.model_copy(update={"objective": UnpairedPreference(), "data": data})
    for path, value in {"adaptation.kind": "lora", "optimizer.lr": 3e-3, "training.steps": 20, **changes}.items():
        asked = asked.replace(path, value)
    return assemble(asked, base, load_tokenizer(base), {"train": records, "validation": validation})


def find_failed(work: Work) -> dict[str, str]:
    """The family's own proofs that failed, and what they claim."""
    family = family_of("unpaired_preference")
    context = ProofInputs(work, lambda record: family.serving_inputs(record, work.objective), list(work.train[:4]), FOREVER)
    reading, asking = family.proofs()
    found = {proof.__name__.replace("_", " "): proof(context) for proof in (*reading, *asking)}
    return {name: proof.claim for name, proof in found.items() if proof is not None and not proof.held}


def turn(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the other label."""
    return [{**row, "label": not row["label"]} for row in table]


def recognise_table(folder: Path, table: list[dict[str, Any]], **asked: Any) -> tuple[str, Columns]:
    """The family that takes a table, and its columns."""
    file = write_lines(folder, table)
    family, columns = recognise(read(file), str(file), Data(path=str(file), **asked))
    return family.name, columns


# rows


def test_which_tables_are_recognised_unasked_and_which_are_left_to_others(tmp_path: Path) -> None:
    rows = [{**row, "completion": f"{row['completion']} {number}"} for number, row in enumerate(judge())]
    talk = [{"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}], "label": row["label"]} for row in rows]  # fmt: skip
    several = ("phone", "film", "meal")
    tables: dict[str, tuple[list[dict[str, Any]], str, tuple[str, ...]]] = {
        "TRL": (rows, "unpaired_preference", ("prompt", "completion")),
        "other names": ([{"prompt": row["prompt"], "response": row["completion"], "thumb": "up" if row["label"] else "down"} for row in rows], "unpaired_preference", ("prompt", "response")),
        "LLaMA-Factory": ([{"messages": row["messages"], "kto_tag": row["label"]} for row in talk], "unpaired_preference", ("messages",)),
        "conversations with a label": (talk, "chat", ("messages",)),
        "a text and a label": ([{"text": row["completion"], "label": row["label"]} for row in rows], "classification", ("text",)),
        "a prompt and a label": ([{"prompt": row["prompt"], "label": row["label"]} for row in rows], "classification", ("prompt",)),
        "three labels": ([{**row, "label": several[number % 3]} for number, row in enumerate(rows)], "chat", ("prompt",)),
        "one label": ([{**row, "label": True} for row in rows], "chat", ("prompt",)),
        "no label": ([{"prompt": row["prompt"], "completion": row["completion"]} for row in rows], "chat", ("prompt",)),
        "a question and its answer": ([{"question": row["prompt"], "answer": row["completion"], "label": row["label"]} for row in rows], "chat", ("question",)),
    }  # fmt: skip
    for name, (table, task, input) in tables.items():
        family, columns = recognise_table(tmp_path, table)
        assert (family, columns.input) == (task, input), name
    assert recognise_table(tmp_path, rows, target="label")[0] == "classification"  # the label is asked for


def test_a_person_who_insists_names_any_columns_and_labels_are_read_in_many_words(tmp_path: Path) -> None:
    talk = [{"conversations": [{"from": "human", "value": row["prompt"]}, {"from": "gpt", "value": row["completion"]}], "tag": "Thumbs_Up" if row["label"] else "-1"} for row in judge()]  # fmt: skip
    found = load_dataset(Data(path=str(write_lines(tmp_path, talk)), task="unpaired_preference"))
    assert (found.spec.input, found.spec.target, found.count) == (("conversations",), "tag", 120)
    other = [{"asked": row["prompt"], "said": [{"role": "assistant", "content": row["completion"]}], "ok": int(row["label"])} for row in judge()]  # fmt: skip
    found = load_dataset(Data(path=str(write_lines(tmp_path, other)), task="unpaired_preference", input=("asked", "said")))
    assert (found.spec.target, found.count) == ("ok", 120)
    shares = [np.mean([row.values["ok"] for row in found.records[part]]) for part in ("train", "validation", "test")]
    assert max(shares) - min(shares) < 0.1  # good and bad ones are split in proportion
    assert [is_good(value) for value in (True, "1", 1.0, "good", "DESIRABLE", "👍")] == [True] * 6
    assert [is_good(value) for value in (False, 0, "0.0", "bad", "Thumbs down", "no")] == [False] * 6
    assert [is_good(value) for value in (None, "", 2, "neutral", [True])] == [None] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row, number: {**row, "label": ("good", "bad", "neutral")[number % 3]}, "'neutral', which is neither good nor bad"),
        (lambda row, number: {**row, "label": True}, "that can be used are good: there is nothing to tell apart"),
        (lambda row, number: {**row, "label": "down"}, "that can be used are bad: there is nothing to tell apart"),
        (lambda row, number: {"prompt": row["prompt"], "label": row["label"]}, "known to hold the answers"),
        (lambda row, number: {"completion": row["completion"], "label": row["label"]}, "known to hold their prompts"),
        (lambda row, number: {"prompt": row["prompt"], "completion": row["completion"]}, "says which answers were good"),
    ],
)
def test_what_cannot_be_learned_from_is_one_clear_message(tmp_path: Path, change: Any, message: str) -> None:
    table = [change(row, number) for number, row in enumerate(judge())]
    with pytest.raises(DataError, match=message) as found:
        load_dataset(Data(path=str(write_lines(tmp_path, table)), task="unpaired_preference"))
    assert found.value.remedy


def test_empty_prompts_and_answers_strange_labels_and_contradictions_are_set_aside_by_name(tmp_path: Path) -> None:
    table: list[dict[str, Any]] = [dict(row) for row in judge()]
    table[3]["completion"] = " "
    table[4]["prompt"] = ""
    table[5]["label"] = "so so"
    table[6]["label"] = None
    table.append({**table[9], "completion": table[9]["completion"].upper() + "!", "label": not table[9]["label"]})
    table.append(dict(table[11]))
    found = load_dataset(Data(path=str(write_lines(tmp_path, table)), task="unpaired_preference"))
    words = {True: "good", False: "bad"}
    assert {row.line: row.reason for row in found.rejected} == {
        4: "completion says nothing",
        5: "prompt says nothing",
        6: "label is 'so so', which says neither good nor bad",
        7: "label is '', which says neither good nor bad",
        10: f"another row calls the same answer to the same prompt {words[not table[9]['label']]}",
        121: f"another row calls the same answer to the same prompt {words[table[9]['label']]}",
    }
    assert found.count == 116
    places = {record.row: part for part, rows in found.records.items() for record in rows}
    assert places[12] == places[122]  # copies stay together


# planted bugs


def test_honest_rows_prove_themselves_by_all_proofs_there_are(bases: Any) -> None:
    work = work_for(bases("llama"), judge())
    found = prove(work, lambda record: family_of("unpaired_preference").serving_inputs(record, work.objective), FOREVER)
    assert len(found) >= 12 and not list(find_disproved(found))
    changes: dict[str, Any] = {"objective.loss": "apo_zero"}
    assert not find_failed(work_for(bases("llama"), judge(), **changes))


def test_labels_that_are_read_the_wrong_way_round_are_caught_by_name(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = UnpairedObjective.prepare
    monkeypatch.setattr(UnpairedObjective, "prepare", lambda self, records: [replace(each, target=1 - each.target) for each in own(self, records)])  # fmt: skip
    found = find_failed(work_for(bases("llama"), judge()))
    assert "would be learned as" in found["the answer is judged and nothing else"]
    assert "the labels are reversed" in found["good answers become likelier and bad ones less"]


def test_a_loss_with_its_sign_turned_is_caught_by_name(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = UnpairedPreference.losses
    monkeypatch.setattr(UnpairedPreference, "losses", lambda self, gained, good, zero: own(self, gained, ~good, zero))
    assert "the labels are reversed" in find_failed(work_for(bases("llama"), judge()))["good answers become likelier and bad ones less"]


def test_mismatched_answers_that_are_the_rows_own_or_to_the_same_prompt_are_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [{**row, "prompt": judge()[number // 2]["prompt"]} for number, row in enumerate(judge())]
    for following in (0, 1):  # the row's own answer; the next row's, whatever its prompt
        monkeypatch.setattr(
            "luthier.objectives.unpaired_preference.find_mismatched",
            lambda rows, following=following: [(row + following) % len(rows) for row in range(len(rows))],
        )
        found = find_failed(work_for(bases("llama"), twice))
        assert "to the row's own prompt" in found["mismatched answers are of other prompts"]


def test_a_mismatched_answer_that_is_another_than_is_said_is_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = UnpairedObjective.prepare

    def leaking(self: Any, records: Any) -> Any:
        """The row's own answer as the mismatched one, said to be the next row's."""
        return [replace(each, facts={**each.facts, MISMATCHED: replace(each, target=None)}) for each in own(self, records)]

    monkeypatch.setattr(UnpairedObjective, "prepare", leaking)
    found = find_failed(work_for(bases("llama"), judge()))
    assert "is not that of the row that it is said to come from" in found["mismatched answers are of other prompts"]
    assert "log probabilities are exact" in found


def test_a_loss_whose_level_is_learned_too_is_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_detached(self: Any, model: Any, batch: Any) -> Loss:
        gained = sum_by_answer(log_probabilities(model, batch, gradient=True) - complete(batch, model), batch.each["tokens"])
        stream = batch.streams[MISMATCHED]
        alone = replace(batch, lengths=stream.lengths, flat=stream.values, streams={})
        with eval_mode(model):
            level = sum_by_answer(
                log_probabilities(model, alone, gradient=True) - complete(alone, model), batch.each["mismatched_tokens"]
            ).mean()
        return Loss(self.spec.losses(gained, batch.each["good"], level).sum(), float(len(batch)))

    monkeypatch.setattr(UnpairedObjective, "loss", not_detached)
    assert (
        "does not follow its log-probability"
        in find_failed(work_for(bases("llama"), judge()))["good answers become likelier and bad ones less"]
    )


def test_a_prompt_that_is_learned_and_an_end_that_is_not_are_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = UnpairedObjective.encode

    def with_prompt(self: Any, position: int, record: Record, messages: Any) -> Any:
        example = own(self, position, record, messages)
        asked = len(example.facts["prompt"])
        return _learning(example, [each or asked - 3 <= place for place, each in enumerate(example.facts["learned"])])

    def without_end(self: Any, position: int, record: Record, messages: Any) -> Any:
        example = own(self, position, record, messages)
        return _learning(example, [*example.facts["learned"][:-1], False])

    for bug, name in ((with_prompt, "the answer is judged and nothing else"), (without_end, "the end is learned")):
        monkeypatch.setattr(UnpairedObjective, "encode", bug)
        assert name in find_failed(work_for(bases("llama"), judge()))


def _learning(example: Example, learned: list[bool]) -> Example:
    """The example with other learned tokens."""
    key = example.facts["key"][1:] + b"b"
    return replace(example, facts={**example.facts, "learned": learned, "lengths": (sum(learned),), "key": key})


def test_a_reference_that_is_another_model_is_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = load_referenced(bases("mistral"), 0.0, trained=False)
    own = UnpairedObjective.begin
    monkeypatch.setattr(UnpairedObjective, "begin", lambda self, model, examples, cache: own(self, other, examples, cache))
    assert "starts as the reference" in find_failed(work_for(bases("llama"), judge()))


# training and judging


@pytest.mark.parametrize("loss", ["kto", "apo_zero"])
def test_training_tells_new_answers_and_training_on_reversed_labels_tells_them_wrong(bases: Any, loss: str) -> None:
    told = []
    for table in (judge()[:90], turn(judge()[:90])):
        changes: dict[str, Any] = {"objective.loss": loss}
        work = work_for(bases("llama"), table, held=judge()[90:], **changes)
        for _ in steps(work):
            pass
        told.append(measure(score(work.model, work.objective, work.validation), ("auc",))["auc"])
    assert told[0] > 0.9
    assert told[1] < 0.1


def test_rows_of_one_kind_in_a_step_are_learned_and_dropout_changes_nothing_that_is_counted(bases: Any) -> None:
    good = sorted(judge(), key=lambda row: not row["label"])
    changes: dict[str, Any] = {"model.dropout": 0.2}
    work = work_for(bases("llama"), good[:40] + good[-4:], held=good[20:30] + good[-10:], **changes)
    seen = list(steps(work))
    assert np.isfinite([step.loss for step in seen]).all() and all(step.count == step.examples for step in seen)
    assert measure(score(work.model, work.objective, work.validation), ("loss",))["loss"] < 0.5


def test_a_step_that_memory_cannot_hold_names_the_batch_size_which_is_all_that_helps(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(self: Any, model: Any, batch: Any) -> Loss:
        raise MemoryError

    monkeypatch.setattr(UnpairedObjective, "loss", too_much)
    with pytest.raises(OutOfMemory, match=r"8 rows of .* go through the model together") as found:
        next(steps(work_for(bases("llama"), judge()[:40])))
    assert "training.batch_size" in found.value.remedy


def test_the_report_tells_drift_both_kinds_length_and_simple_rules(bases: Any) -> None:
    work = work_for(bases("llama"), judge())
    for _ in steps(work):
        pass
    tables = {each["title"]: each["rows"] for each in describe_answers(score(work.model, work.objective, work.validation))["tables"]}
    drifted = {row[0].split(":")[0]: row[1] for row in tables["How far it has gone from the reference"]}
    assert float(drifted["good answers"].split()[0]) > float(drifted["bad answers"].split()[0])
    assert [row[0] for row in tables["'good' against 'bad'"]] == ["sensitivity", "specificity", "AUC"]
    lengths = tables["Is it length that was learned?"]
    assert sum(int(row[1]) for row in lengths[:-1]) == 20 and -1 <= float(lengths[-1][2]) <= 1
    assert [row[0] for row in tables["Good told from bad: AUC"]] == ["longer answers are good", "what the reference finds likelier is good"]
    json.dumps(tables)


def test_where_longer_answers_are_good_that_alone_is_a_baseline_and_is_named(bases: Any) -> None:
    long = [{**row, "completion": row["completion"].replace(" indeed", "") + " and that is all" * row["label"]} for row in judge()]
    work = work_for(bases("llama"), long)
    found = {each.name: measure(each.validation, ("auc", "accuracy", "loss")) for each in trivial_models(work.train, work.validation, work.objective)}  # fmt: skip
    assert found["longer answers are good"]["auc"] == found["longer answers are good"]["accuracy"] == 1.0
    assert found["always good"]["auc"] == 0.5 and found["always good"]["loss"] < 0.5
    short = work_for(bases("llama"), turn(long))
    assert "shorter answers are good" in [each.name for each in trivial_models(short.train, short.validation, short.objective)]


# use


def test_a_bundle_talks_is_a_base_and_its_weights_stand_in_the_experiment(bases: Any, tmp_path: Path) -> None:
    quick = ["training.steps=12", "optimizer.lr=0.003"]
    file = write_lines(tmp_path, judge())
    run = luthier.run(file, base=str(bases("llama").folder), out=tmp_path / "run", set=quick, force=True)
    assert run.verdict is not None and run.verdict["test"]["value"] > 0.9
    assert (run.verdict["task"], run.verdict["metric"]) == ("unpaired_preference", "auc")
    names = {run.verdict["trivial"]["name"], *(other["name"] for other in run.verdict["others"])}
    assert (
        "always good" in names
        and any("er answers are good" in name for name in names)
        and any(name.startswith("what the base finds") for name in names)
    )
    choices = {choice["path"]: choice for choice in run.events_named("created")[0]["choices"]}
    assert choices["objective.undesirable_weight"]["value"] == pytest.approx(53 / 34 / (4 / 3), abs=1e-3)
    assert choices["objective.undesirable_weight"]["reason"].startswith("53 good and 34 bad answers")
    assert isinstance("".join(luthier.chat(run.folder, limit=4).say("what about the river?")), str)
    (said,) = luthier.predict(run.folder, [{"prompt": "what about the stone 3?"}], limit=4)
    assert luthier.predict(run.folder, ["what about the stone 3?"], limit=4)[0]["text"] == said["text"]
    more = luthier.run(
        file, base=str(run.folder), out=tmp_path / "more", set=[*quick, "training.steps=4", "objective.loss=apo_zero"], force=True
    )
    assert {proof["name"]: proof["held"] for proof in more.json("proofs.json")["proofs"]}["starts as the reference"] is True
    pages = (run.folder / "report.html").read_text()
    assert "Is it length that was learned?" in pages and "good (0." in pages


@pytest.mark.parametrize("table", [judge, pairs])
def test_bases_are_not_compared_by_preferences_and_the_message_says_by_what(bases: Any, tmp_path: Path, table: Any) -> None:
    with pytest.raises(
        ExperimentError,
        match=r"similarity is read off classes or answers, and here [\s\S]*`luthier transfer DATA --task [\w]+ --from [\w-]+,OTHER`",
    ):
        luthier.similar(write_lines(tmp_path, table()), [str(bases("llama").folder)])


def test_show_marks_the_answer_and_says_which_way_it_is_to_go(bases: Any, tmp_path: Path) -> None:
    file = write_lines(tmp_path, judge())
    for line, way in ((1, "becomes likelier than it was"), (3, "becomes less likely than it was")):
        shown = luthier.show(file, line, base=str(bases("llama").folder))
        assert isinstance(shown, Shown) and shown.about.endswith(way) and not shown.is_class
        said = "".join(piece for piece, learned in zip(shown.pieces, shown.learned, strict=True) if learned)
        assert judge()[line - 1]["completion"].replace(" ", "") in said.replace(" ", "")
        assert judge()[line - 1]["label"] == ("likelier" in way)


@pytest.mark.parametrize(("label", "kind", "other"), [(True, "good", "bad"), ("no", "bad", "good")])
def test_a_label_that_is_the_same_for_all_answers_is_said_not_to_be_read(tmp_path: Path, label: Any, kind: str, other: str) -> None:
    rows = [{"prompt": f"what is {n}?", "completion": f"it is {n}, as I said", "label": label} for n in range(60)]
    found = load_dataset(Data(path=str(write_lines(tmp_path, rows))), ())
    assert found.spec.task == "chat"
    assert f"'label' calls all answers {kind} and is not read: with {other} ones too, --task unpaired_preference" in found.reason


def test_a_label_of_topics_beside_answers_is_not_said_to_judge_them(tmp_path: Path) -> None:
    rows = [{"prompt": f"what is {n}?", "completion": f"it is {n}, as I said", "label": "arithmetic"} for n in range(60)]
    assert "calls all answers" not in load_dataset(Data(path=str(write_lines(tmp_path, rows))), ()).reason
