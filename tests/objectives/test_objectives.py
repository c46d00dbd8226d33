"""What is learned, in closed form and against torch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from luthier.models.next_token import next_token_loss
from luthier.models.pretrained import load_tokenizer
from luthier.objectives.classification import Classification
from tests.training.test_steps import experiment, work_for


def zero(work: Any) -> Any:
    with torch.no_grad():
        for parameter in work.model.parameters():
            parameter.zero_()
    return work


@pytest.mark.parametrize("task, expected", [("classification", math.log(2)), ("chat", None)])
def test_a_model_of_zeros_loses_the_logarithm_of_its_choices(bases, records, chats, task: str, expected: float | None) -> None:
    work = zero(work_for(bases, records if task == "classification" else chats, task))
    loss = work.objective.loss(work.model, work.objective.collate(work.train[:8], 0, 0))
    expected = expected or math.log(work.model.network.config.vocab_size)
    assert loss.total.item() / loss.count == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_and_smoothing_equal_torchs(bases, records, smoothing: float, weighted: bool) -> None:
    work = work_for(bases, records, "classification")
    objective: Any = Classification(labels=("no", "yes"), label_smoothing=smoothing, class_weights="balanced" if weighted else "none").open(
        work.objective.tokenizer,
        ("text",),
        "label",  # type: ignore[attr-defined]
    )
    few = [example for example in work.train if example.target == 0][:3] + [example for example in work.train if example.target == 1][:9]
    objective.fit(few)
    weights = torch.tensor([12 / (2 * 3), 12 / (2 * 9)]) if weighted else torch.ones(2)
    batch = objective.collate(few[:7], 0, 0)  # not the rows that the weights come from: there the weights' mean is 1
    loss = objective.loss(work.model.eval(), batch)
    expected = cross_entropy(work.model(batch), batch.each["target"], weight=weights, label_smoothing=smoothing)
    assert loss.total.item() / loss.count == pytest.approx(expected.item(), rel=1e-6)


def test_only_the_answer_and_the_mark_that_ends_it_are_learned(bases, chats) -> None:
    work = work_for(bases, chats, "chat")
    example = work.train[0]
    tokenizer = load_tokenizer(bases("llama"))
    said = [token for token, learned in zip(example.tokens, example.target, strict=True) if learned]
    assert tokenizer.decode(said) == example.record.values["completion"] + "<|im_end|>"
    asked = tokenizer.decode([token for token, learned in zip(example.tokens, example.target, strict=True) if not learned])
    assert asked == f"<|im_start|>user\n{example.record.values['prompt']}<|im_end|>\n<|im_start|>assistant\n"


def test_the_scored_loss_is_the_trained_loss(bases, records, chats) -> None:
    for task, rows in (("classification", records), ("chat", chats)):
        work = work_for(bases, rows, task)
        batch = work.objective.collate(work.train[:6], 0, 0)
        work.model.eval()
        loss, scores = work.objective.loss(work.model, batch), work.objective.score(work.model, batch)
        assert scores.loss.sum() == pytest.approx(loss.total.item(), rel=1e-5)
        assert scores.count.sum() == loss.count


def test_chunked_cross_entropy_equals_torchs_with_its_gradients() -> None:
    torch.manual_seed(0)
    said, weight, target = torch.randn(37, 8), torch.randn(50, 8), torch.randint(0, 50, (37,))
    found = []
    for loss_of in (
        lambda s, w: next_token_loss(s, w, target, chunk=10)[0],
        lambda s, w: cross_entropy(s @ w.t(), target, reduction="sum"),
    ):
        one, two = said.clone().requires_grad_(), weight.clone().requires_grad_()
        (loss_of(one, two) * 0.7).backward()
        found.append((loss_of(one, two).detach(), one.grad, two.grad))
    assert all(torch.allclose(ours, theirs, atol=1e-4, rtol=1e-5) for ours, theirs in zip(*found, strict=True))
    each = next_token_loss(said, weight, target, chunk=10)[1]
    assert torch.allclose(each, cross_entropy(said @ weight.t(), target, reduction="none"), atol=1e-5)


def test_a_token_that_was_held_impossible_costs_what_it_should() -> None:
    """Its probability is zero in fp32, its loss is not infinite."""
    said = torch.tensor([[300.0], [1.0]], requires_grad=True)
    weight, target = torch.tensor([[1.0], [0.5], [-1.0]]), torch.tensor([2, 0])
    total, each = next_token_loss(said, weight, target)
    expected = cross_entropy(said.detach().double() @ weight.double().t(), target, reduction="none")
    assert each.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    total.backward()
    assert said.grad is not None
    assert torch.isfinite(said.grad).all()


def test_a_pair_of_columns_is_read_as_transformers_reads_pairs(bases, records) -> None:
    objective = experiment("classification", "bert").objective.open(load_tokenizer(bases("bert")), ("text", "label"), "label")  # type: ignore[attr-defined]
    example = objective.prepare(records[:1])[0]
    expected = load_tokenizer(bases("bert"))(records[0].values["text"], records[0].values["label"], return_token_type_ids=True)
    assert example.tokens == expected["input_ids"]
    assert example.inputs["segments"] == expected["token_type_ids"]
    assert objective.collate([example], 0, 0).flat["segments"].tolist() == expected["token_type_ids"]


def test_a_row_that_is_too_long_loses_its_end_and_is_counted(bases, chats) -> None:
    from luthier.objectives.chat import Chat

    tokenizer = load_tokenizer(bases("llama"))
    whole = Chat().open(tokenizer, ("prompt",), "completion").prepare(chats[:1])[0]
    short = Chat(max_length=len(whole.tokens) - 2).open(tokenizer, ("prompt",), "completion").prepare(chats[:1])[0]
    assert short.tokens == whole.tokens[:-2]
    assert short.facts["cut"] == 2
    assert whole.facts["cut"] == 0
    assert short.facts["bytes"] < whole.facts["bytes"]
