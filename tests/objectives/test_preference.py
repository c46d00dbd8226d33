"""DPO and IPO against a few lines from the papers, and the reference that is computed once."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from luthier.core.cache import Cache
from luthier.core.types import Record
from luthier.models.pretrained import load_tokenizer
from luthier.models.referenced import Referenced, load_referenced
from luthier.objectives.preference import Preference, PreferenceObjective
from luthier.objectives.reference import Reference
from tests.conftest import BAD, GOOD


def pairs(count: int = 24) -> list[Record]:
    made = []
    for number in range(count):
        better, worse = (f"it was {words[number % 5]}" + " indeed" * (number // step % 3) for words, step in ((GOOD, 1), (BAD, 3)))
        made.append(Record(number + 1, {"prompt": f"what about the phone number {number}?", "chosen": better, "rejected": worse}))
    return made


@pytest.fixture(scope="module")
def base(bases: Any) -> Any:
    return bases("llama")


@pytest.fixture(scope="module")
def reference(base: Any) -> Referenced:
    return load_referenced(base, 0.0, trained=False).eval()


@pytest.fixture(scope="module")
def policy(reference: Referenced) -> Any:
    """The base, somewhere else."""
    moved = copy.deepcopy(reference.network)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    return moved


def objective(base: Any, **fields: Any) -> PreferenceObjective:
    return Preference(**fields).open(load_tokenizer(base), ("prompt",), "chosen")


def plain_loss(policy: Any, reference: Any, base: Any, records: list[Record], spec: Preference) -> torch.Tensor:
    """Rafailov et al. 2023, equation 7; Azar et al. 2023, equation 17: one answer at a time, with transformers' own networks."""
    tokenizer = load_tokenizer(base)
    total = torch.zeros(())
    for record in records:
        ratios = {}
        for side in ("chosen", "rejected"):
            turns = [{"role": "user", "content": record.values["prompt"]}, {"role": "assistant", "content": record.values[side]}]
            asked = tokenizer(
                tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True), add_special_tokens=False
            )["input_ids"]
            answer = tokenizer(record.values[side] + "<|im_end|>", add_special_tokens=False)["input_ids"]
            tokens = torch.tensor([asked + answer])
            said = [
                network(input_ids=tokens).logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[len(asked) - 1 :, 0]
                for network in (policy, reference)
            ]
            ratios[side] = (said[0] - said[1].detach()).mean() if spec.averages else (said[0] - said[1].detach()).sum()
        lead = ratios["chosen"] - ratios["rejected"]
        total = total + ((lead - 1 / (2 * spec.beta)) ** 2 if spec.loss == "ipo" else -torch.log(torch.sigmoid(spec.beta * lead)))
    return total


@pytest.mark.parametrize(
    "fields", [{}, {"beta": 0.5}, {"loss": "ipo"}, {"loss": "ipo", "per_token": False, "beta": 0.3}, {"per_token": True}]
)
def test_loss_and_gradients_are_those_of_the_paper(base: Any, reference: Referenced, policy: Any, fields: dict[str, Any]) -> None:
    records = pairs(6)
    at_work = objective(base, **fields)
    examples = at_work.prepare(records)
    at_work.begin(reference, examples, Cache())
    network = copy.deepcopy(policy)
    model = Referenced(network, 0.0, base, lambda: base).eval()
    loss = at_work.loss(model, at_work.collate(examples, 1, 0))
    plain, untouched = (AutoModelForCausalLM.from_pretrained(base.folder, attn_implementation="eager").eval() for _ in range(2))
    plain.load_state_dict(policy.state_dict())
    expected = plain_loss(plain, untouched, base, records, at_work.spec)
    assert loss.count == 6
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.total.backward()
    expected.backward()
    for (name, one), two in zip(network.named_parameters(), plain.parameters(), strict=True):
        ours = one.grad.to_dense() if one.grad.is_sparse else one.grad
        assert two.grad is not None
        torch.testing.assert_close(ours, two.grad, rtol=1e-4, atol=1e-5 * max(1.0, float(two.grad.abs().max())), msg=name)


@pytest.mark.parametrize(("loss", "start"), [("dpo", math.log(2)), ("ipo", 25.0)])
def test_while_the_model_is_the_reference_the_loss_is_that_of_a_coin(base: Any, reference: Referenced, loss: str, start: float) -> None:
    at_work = objective(base, loss=loss)
    examples = at_work.prepare(pairs())
    at_work.begin(reference, examples, Cache())
    found = at_work.score(reference, at_work.collate(examples, 0, -1))
    assert found.loss == pytest.approx(np.full(len(examples), start), rel=1e-4)
    assert found.more["drift"] == pytest.approx(np.zeros(len(examples)), abs=1e-6)


def test_a_pair_is_one_row_of_both_sides_whose_prompt_goes_through_the_network_once(base: Any, reference: Referenced) -> None:
    at_work = objective(base)
    (example,) = at_work.prepare(pairs(1))
    asked = len(at_work.prompt_tokens(example))
    assert example.size == len(example.tokens) == 2 * asked + sum(example.facts["lengths"])
    assert sum(example.target) == sum(example.facts["lengths"])
    batch = at_work.collate(at_work.prepare(pairs(4)), 0, 0)
    assert [len(part) for part in reference.micro_batches(batch, 1)] == [1, 1, 1, 1]
    shared = reference.shared_prefix(at_work.collate([example], 0, 0))
    assert shared is not None and len(shared.kept) - shared.padding <= asked + sum(example.facts["lengths"])


class Counting:
    """An objective that counts the rows it collates, and stops after some batches."""

    unit = "pair"

    def __init__(self, at_work: PreferenceObjective, stop: int = 1 << 30) -> None:
        self.at_work, self.rows, self.left = at_work, 0, stop

    def collate(self, rows: Any, seed: int, step: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.rows += len(rows)
        return self.at_work.collate(rows, seed, step)


def test_an_interrupted_reference_goes_on_where_it_was_with_the_same_bits(
    base: Any, reference: Referenced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.objectives.reference.ROWS", 5)
    monkeypatch.setattr("luthier.objectives.reference.SECONDS", -1.0)
    at_work = objective(base)
    examples = at_work.prepare(pairs())
    whole = Reference()
    whole.take(at_work, reference, examples, Cache())
    with pytest.raises(KeyboardInterrupt):
        Reference().take(Counting(at_work, stop=2), reference, examples, Cache(tmp_path))
    rest = Counting(at_work)
    again = Reference()
    again.take(rest, reference, examples, Cache(tmp_path))
    assert rest.rows == len(examples) - 10
    assert all(np.array_equal(again.of(example), whole.of(example)) for example in examples)
    nothing = Counting(at_work)
    Reference().take(nothing, reference, examples, Cache(tmp_path))
    assert nothing.rows == 0


def test_what_another_model_or_dtype_said_is_not_taken_for_it(base: Any, bases: Any, tmp_path: Path) -> None:
    at_work = objective(base)
    examples = at_work.prepare(pairs(4))
    at_work.begin(load_referenced(base, 0.0, trained=False), examples, Cache(tmp_path))
    first = at_work.reference_scores.of(examples[0])
    at_work.begin(load_referenced(bases("mistral"), 0.0, trained=False), examples, Cache(tmp_path))
    assert not np.allclose(first, at_work.reference_scores.of(examples[0]))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_an_answer_that_is_cut_off_teaches_nothing_and_is_counted(base: Any) -> None:
    at_work = objective(base, max_length=16)
    (example,) = at_work.prepare(pairs(1))
    assert example.units == 0 and example.facts["cut"] > 0
    batch = at_work.collate([example], 0, 0)
    assert float(batch.each["taught"].sum()) == 0
