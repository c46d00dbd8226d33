"""Preference pairs: what is recognised and refused, planted bugs that are caught by name, what a reversed preference does, and what a bundle is good for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.core.errors import DataError, LuthierError, ModelError
from luthier.core.types import Loss, Record
from luthier.data.spec import Data
from luthier.evaluation.metrics import measure
from luthier.evaluation.score import score
from luthier.families import family_of
from luthier.families.preference_report import describe_pairs, trivial_models
from luthier.families.recognise import load_dataset
from luthier.models.pretrained import load_tokenizer
from luthier.models.referenced import load_referenced
from luthier.objectives.preference import Preference, PreferenceObjective
from luthier.pilot.show import Shown
from luthier.training.assemble import assemble
from luthier.training.prove import find_disproved, prove
from luthier.training.steps import Work, steps
from tests.families.cases import pairs, write_lines
from tests.training.test_steps import experiment

FOREVER = 1e6


def work_for(base: Any, table: list[dict[str, Any]], held: list[dict[str, Any]] | None = None, **changes: Any) -> Work:
    """Everything that a run needs, on these pairs."""
    records = [Record(number, row) for number, row in enumerate(table, 1)]
    validation = [Record(number, row) for number, row in enumerate(held or table[-20:], 1000)]
    asked = experiment("classification", base.name)
    asked = asked.model_copy(
        update={
            "objective": Preference(),
            "data": Data(path="rows.jsonl", task="preference", input=("prompt",), target="chosen"),
        }
    )
    for path, value in {"adaptation.kind": "lora", "optimizer.lr": 3e-3, "training.steps": 20, **changes}.items():
        asked = asked.replace(path, value)
    return assemble(asked, base, load_tokenizer(base), {"train": records, "validation": validation})


def find_failed(work: Work) -> set[str]:
    """The proofs that failed."""
    return {
        proof.name
        for proof in find_disproved(prove(work, lambda record: family_of("preference").serving_inputs(record, work.objective), FOREVER))
    }


def turn(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs, the other way round."""
    return [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in table]


# rows


def test_pairs_are_recognised_with_their_prompt_however_it_is_laid_out(tmp_path: Path) -> None:
    plain = pairs()
    layouts: dict[str, Any] = {
        "prompt": plain,
        "conversations": [
            {"conversations": [{"from": "human", "value": row["prompt"]}], **{side: {"from": "gpt", "value": row[side]} for side in ("chosen", "rejected")}}
            for row in plain
        ],
        "chosen": [
            {side: [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
            for row in plain
        ],
    }  # fmt: skip
    for column, table in layouts.items():
        found = load_dataset(Data(path=str(write_lines(tmp_path, table))))
        assert (found.spec.task, found.spec.input, found.spec.target, found.count) == ("preference", (column,), "chosen", 120)
        assert not [finding for finding in found.findings if finding.check == "columns.unread"]


def test_pairs_without_a_prompt_or_an_answer_column_are_refused_with_what_to_name(tmp_path: Path) -> None:
    bare = write_lines(tmp_path, [{"chosen": row["chosen"], "rejected": row["rejected"]} for row in pairs()])
    with pytest.raises(DataError, match="no column holds their prompt"):
        load_dataset(Data(path=str(bare), task="preference"))
    single = write_lines(tmp_path, [{"prompt": row["prompt"], "chosen": row["chosen"]} for row in pairs()])
    with pytest.raises(DataError, match="no column 'rejected'"):
        load_dataset(Data(path=str(single), task="preference"))


def test_equal_answers_empty_ones_and_pairs_that_contradict_each_other_are_set_aside_by_name(tmp_path: Path) -> None:
    table = pairs()
    table[3] = {**table[3], "rejected": table[3]["chosen"] + " "}
    table[4] = {**table[4], "chosen": ""}
    table.append(turn(table[7:8])[0])
    found = load_dataset(Data(path=str(write_lines(tmp_path, table))))
    assert {row.line: row.reason for row in found.rejected} == {
        4: "chosen and rejected are the same",
        5: "chosen says nothing",
        8: "another row prefers the answers the other way round",
        121: "another row prefers the answers the other way round",
    }
    assert found.count == 117


def test_only_unusable_pairs_are_one_clear_message(tmp_path: Path) -> None:
    same = [{**row, "rejected": row["chosen"]} for row in pairs()]
    with pytest.raises(LuthierError, match="chosen and rejected are the same"):
        load_dataset(Data(path=str(write_lines(tmp_path, same))))


# planted bugs


def test_honest_pairs_prove_themselves(bases: Any) -> None:
    assert not find_failed(work_for(bases("llama"), pairs()))


def test_pairs_that_are_read_the_wrong_way_round_are_caught_by_name(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = PreferenceObjective._prepare

    def reversed_sides(self: Any, position: int, record: Record) -> Any:
        values = {**record.values, "chosen": record.values["rejected"], "rejected": record.values["chosen"]}
        return replace(own(self, position, replace(record, values=values)), record=record)

    monkeypatch.setattr(PreferenceObjective, "_prepare", reversed_sides)
    found = find_failed(work_for(bases("llama"), pairs()))
    assert {"both answers are compared and nothing else", "the better answer is preferred"} <= found


def test_a_loss_with_its_sign_turned_is_caught_by_name(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = PreferenceObjective._lead
    monkeypatch.setattr(PreferenceObjective, "_lead", lambda self, gained, batch: -own(self, gained, batch))
    work = work_for(bases("llama"), pairs())
    (proof,) = [each for each in prove(work, lambda record: family_of("preference").serving_inputs(record, work.objective), FOREVER) if each.name == "the better answer is preferred"]  # fmt: skip
    assert proof.held is False
    assert "the preference is reversed" in proof.claim


def test_a_reference_that_is_another_model_is_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = load_referenced(bases("mistral"), 0.0, trained=False)
    own = PreferenceObjective.begin
    monkeypatch.setattr(PreferenceObjective, "begin", lambda self, model, examples, cache: own(self, other, examples, cache))
    assert "starts as the reference" in find_failed(work_for(bases("llama"), pairs()))


def test_a_prompt_that_is_learned_and_an_end_that_is_not_are_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = PreferenceObjective._prepare

    def with_prompt(self: Any, position: int, record: Record) -> Any:
        example = own(self, position, record)
        asked = len(example.facts["prompt"])
        first, second = example.facts["lengths"]
        learned = list(example.target)
        learned[asked - 3 : asked] = [True] * 3
        return replace(
            example, target=learned, facts={**example.facts, "lengths": (first + 3, second), "key": example.facts["key"][1:] + b"p"}
        )

    def without_end(self: Any, position: int, record: Record) -> Any:
        example = own(self, position, record)
        first, second = example.facts["lengths"]
        learned = list(example.target)
        learned[example.inputs["place"].index(0, 1) - 1] = learned[-1] = False
        return replace(
            example, target=learned, facts={**example.facts, "lengths": (first - 1, second - 1), "key": example.facts["key"][1:] + b"e"}
        )

    for bug, name in ((with_prompt, "both answers are compared and nothing else"), (without_end, "both ends are learned")):
        monkeypatch.setattr(PreferenceObjective, "_prepare", bug)
        assert name in find_failed(work_for(bases("llama"), pairs()))


def test_a_loss_that_forgets_the_worse_answer_is_caught(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def better_alone(self: Any, model: Any, batch: Any) -> Loss:
        from luthier.objectives.preference import by_side
        from luthier.objectives.reference import complete, log_probabilities

        gained = by_side(log_probabilities(model, batch, gradient=True) - complete(batch, model), batch)
        return Loss(self.spec.losses(gained[:, 0]).sum(), float(len(batch)))

    monkeypatch.setattr(PreferenceObjective, "loss", better_alone)
    assert "the better answer is preferred" in find_failed(work_for(bases("llama"), pairs()))


# training


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_training_tells_new_pairs_and_training_on_reversed_ones_tells_them_wrong(bases: Any, loss: str) -> None:
    told = []
    for table in (pairs()[:90], turn(pairs()[:90])):
        changes: dict[str, Any] = {"objective.loss": loss}
        work = work_for(bases("llama"), table, held=pairs()[90:], **changes)
        for _ in steps(work):
            pass
        told.append(measure(score(work.model, work.objective, work.validation), ("pair_accuracy",))["pair_accuracy"])
    assert told[0] > 0.9
    assert told[1] < 0.1


def test_adapters_leave_the_reference_as_it_was(bases: Any) -> None:
    work = work_for(bases("llama"), pairs())
    before = {name: value.clone() for name, value in work.model.network.named_parameters() if "lora" not in name}
    for _ in steps(work):
        pass
    assert all((before[name] == value).all() for name, value in work.model.network.named_parameters() if name in before)


# judging


def trained_scores(bases: Any) -> Any:
    work = work_for(bases("llama"), pairs())
    for _ in steps(work):
        pass
    return work, score(work.model, work.objective, work.validation)


def test_the_report_tells_drift_both_answers_length_and_simple_rules(bases: Any) -> None:
    _, scores = trained_scores(bases)
    tables = {each["title"]: each["rows"] for each in describe_pairs(scores)["tables"]}
    (drifted,) = [row for row in tables["How far it has gone from the reference"] if row[0].startswith("drift")]
    assert float(drifted[1].split()[0]) > 0
    lengths = tables["Is it length that was learned?"]
    assert {row[0] for row in lengths} <= {"longer", "shorter", "as long"} and sum(int(row[1].split()[0]) for row in lengths) == 20
    assert [row[0] for row in tables["Pairs told right"]] == ["the longer answer is better", "what the reference finds likelier is better"]
    json.dumps(tables)


def test_where_longer_answers_are_better_that_alone_is_a_baseline_and_is_named(bases: Any) -> None:
    long = [{**row, "chosen": row["chosen"] + " and that is all", "rejected": row["rejected"].removesuffix(" indeed")} for row in pairs()]
    work = work_for(bases("llama"), long)
    found = {each.name: measure(each.validation, ("pair_accuracy",))["pair_accuracy"] for each in trivial_models(work.train, work.validation, work.objective)}  # fmt: skip
    assert found["the longer answer is better"] == 1.0
    short = work_for(bases("llama"), turn(long))
    names = [each.name for each in trivial_models(short.train, short.validation, short.objective)]
    assert names[0] == "the shorter answer is better"


def test_what_the_base_finds_likelier_is_what_transformers_says(bases: Any) -> None:
    work = work_for(bases("llama"), pairs())
    scores = score(work.model, work.objective, work.validation)
    rule = trivial_models(work.train, work.validation, work.objective)[1]
    lead = scores.more["reference_chosen"] - scores.more["reference_rejected"]
    expected = float((lead > 0).mean())
    found = measure(rule.validation, ("pair_accuracy",))["pair_accuracy"]
    assert found == pytest.approx(expected if "less" not in rule.name else 1 - expected)


# use


def test_a_bundle_talks_is_a_base_and_is_measured_against_what_it_was_trained_from(bases: Any, tmp_path: Path) -> None:
    from luthier.delivery.bundle import open_bundle
    from luthier.models.store import resolve

    base = tmp_path / "base"
    (tmp_path / "base").symlink_to(bases("llama").folder)
    quick = ["training.epochs=2", "optimizer.lr=0.003"]
    file = write_lines(tmp_path, pairs())
    run = luthier.run(file, base=str(base), out=tmp_path / "run", set=quick, force=True)
    assert run.verdict is not None and run.verdict["test"]["value"] > 0.9
    names = {run.verdict["trivial"]["name"], *(other["name"] for other in run.verdict["others"])}
    assert any("answer is better" in name for name in names) and any(name.startswith("what the base finds") for name in names)
    assert list((run.folder / "cache").glob("reference-*.safetensors"))
    assert isinstance("".join(luthier.chat(run.folder, limit=4).say("what about the river?")), str)
    (said,) = luthier.predict(run.folder, [{"prompt": "what about the stone 3?"}], limit=4)
    assert isinstance(said["text"], str)
    more = luthier.run(file, base=str(run.folder), out=tmp_path / "more", set=[*quick, "training.epochs=1"], force=True)
    proofs = {proof["name"]: proof["held"] for proof in more.json("proofs.json")["proofs"]}
    assert proofs["starts as the reference"] is True  # the bundle itself is the reference then
    chats = tmp_path / "chats"
    chats.mkdir()
    talk = write_lines(chats, [{"prompt": row["prompt"], "completion": f"{row['prompt']} {row['chosen']}"} for row in pairs()])
    after = luthier.run(talk, base=str(run.folder), out=tmp_path / "talk", set=quick, force=True)
    assert after.verdict is not None and after.verdict["task"] == "chat"
    base.unlink()
    found = resolve(str(run.folder))
    model, objective = open_bundle(found, load_tokenizer(found))
    with pytest.raises(ModelError, match="measured against"):
        score(model, objective, objective.prepare([Record(1, pairs()[0]), Record(2, pairs()[1])]))


def test_a_run_from_adapters_and_one_with_all_weights_moving_have_the_same_reference(bases: Any) -> None:
    known = []
    for kind in ("lora", "full"):
        changes: dict[str, Any] = {"adaptation.kind": kind}
        work = work_for(bases("llama"), pairs()[:40], **changes)
        known.append([work.objective.reference_scores.of(example) for example in work.train])  # type: ignore[attr-defined]
    assert all((one == other).all() for one, other in zip(*known, strict=True))


def test_show_marks_both_answers_and_says_which_is_to_gain(bases: Any, tmp_path: Path) -> None:
    shown = luthier.show(write_lines(tmp_path, pairs()), 1, base=str(bases("llama").folder))
    assert isinstance(shown, Shown) and shown.target == "" and not shown.is_class
    said = "".join(piece if learned else "\0" for piece, learned in zip(shown.pieces, shown.learned, strict=True))
    better, worse = (part for part in said.split("\0") if part)
    assert pairs()[0]["chosen"].replace(" ", "") in better.replace(" ", "")
    assert pairs()[0]["rejected"].replace(" ", "") in worse.replace(" ", "")
    assert shown.about.startswith("that the first answer (") and "against the second one (" in shown.about


@pytest.mark.parametrize(
    ("names", "said", "remedy"),
    [
        (("prompt", "chosen"), "a column 'chosen' and none called 'rejected'", "add 'rejected'"),
        (("prompt", "rejected"), "a column 'rejected' and none called 'chosen'", "add 'chosen'"),
        (
            ("prompt", "better", "worse"),
            "'better' and 'worse' look like a better and a worse answer",
            "rename better to chosen and worse to rejected",
        ),
        (
            ("question", "Good", "Bad"),
            "'Good' and 'Bad' look like a better and a worse answer",
            "rename Good to chosen and Bad to rejected",
        ),
    ],
)
def test_half_of_a_pair_and_answers_under_other_names_are_said_to_be_so(
    tmp_path: Path, names: tuple[str, ...], said: str, remedy: str
) -> None:
    rows = [dict(zip(names, (f"what is {n}?", f"it is {n}, as I said", f"nobody knows {n} at all"), strict=False)) for n in range(60)]
    with pytest.raises(DataError, match=said) as problem:
        load_dataset(Data(path=str(write_lines(tmp_path, rows))), ())
    assert remedy in problem.value.remedy


def test_a_class_beside_a_column_called_chosen_is_learned_as_ever(tmp_path: Path) -> None:
    rows = [{"text": f"a text about number {n}", "chosen": f"note {n}", "label": "ab"[n % 2]} for n in range(60)]
    assert load_dataset(Data(path=str(write_lines(tmp_path, rows))), ()).spec.task == "classification"
