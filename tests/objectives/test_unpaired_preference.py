"""KTO and APO-zero against a few lines from the papers, and the mismatched answers that gains are compared with."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from luthier.core.cache import Cache
from luthier.core.types import Record
from luthier.data.judged_answers import parse_judged_answer
from luthier.evaluation.score import score
from luthier.models.pretrained import load_tokenizer
from luthier.models.referenced import Referenced, load_referenced
from luthier.objectives.unpaired_preference import MISMATCHED, UnpairedObjective, UnpairedPreference, class_weights, find_mismatched
from tests.families.cases import judge

COLUMNS = ("prompt", "completion")


def rows(count: int = 24) -> list[Record]:
    return [Record(number, row) for number, row in enumerate(judge()[:count], 1)]


def move(network: Any, seed: int) -> Any:
    """A network somewhere else."""
    found = copy.deepcopy(network)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    return found


@pytest.fixture(scope="module")
def base(bases: Any) -> Any:
    return bases("llama")


@pytest.fixture(scope="module")
def untouched(base: Any) -> Referenced:
    return load_referenced(base, 0.0, trained=False).eval()


def objective(base: Any, **fields: Any) -> UnpairedObjective:
    return UnpairedPreference(**fields).open(load_tokenizer(base), COLUMNS, "label")


def say(network: Any, tokenizer: Any, prompt: str, answer: str) -> torch.Tensor:
    """An answer's log-probability, by transformers' own network."""
    turns = [{"role": "user", "content": prompt}]
    asked = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True), add_special_tokens=False)[
        "input_ids"
    ]
    tokens = torch.tensor([asked + tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]])
    return network(input_ids=tokens).logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[len(asked) - 1 :, 0].sum()


def plain_loss(policy: Any, reference: Any, base: Any, records: list[Record], spec: UnpairedPreference) -> tuple[torch.Tensor, float]:
    """The mean of TRL's losses (KTOTrainer.kto_loss), an answer at a time; and z0."""
    tokenizer = load_tokenizer(base)
    gains, mismatched = [], []
    for number, record in enumerate(records):
        prompt, other = record.values["prompt"], records[(number + 1) % len(records)].values["completion"]
        gains.append(
            say(policy, tokenizer, prompt, record.values["completion"])
            - say(reference, tokenizer, prompt, record.values["completion"]).detach()
        )
        mismatched.append((say(policy, tokenizer, prompt, other) - say(reference, tokenizer, prompt, other)).detach())
    kl = torch.stack(mismatched).mean().clamp(min=0) if spec.loss == "kto" else torch.zeros(())
    losses = []
    for gain, record in zip(gains, records, strict=True):
        if record.values["label"]:
            losses.append((spec.desirable_weight or 1.0) * (1 - torch.sigmoid(spec.beta * (gain - kl))))
        elif spec.loss == "kto":
            losses.append((spec.undesirable_weight or 1.0) * (1 - torch.sigmoid(spec.beta * (kl - gain))))
        else:
            losses.append((spec.undesirable_weight or 1.0) * torch.sigmoid(spec.beta * gain))
    return torch.stack(losses).mean(), float(kl)


@pytest.mark.parametrize("gains", [True, False])
@pytest.mark.parametrize("fields", [{}, {"beta": 0.5, "desirable_weight": 1.3, "undesirable_weight": 0.7}, {"loss": "apo_zero"}, {"loss": "apo_zero", "undesirable_weight": 2.0}])  # fmt: skip
def test_loss_and_gradients_are_those_of_trl_written_out(base: Any, untouched: Referenced, fields: dict[str, Any], gains: bool) -> None:
    records, at_work = rows(7), objective(base, **fields)
    examples = at_work.prepare(records)
    near, far = untouched.network, move(untouched.network, 3)
    policy, reference = (far, near) if gains else (near, far)  # with this seed the texts are likelier where it was moved to
    at_work.begin(Referenced(copy.deepcopy(reference), 0.0, base, lambda: base).eval(), examples, Cache())
    network = copy.deepcopy(policy)
    model = Referenced(network, 0.0, base, lambda: base).eval()
    loss = at_work.loss(model, at_work.collate(examples, 1, 0))
    plain, kept = (AutoModelForCausalLM.from_pretrained(base.folder, attn_implementation="eager").eval() for _ in range(2))
    plain.load_state_dict(policy.state_dict())
    kept.load_state_dict(reference.state_dict())
    expected, zero = plain_loss(plain, kept, base, records, at_work.spec)
    assert (zero > 0.05) == (gains and at_work.spec.compares)
    assert loss.count == 7
    assert loss.total.item() / loss.count == pytest.approx(expected.item(), rel=1e-5)
    (loss.total / loss.count).backward()
    expected.backward()
    for (name, one), two in zip(network.named_parameters(), plain.parameters(), strict=True):
        ours = one.grad.to_dense() if one.grad.is_sparse else one.grad
        assert two.grad is not None
        torch.testing.assert_close(ours, two.grad, rtol=1e-4, atol=1e-5 * max(1.0, float(two.grad.abs().max())), msg=name)


@pytest.mark.parametrize("loss", ["kto", "apo_zero"])
def test_while_the_model_is_the_reference_each_answer_loses_half_its_weight(base: Any, untouched: Referenced, loss: str) -> None:
    at_work = objective(base, loss=loss, desirable_weight=1.25, undesirable_weight=0.5)
    examples = at_work.prepare(rows())
    at_work.begin(untouched, examples, Cache())
    found = score(untouched, at_work, examples)
    good = np.array([row.values["label"] for row in rows()])
    assert found.loss == pytest.approx(np.where(good, 0.625, 0.25), rel=1e-4)
    assert found.probabilities is not None and found.probabilities == pytest.approx(np.full((24, 2), 0.5), abs=1e-4)
    assert (found.target == good).all() and set(found.more["zero"]) == {found.more["zero"][0]}


def test_held_out_rows_are_compared_with_the_mismatched_answers_of_all_of_them(base: Any, untouched: Referenced) -> None:
    at_work = objective(base)
    examples = at_work.prepare(rows())
    at_work.begin(untouched, examples, Cache())
    policy = Referenced(move(untouched.network, 3), 0.0, base, lambda: base).eval()
    pieces, whole = (score(policy, at_work, examples, tokens=tokens) for tokens in (60, 1 << 20))
    assert whole.more["zero"][0] > 0.05
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-5)
    assert whole.loss.sum() == pytest.approx(at_work.loss(policy, at_work.collate(examples, 0, -1)).total.item(), rel=1e-5)
    assert whole.more["zero"][0] == pytest.approx(max(0.0, float(whole.more["mismatched"].mean())))


def test_a_mismatched_answer_gives_no_gradient_and_moves_the_level_alone(base: Any, untouched: Referenced) -> None:
    at_work = objective(base)
    examples = at_work.prepare(rows(4))
    at_work.begin(Referenced(move(untouched.network, 3), 0.0, base, lambda: base).eval(), examples, Cache())
    batch = at_work.collate(examples, 0, 0)
    assert not at_work.splits and objective(base, loss="apo_zero").splits
    assert list(batch.lengths) == [len(example.tokens) for example in examples]
    assert batch.streams[MISMATCHED].lengths.tolist() == [len(example.facts[MISMATCHED].tokens) for example in examples]
    gained, _ = at_work._score_mismatched(untouched, batch)
    assert not gained.requires_grad
    assert not objective(base, loss="apo_zero").collate(objective(base, loss="apo_zero").prepare(rows(4)), 0, 0).streams


def test_a_row_is_compared_with_the_next_one_that_has_another_prompt() -> None:
    def of(*prompts: str) -> list[int | None]:
        made = [parse_judged_answer({"prompt": each, "completion": "so", "label": 1}, COLUMNS, "label") for each in prompts]
        return find_mismatched(made)

    assert of("a", "b", "c") == [1, 2, 0]
    assert of("a", "a", "b", "B.", "a") == [2, 2, 4, 4, 2]
    assert of("a", "a", "a") == [None, None, None]
    assert of("a") == [None]
    assert of() == []


def test_rows_without_a_mismatched_answer_are_compared_with_nothing(base: Any, untouched: Referenced) -> None:
    at_work = objective(base)
    (example,) = at_work.prepare(rows(1))
    at_work.begin(untouched, [example], Cache())
    found = at_work.score(untouched, at_work.collate([example], 0, -1))
    assert np.isnan(found.more["mismatched"]).all() and found.more["zero"][0] == 0
    assert found.loss[0] == pytest.approx(0.5, rel=1e-4)


def test_only_good_answers_are_references_and_bad_ones_are_shown_as_such(base: Any) -> None:
    at_work = objective(base)
    examples = at_work.prepare(rows())
    assert {examples[row].target for row in at_work.rows_to_answer(examples, 12)} == {1}
    for record, example in zip(rows(), examples, strict=True):
        marked = "" if record.values["label"] else "(a bad answer) "
        assert at_work.reference(example) == marked + record.values["completion"]


def test_an_answer_that_is_cut_off_teaches_nothing_and_is_counted(base: Any, untouched: Referenced) -> None:
    at_work = objective(base, max_length=16)
    examples = at_work.prepare(rows(2))
    assert all(example.units == 0 and example.facts["cut"] > 0 for example in examples)
    at_work.begin(untouched, examples, Cache())
    loss = at_work.loss(untouched, at_work.collate(examples, 0, 0))
    assert (loss.count, float(loss.total.detach())) == (0, 0)


@pytest.mark.parametrize(
    ("good", "bad", "expected"), [(100, 90, (1, 1)), (50, 100, (2, 1)), (200, 100, (1, 1.5)), (100, 100, (1, 1)), (1000, 10, (1, 75))]
)
def test_the_weights_bring_both_kinds_into_the_ratio_that_the_paper_asks_for(good: int, bad: int, expected: tuple[float, float]) -> None:
    assert class_weights(good, bad) == expected
    desirable, undesirable = expected
    assert 1 - 1e-9 <= desirable * good / (undesirable * bad) <= 4 / 3 + 1e-9
