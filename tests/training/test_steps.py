"""The loop against a plain PyTorch loop, and against itself cut into pieces."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from luthier.core.errors import ExperimentError
from luthier.data.batches import choose_rows
from luthier.experiment import Experiment
from luthier.models import memory
from luthier.objectives.classification import ClassificationObjective
from luthier.optim.schedules import share_done
from luthier.training.assemble import assemble
from luthier.training.steps import Work, steps


def experiment(task: str, base: str, **changes: Any) -> Experiment:
    value: dict[str, Any] = {
        "seed": 7,
        "data": {
            "path": "rows.jsonl",
            "task": task,
            "input": ["text"] if task == "classification" else ["prompt"],
            "target": "label" if task == "classification" else "completion",
        },
        "objective": {"kind": task, **({"labels": ["no", "yes"]} if task == "classification" else {})},
        "model": {"base": base, "dropout": 0.0},
        "adaptation": {"kind": "full"},
        "optimizer": {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.1},
        "schedule": {"kind": "linear", "warmup": 0.25},
        "training": {"batch_size": 8, "steps": 4, "dtype": "float32", "micro_batch_tokens": 4096},
    }
    made = Experiment.of(value)
    for path, given in changes.items():
        made = made.replace(path.replace("__", "."), given)
    return made


def work_for(bases: Any, rows: Any, task: str, **changes: Any) -> Work:
    from luthier.models.pretrained import load_tokenizer

    base = bases("bert" if task == "classification" else "llama")
    return assemble(experiment(task, base.name, **changes), base, load_tokenizer(base), {"train": rows[:40], "validation": rows[40:]})


def weights_after(work: Work, count: int) -> dict[str, torch.Tensor]:
    for step in steps(work):
        if step.number == count:
            break
    return {name: master.clone() for name, master in work.masters.weights().items()}


def plain_loop(work: Work, plain: Any, count: int, loss_of: Any) -> None:
    """What a person would write by hand: padded rows, mean loss, torch's AdamW, clipping."""
    training, spec = work.experiment.training, work.masters.spec
    schedule: Any = work.experiment.schedule
    decay = [parameter for name, parameter in plain.named_parameters() if parameter.ndim > 1]
    still = [parameter for name, parameter in plain.named_parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": spec.weight_decay}, {"params": still, "weight_decay": 0.0}], lr=spec.lr
    )
    plain.eval()  # no dropout
    for number in range(count):
        chosen = [work.train[position] for position in choose_rows(number, len(work.train), training.batch_size, work.experiment.seed)]
        longest = max(len(example.tokens) for example in chosen)
        ids = torch.tensor([example.tokens + [0] * (longest - len(example.tokens)) for example in chosen])
        mask = torch.tensor([[1] * len(example.tokens) + [0] * (longest - len(example.tokens)) for example in chosen])
        optimizer.zero_grad()
        loss_of(plain(input_ids=ids, attention_mask=mask).logits, chosen, longest).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), spec.clip)
        for group in optimizer.param_groups:
            group["lr"] = spec.lr * schedule.factor(share_done(number, work.total))
        before = {name: dict(plain.named_parameters())[name].detach().clone() for name in work.masters.sparse_rows}
        optimizer.step()
        with torch.no_grad():  # what no row has is not pulled towards zero
            for name, met in work.masters.sparse_rows.items():
                parameter = dict(plain.named_parameters())[name]
                parameter.copy_(before[name].index_copy_(0, met.tokens, parameter[met.tokens]))


def class_loss(logits: torch.Tensor, chosen: Any, longest: int) -> torch.Tensor:
    return cross_entropy(logits, torch.tensor([example.target for example in chosen]))


def answer_loss(logits: torch.Tensor, chosen: Any, longest: int) -> torch.Tensor:
    labels = torch.tensor([
        [token if learned else -100 for token, learned in zip(example.tokens, example.target, strict=True)] + [-100] * (longest - len(example.tokens)) for example in chosen
    ])  # fmt: skip
    return cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100)


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], tolerance: float) -> None:
    for name, tensor in one.items():
        if name.endswith(("key.bias", ".k.bias")):
            continue  # softmax cancels it: its gradient is rounding noise alone, and Adam blows that up to a step
        assert torch.allclose(tensor, two[name], atol=tolerance), f"{name}: {float((tensor - two[name]).detach().abs().max()):.2e}"


@pytest.mark.parametrize("limit", [100_000, 60])
def test_two_steps_of_classification_equal_a_plain_loop(bases, records, limit: int) -> None:
    work = work_for(bases, records, "classification", training__micro_batch_tokens=limit)
    plain = AutoModelForSequenceClassification.from_pretrained(bases("bert").folder, num_labels=2, attn_implementation="eager")
    plain.load_state_dict(work.model.network.state_dict())
    plain_loop(work, plain, 2, class_loss)
    weights_after(work, 2)
    close(dict(work.model.network.named_parameters()), dict(plain.named_parameters()), 1e-5)


@pytest.mark.parametrize("limit", [100_000, 90])
def test_two_steps_of_chat_equal_a_plain_loop(bases, chats, limit: int) -> None:
    work = work_for(bases, chats, "chat", training__micro_batch_tokens=limit)
    plain = AutoModelForCausalLM.from_pretrained(bases("llama").folder, attn_implementation="eager")
    plain_loop(work, plain, 2, answer_loss)
    close(weights_after(work, 2), dict(plain.named_parameters()), 1e-5)


@pytest.mark.parametrize("task", ["classification", "chat"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_micro_batches_do_not_matter_even_with_dropout(bases, records, chats, task: str, dropout: float) -> None:
    rows = records if task == "classification" else chats
    one, four = (
        weights_after(work_for(bases, rows, task, training__micro_batch_tokens=limit, model__dropout=dropout), 2) for limit in (100_000, 50)
    )
    close(one, four, 1e-5)


@pytest.mark.parametrize("task", ["classification", "chat"])
def test_dropout_changes_what_is_learned(bases, records, chats, task: str) -> None:
    rows = records if task == "classification" else chats
    one, two = (weights_after(work_for(bases, rows, task, model__dropout=dropout), 1) for dropout in (0.0, 0.2))
    assert any(not torch.allclose(one[name], two[name], atol=1e-5) for name in one)


@pytest.mark.parametrize("task", ["classification", "chat"])
def test_a_step_resumed_from_state_equals_the_undisturbed_one_bit_for_bit(bases, records, chats, task: str) -> None:
    rows = records if task == "classification" else chats
    changes = {"model__dropout": 0.2, "training__micro_batch_tokens": 90}
    straight = weights_after(work_for(bases, rows, task, **changes), 4)
    first = work_for(bases, rows, task, **changes)
    weights_after(first, 2)
    kept = {name: tensor.clone() for name, tensor in first.masters.weights().items()}
    state = {name: tensor.clone() for name, tensor in first.masters.state().items()}
    second = work_for(bases, rows, task, **changes)
    second.masters.restore(kept, state)
    for _ in steps(second, start=2):
        pass
    assert all(torch.equal(tensor, second.masters.weights()[name]) for name, tensor in straight.items())


@pytest.mark.parametrize("task", ["classification", "chat"])
def test_bf16_keeps_an_exact_copy_and_follows_fp32(bases, records, chats, task: str) -> None:
    rows = records if task == "classification" else chats
    work = work_for(bases, rows, task, training__dtype="bfloat16")
    low = weights_after(work, 3)
    high = weights_after(work_for(bases, rows, task), 3)
    assert all(tensor.dtype == torch.float32 for tensor in low.values())
    inner = dict(work.model.network.named_parameters())
    for name, tensor in low.items():
        own = (
            inner[name].data.index_select(0, work.masters.sparse_rows[name].tokens)
            if name in work.masters.sparse_rows
            else inner[name].data
        )
        assert torch.equal(own, tensor.bfloat16()), name
    moved = sum(float((low[name] - high[name]).norm()) for name in low) / sum(float(high[name].norm()) for name in high)
    assert moved < 0.02


EMBEDDING = "bert.embeddings.word_embeddings.weight"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_vectors_of_tokens_that_no_row_has_stay_and_the_others_move_as_in_a_whole_table(
    bases, records, monkeypatch, dtype: str
) -> None:
    few = work_for(bases, records, "classification", training__dtype=dtype)
    monkeypatch.setattr("luthier.training.assemble.sparse_tokens", lambda model, examples, objective: {})
    whole = work_for(bases, records, "classification", training__dtype=dtype)
    assert not whole.masters.sparse_rows
    met = few.masters.sparse_rows[EMBEDDING].tokens
    before = dict(few.model.network.named_parameters())[EMBEDDING].detach().clone()
    assert set(met.tolist()) == {token for example in few.train for token in example.tokens}
    assert few.masters.outer[EMBEDDING].shape == (len(met), before.shape[1])
    weights_after(few, 4)
    weights_after(whole, 4)
    now, expected = (dict(work.model.network.named_parameters())[EMBEDDING].detach() for work in (few, whole))
    others = torch.ones(len(now), dtype=torch.bool).index_fill_(0, met, False)
    assert torch.equal(now[others], before[others])
    assert not torch.equal(now[met], before[met])
    assert torch.allclose(now[met].float(), expected[met].float(), atol=1e-5 if dtype == "float32" else 2e-3)


def test_gradients_in_bf16_go_to_the_masters_as_they_come_and_stay_where_nobody_collects(bases, records) -> None:
    work = work_for(bases, records, "classification", training__dtype="bfloat16")
    batch = work.objective.collate(work.train[:4], 1, 0)
    kept = []
    for collecting in (False, True):
        with work.model.dropout_keys.set_keys(1, 0, batch.index, batch.lengths):
            loss = work.objective.loss(work.model, batch)
        with work.masters.collecting() if collecting else contextlib.nullcontext():
            loss.total.backward()
        inner = {name: parameter.grad for name, parameter in work.masters.inner.items()}
        assert all((gradient is None) == collecting for name, gradient in inner.items() if name not in work.masters.sparse_rows)
        kept.append(inner if not collecting else {name: master.grad for name, master in work.masters.outer.items()})
        for parameter in work.masters.inner.values():
            parameter.grad = None
    for name, gradient in kept[1].items():
        if name not in work.masters.sparse_rows:
            assert gradient is not None, name
            assert gradient.dtype == torch.float32, name
            assert torch.equal(gradient, kept[0][name].float()), name


def step_with_a_strange_token(work: Work) -> int:
    """Put a token that no training row holds into a batch, and make its gradients."""
    stranger = next(token for token in range(5, 200) if token not in {token for example in work.train for token in example.tokens})
    batch = work.objective.collate(work.train[:4], 1, 0)
    batch.flat["tokens"][2] = stranger
    with work.model.dropout_keys.set_keys(1, 0, batch.index, batch.lengths):
        loss = work.objective.loss(work.model, batch)
    with work.masters.collecting():
        loss.total.backward()
    return stranger


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gradient_for_a_token_whose_row_is_not_kept_is_an_error_that_names_it(bases, records, dtype: str) -> None:
    work = work_for(bases, records, "classification", training__dtype=dtype)
    stranger = next(token for token in range(5, 200) if token not in set(work.masters.sparse_rows[EMBEDDING].tokens.tolist()))
    with pytest.raises(ExperimentError, match=rf"{EMBEDDING} has a gradient at token {stranger},[\s\S]*drawn_tokens"):
        step_with_a_strange_token(work)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_token_that_the_objective_may_draw_has_a_row_that_moves(bases, records, monkeypatch, dtype: str) -> None:
    monkeypatch.setattr(ClassificationObjective, "drawn_tokens", range(200), raising=False)
    work = work_for(bases, records, "classification", training__dtype=dtype)
    before = dict(work.model.network.named_parameters())[EMBEDDING].detach().clone()
    stranger = step_with_a_strange_token(work)
    work.masters.step(4.0, 1.0)
    assert not torch.equal(dict(work.model.network.named_parameters())[EMBEDDING][stranger], before[stranger])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_were_kept_with_other_rows_are_put_where_they_belong(bases, records, dtype: str) -> None:
    from dataclasses import replace

    first = work_for(bases, records, "classification", training__dtype=dtype)
    weights_after(first, 3)
    kept = {name: tensor.clone() for name, tensor in (first.masters.weights() | first.masters.tokens()).items()}
    state = {name: tensor.clone() for name, tensor in first.masters.state().items()}
    others = [replace(record, values={**record.values, "text": str(record.values["text"]).replace("phone", "mouse")}) for record in records]
    second = work_for(bases, others, "classification", training__dtype=dtype)
    then, now = (set(work.masters.sparse_rows[EMBEDDING].tokens.tolist()) for work in (first, second))
    assert then - now
    assert now - then
    base = dict(second.model.network.named_parameters())[EMBEDDING].detach().clone()
    second.masters.restore(kept, state)
    one, two = (dict(work.model.network.named_parameters())[EMBEDDING].detach() for work in (first, second))
    assert torch.equal(one, two)  # also of tokens that are not met any more
    for token in now - then:
        assert torch.equal(two[token], base[token])
    moments = second.masters.state()[f"{EMBEDDING}/exp_avg"]
    for row, token in enumerate(second.masters.sparse_rows[EMBEDDING].tokens.tolist()):
        before = (
            first.masters.state()[f"{EMBEDDING}/exp_avg"][first.masters.sparse_rows[EMBEDDING].tokens.tolist().index(token)]
            if token in then
            else 0
        )
        assert torch.equal(moments[row], torch.zeros_like(moments[row]) + before)
    weights_after(second, 2)  # and it goes on


def test_a_whole_table_moves_where_it_also_says_the_next_token_or_rows_change(bases, records, chats) -> None:
    assert not work_for(bases, records, "classification", augment__share=0.5).masters.sparse_rows
    base = bases("llama")
    from transformers import AutoConfig

    tied = AutoConfig.from_pretrained(base.folder).tie_word_embeddings
    assert bool(work_for(bases, chats, "chat").masters.sparse_rows) is not tied


def test_dropout_draws_anew_at_each_step(bases, records, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.models.dropout import DropoutKeys

    asked = []
    keyed = DropoutKeys.set_keys

    def note(self: DropoutKeys, seed: int, step: int, index: torch.Tensor, *lengths: Any) -> Any:
        asked.append((seed, step, index.tolist()))
        return keyed(self, seed, step, index, *lengths)

    monkeypatch.setattr(DropoutKeys, "set_keys", note)
    weights_after(work_for(bases, records, "classification", model__dropout=0.2, training__micro_batch_tokens=60), 3)
    assert {seed for seed, _, _ in asked} == {7}
    assert sorted({step for _, step, _ in asked}) == [0, 1, 2]
    assert sum(len(index) for _, step, index in asked if step == 0) == 8


def test_every_example_is_seen_once_an_epoch_in_another_order_each_time() -> None:
    first = [position for step in range(5) for position in choose_rows(step, 33, 8, 3)]
    second = [position for step in range(5, 10) for position in choose_rows(step, 33, 8, 3)]
    assert sorted(first) == sorted(second) == list(range(33))
    assert first != second
    assert first != [position for step in range(5) for position in choose_rows(step, 33, 8, 4)]


def test_balanced_sampling_shows_a_rare_class_as_often_as_the_frequent(bases, records) -> None:
    rare = [record for record in records[:40] if record.values["label"] == "no"] + [r for r in records[:40] if r.values["label"] == "yes"][
        :4
    ]
    work = work_for(bases, [*rare, *records[: 40 - len(rare)], *records[40:]], "classification", training__sampling="balanced")
    work.train = work.train[: len(rare)]
    shown = [example.target for step in range(3) for example in work.examples_of_step(step)]
    assert shown.count(0) == shown.count(1) == 12
    next(steps(work))


def test_a_step_in_which_every_target_is_masked_moves_nothing_and_is_no_divergence(bases, chats, tmp_path: Path) -> None:
    from luthier.core.run import Run
    from luthier.training.watchers import MetricsFile, StopWhereNotFinite

    work = work_for(bases, chats, "chat", training__micro_batch_tokens=60)
    work.train = [replace(example, target=[False] * len(example.tokens), units=0.0) for example in work.train]
    before = {name: master.clone() for name, master in work.masters.weights().items()}
    step = next(steps(work))
    assert (step.loss, step.count, step.gradient_norm) == (0.0, 0.0, 0.0)
    assert all(torch.equal(tensor, work.masters.weights()[name]) for name, tensor in before.items())
    run = Run.create(tmp_path / "run")
    StopWhereNotFinite(work, MetricsFile(run))(step)
    (event,) = run.events_named("nothing_learned")
    assert event["rows"] == [example.record.row for example in work.examples_of_step(0)]


def test_a_chat_run_refuses_balanced_sampling(bases, chats) -> None:
    with pytest.raises(ExperimentError, match="needs classes"):
        work_for(bases, chats, "chat", training__sampling="balanced")


def test_the_reported_loss_is_the_mean_over_what_was_learned(bases, records) -> None:
    work = work_for(bases, records, "classification")
    step = next(steps(work))
    assert step.count == 8
    assert step.examples == 8
    assert step.number == 1
    assert step.total == 4
    assert 0 < step.loss < 5


@pytest.fixture
def unfrozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A collector that passes over nothing, as in a process that no test has prepared."""
    monkeypatch.setattr("luthier.training.steps.gc_frozen", memory.gc_frozen)
    gc.unfreeze()
    yield
    gc.freeze()


def test_what_is_there_before_training_is_passed_over_by_the_collector_until_it_ends(bases, records, unfrozen) -> None:
    walk = steps(work_for(bases, records, "classification"))
    next(walk)
    assert gc.get_freeze_count() > 100_000  # torch and transformers alone have more
    walk.close()
    assert gc.get_freeze_count() == 0


def test_what_somebody_has_frozen_stays_frozen_after_training(bases, records, unfrozen) -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    walk = steps(work_for(bases, records, "classification"))
    next(walk)
    walk.close()
    assert frozen * 0.9 < gc.get_freeze_count() <= frozen  # objects that are not needed any more go as ever
