"""The proofs: silent on healthy configurations, and each old training bug is caught by the one that is meant for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from luthier.core.proof import Proof
from luthier.core.types import Example, Loss, Record
from luthier.data import chat
from luthier.families import family_of
from luthier.models import packing, pretrained
from luthier.models.pretrained import load_tokenizer
from luthier.objectives.chat import ChatObjective
from luthier.objectives.classification import ClassificationObjective
from luthier.optim.masters import Masters
from luthier.pilot.stages.prove import serving_function
from luthier.training.assemble import assemble
from luthier.training.prove import MOVE, READ, find_disproved, prove
from luthier.training.steps import Work
from tests.training.test_steps import experiment

FOREVER = 1e6
"""Seconds: no proof stays untried, however busy the machine is."""

HEALTHY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "classifier": ("classification", "bert", {}),
    "smoothed, with dropout and class weights": (
        "classification",
        "roberta",
        {"objective__label_smoothing": 0.1, "objective__class_weights": "balanced", "model__dropout": 0.1},
    ),
    "long rows in windows": (
        "classification",
        "bert",
        {"objective__long_rows": "windows", "objective__max_length": 8, "objective__overlap": 2},
    ),
    "frozen classifier": ("classification", "distilbert", {"adaptation": {"kind": "freeze", "depth": 2}}),
    "chat": ("chat", "llama", {}),
    "chat with dropout": ("chat", "qwen3", {"model__dropout": 0.1, "optimizer": {"kind": "adam", "lr": 1e-3}}),
    "chat with adapters": ("chat", "qwen2", {"adaptation": {"kind": "lora", "rank": 4}}),
}


def pieces(bases: Any, rows: list[Record], task: str, family: str, changes: dict[str, Any]) -> tuple[Work, Callable[[Record], list[int]]]:
    base = bases(family)
    asked = experiment(task, base.name, **changes)
    tokenizer = load_tokenizer(base)
    work = assemble(asked, base, tokenizer, {"train": rows[:40], "validation": rows[40:]})
    return work, serving_function(work.objective, asked.data.task)


def find_failed(bases: Any, rows: list[Record], task: str, family: str | None = None, **changes: Any) -> dict[str, Proof]:
    work, serve = pieces(bases, rows, task, family or ("bert" if task == "classification" else "llama"), changes)
    return {proof.name: proof for proof in find_disproved(prove(work, serve, seconds=FOREVER))}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_configuration_raises_no_alarm_and_leaves_nothing_untried(bases, records, chats, name: str) -> None:
    task, family, changes = HEALTHY[name]
    work, serve = pieces(bases, chats if task == "chat" else records, task, family, changes)
    found = prove(work, serve, seconds=FOREVER)
    assert not list(find_disproved(found)), [proof.claim for proof in find_disproved(found)]
    assert all(proof.held for proof in found)
    reading, asking = family_of(task).proofs()
    assert len(found) == len(reading) + len(READ) + len(asking) + len(MOVE)


# twenty bugs that trainers have had, injected one at a time


def template_twice(patch: pytest.MonkeyPatch) -> None:
    """The rows hold a template already, and it is read as one."""
    plain = chat._guard_turns
    patch.setattr(chat, "_guard_turns", lambda tokenizer, messages: (
        [{**turn, "content": f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>"} if turn["role"] == "user" and "what" in turn["content"] else turn for turn in plain(tokenizer, messages)[0]],
        plain(tokenizer, messages)[1],
    ))  # fmt: skip


def prepare(change: Callable[[Example, Any], Example]) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(patch: pytest.MonkeyPatch) -> None:
        for kind in (ChatObjective, ClassificationObjective):
            own = kind.prepare

            def prepare(self: Any, rows: Any, own: Any = own) -> list[Example]:
                return [change(example, self) for example in own(self, rows)]

            patch.setattr(kind, "prepare", prepare)

    return plant


def change(example: Example, tokens: list[int] | None = None, target: Any = None, **more: Any) -> Example:
    """Other tokens or targets, with the size and units that go with them."""
    tokens, target = example.tokens if tokens is None else tokens, example.target if target is None else target
    units = float(sum(target)) if isinstance(target, list) else example.units
    return replace(example, inputs={**example.inputs, "tokens": tokens}, target=target, size=len(tokens), units=units, **more)


def first_learned_place(example: Example) -> int:
    return example.target.index(True)


def end_masked(example: Example, objective: Any) -> Example:
    return change(example, target=[learned and token != 2 for token, learned in zip(example.tokens, example.target, strict=True)])


def end_missing(example: Example, objective: Any) -> Example:
    return change(example, tokens=example.tokens[:-1], target=example.target[:-1])


def prompt_learned(example: Example, objective: Any) -> Example:
    return change(example, target=[True] * len(example.tokens))


def wrong_marker(example: Example, objective: Any) -> Example:
    """The answer is looked for one token too late, so its first word is not learned."""
    place = first_learned_place(example)
    return change(example, target=[learned and number > place for number, learned in enumerate(example.target)])


def marker_too_early(example: Example, objective: Any) -> Example:
    """The opening of the answer's turn is learned too."""
    place = first_learned_place(example)
    return change(example, target=[learned or place - 3 <= number < place for number, learned in enumerate(example.target)])


def all_masked(example: Example, objective: Any) -> Example:
    return change(example, target=[False] * len(example.tokens))


def cut_answers(example: Example, objective: Any) -> Example:
    """Over-long rows lose their answers."""
    place = first_learned_place(example)
    return change(example, tokens=example.tokens[:place], target=example.target[:place], facts={**example.facts, "cut": 9})


def begin_twice(example: Example, objective: Any) -> Example:
    first = example.tokens[0]
    return change(
        example, tokens=[first, *example.tokens], target=[False, *example.target] if isinstance(example.target, list) else example.target
    )


def whitespace_lost(example: Example, objective: Any) -> Example:
    """The trainer joins prompt and answer without the line end that the server puts there."""
    place = first_learned_place(example) - 1
    return change(
        example, tokens=example.tokens[:place] + example.tokens[place + 1 :], target=example.target[:place] + example.target[place + 1 :]
    )


def no_generation_prompt(patch: pytest.MonkeyPatch) -> None:
    """What is served lacks the opening of the assistant's turn."""
    import luthier.families.chat as place

    own = place.prompt
    patch.setattr(place, "prompt", lambda tokenizer, messages: (own(tokenizer, messages)[0][:-3], ""))


def other_case(patch: pytest.MonkeyPatch) -> None:
    """Training rows are lower-cased, served ones are not."""
    own = ClassificationObjective.prepare

    def prepare(self: Any, rows: Any) -> list[Example]:
        changed = [
            Record(row.row, {**row.values, "text": str(row.values["text"]).upper()} if "label" in row.values else row.values)
            for row in rows
        ]
        return [replace(example, record=row) for example, row in zip(own(self, changed), rows, strict=True)]

    patch.setattr(ClassificationObjective, "prepare", prepare)


def rows_see_each_other(patch: pytest.MonkeyPatch) -> None:
    """Packing without block attention: the whole stream is one row."""
    own = packing.pack
    patch.setattr(pretrained, "pack", lambda lengths, *more: own(lengths.sum()[None], *more))


def positions_run_on(patch: pytest.MonkeyPatch) -> None:
    """Packing without positions that begin anew."""

    def hidden(self: Any, batch: Any) -> torch.Tensor:
        tokens, lengths = batch.flat["tokens"], batch.lengths
        laid = packing.pack(lengths, self.causal, self.dropout_keys, self.dropout, next(self.network.parameters()).dtype)
        return self.body(
            input_ids=tokens[None], position_ids=torch.arange(len(tokens))[None], packing=laid, use_cache=False
        ).last_hidden_state[0]

    patch.setattr(pretrained.PackedNetwork, "hidden_states", hidden)


def mean_of_means(patch: pytest.MonkeyPatch) -> None:
    """Each micro-batch is averaged by itself: short rows count more."""
    for kind in (ChatObjective, ClassificationObjective):
        own = kind.loss

        def loss(self: Any, model: Any, batch: Any, own: Any = own) -> Loss:
            found = own(self, model, batch)
            return Loss(found.total / found.count, 1.0)

        patch.setattr(kind, "loss", loss)


def not_shifted(patch: pytest.MonkeyPatch) -> None:
    """Each token is asked to say itself, not the next one."""
    own = ChatObjective.collate

    def collate(self: Any, examples: Any, seed: int, step: int) -> Any:
        batch = own(self, examples, seed, step)
        learned = torch.tensor([flag for example in examples for flag in example.target])
        return replace(batch, flat={**batch.flat, "next": torch.where(learned, batch.flat["tokens"], -1)})

    patch.setattr(ChatObjective, "collate", collate)


def shift_twice(patch: pytest.MonkeyPatch) -> None:
    """Both the collator and the loss shift the labels."""
    own = ChatObjective.collate

    def collate(self: Any, examples: Any, seed: int, step: int) -> Any:
        batch = own(self, examples, seed, step)
        return replace(batch, flat={**batch.flat, "next": torch.cat([batch.flat["next"][1:], torch.tensor([-1])])})

    patch.setattr(ChatObjective, "collate", collate)


def judge_unmasked(patch: pytest.MonkeyPatch) -> None:
    """Evaluation counts the prompt's tokens too."""
    own = ChatObjective.score

    def score(self: Any, model: Any, batch: Any) -> Any:
        following = torch.cat([batch.flat["tokens"][1:], torch.tensor([2])])
        return own(self, model, replace(batch, flat={**batch.flat, "next": following}))

    patch.setattr(ChatObjective, "score", score)


def gradient_lost(patch: pytest.MonkeyPatch) -> None:
    """The loss is detached from the weights on its way."""
    own = pretrained.PackedNetwork.hidden_states
    patch.setattr(pretrained.PackedNetwork, "hidden_states", lambda self, batch: own(self, batch).detach().requires_grad_())


def labels_rotated(patch: pytest.MonkeyPatch) -> None:
    """The labels of a batch slip by one row, differently in each step."""
    own = ClassificationObjective.collate

    def collate(self: Any, examples: Any, seed: int, step: int) -> Any:
        batch = own(self, examples, seed, step)
        generator = torch.Generator().manual_seed(step)
        target = batch.each["target"]
        return replace(batch, each={**batch.each, "target": torch.randint(0, 2, target.shape, generator=generator)})

    patch.setattr(ClassificationObjective, "collate", collate)


def update_lost(patch: pytest.MonkeyPatch) -> None:
    """The optimizer moves a copy that the network never sees."""

    def step(self: Any, count: float, factor: float) -> float:
        for master in self.outer.values():
            master.grad = None
        return 1.0

    patch.setattr(Masters, "step", step)


BUGS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None], str]] = {
    "the template is applied twice": ("chat", template_twice, "control tokens stand once"),
    "the response marker is found too late": ("chat", prepare(wrong_marker), "trained is served"),
    "the response marker is found too early": ("chat", prepare(marker_too_early), "the answer is learned and nothing else"),
    "the end token is masked because it is also padding": ("chat", prepare(end_masked), "the end is learned"),
    "the end token is missing": ("chat", prepare(end_missing), "the end is learned"),
    "the beginning stands twice": ("classification", prepare(begin_twice), "control tokens stand once"),
    "the beginning stands twice in a conversation": ("chat", prepare(begin_twice), "trained is served"),
    "the prompt is learned": ("chat", prepare(prompt_learned), "the answer is learned and nothing else"),
    "everything is masked": ("chat", prepare(all_masked), "something is learned"),
    "long rows lose their answers": ("chat", prepare(cut_answers), "something is learned"),
    "a line end is lost between prompt and answer": ("chat", prepare(whitespace_lost), "trained is served"),
    "served without the generation prompt": ("chat", no_generation_prompt, "trained is served"),
    "trained in another case than served": ("classification", other_case, "trained is served"),
    "packed rows see each other": ("chat", rows_see_each_other, "a row moves only itself"),
    "packed positions run on": ("classification", positions_run_on, "packed is alone"),
    "the mean of means": ("chat", mean_of_means, "accumulated is whole"),
    "labels are not shifted": ("chat", not_shifted, "packed is alone"),
    "labels are shifted twice": ("chat", shift_twice, "packed is alone"),
    "evaluation counts the prompt": ("chat", judge_unmasked, "judged as trained"),
    "the gradient is lost": ("classification", gradient_lost, "a row moves only itself"),
    "labels slip against their rows": ("classification", labels_rotated, "packed is alone"),
    "the update is lost": ("classification", update_lost, "a few rows can be learned"),
}


@pytest.mark.parametrize("name", BUGS)
def test_an_old_training_bug_is_caught(bases, records, chats, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    task, plant, by = BUGS[name]
    plant(monkeypatch)
    caught = find_failed(bases, chats if task == "chat" else records, task)
    assert by in caught, {proof.name: proof.claim for proof in caught.values()}
