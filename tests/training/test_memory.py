"""When memory does not suffice: the same step in more pieces, and the same weights in the end."""

from __future__ import annotations

import gc
import json
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from luthier.core.errors import OutOfMemory, Stopped
from luthier.core.interfaces import NullReporter
from luthier.core.run import Run
from luthier.core.types import Batch, Loss
from luthier.evaluation.score import score
from luthier.models import generate
from luthier.models.memory import is_out_of_memory, smaller_limit
from luthier.models.pretrained import load_tokenizer
from luthier.objectives.classification import ClassificationObjective
from luthier.training.steps import steps
from luthier.training.train import Fit
from luthier.training.watchers import Signals
from tests.conftest import rows
from tests.training.test_steps import close, weights_after, work_for


def scarce(patch: pytest.MonkeyPatch, limit: int, from_call: int = 0) -> list[int]:
    """Memory for so many tokens at once; the sizes that were asked for are noted."""
    own, asked = ClassificationObjective.loss, []

    def loss(self: Any, model: Any, batch: Batch) -> Loss:
        asked.append(int(batch.lengths.sum()))
        found = own(self, model, batch)
        if len(asked) > from_call and asked[-1] > limit:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
            )
        return found

    patch.setattr(ClassificationObjective, "loss", loss)
    return asked


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_that_did_not_fit_is_taken_again_in_pieces_with_the_same_result(
    bases, records, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    whole = weights_after(work_for(bases, records, "classification", training__dtype=dtype), 3)
    asked = scarce(monkeypatch, 50)
    work = work_for(bases, records, "classification", training__dtype=dtype)
    told: list[tuple[int, int]] = []
    work.on_shrink = lambda step, tokens: told.append((step, tokens))
    seen = []
    for step in steps(work):
        seen.append((step.examples, step.count))
        if step.number == 3:
            break
    close(whole, work.masters.weights(), 1e-6 if dtype == "float32" else 2e-3)
    assert seen == [(8, 8.0)] * 3
    assert told[0][0] == 0
    assert max(asked[-8:]) <= 50
    assert all(one > two for (_, one), (_, two) in pairwise(told))


def test_gradients_of_the_failed_attempt_are_thrown_away(bases, records, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first micro-batch succeeds and the second fails: what the first left must not be counted twice."""
    whole = weights_after(work_for(bases, records, "classification"), 2)
    own, calls = ClassificationObjective.loss, []

    def loss(self: Any, model: Any, batch: Batch) -> Loss:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(self, model, batch)

    monkeypatch.setattr(ClassificationObjective, "loss", loss)
    close(whole, weights_after(work_for(bases, records, "classification", training__micro_batch_tokens=70), 2), 1e-6)


def test_one_row_that_does_not_fit_is_an_error_with_its_remedy(bases, records, monkeypatch: pytest.MonkeyPatch) -> None:
    scarce(monkeypatch, 5)
    with pytest.raises(OutOfMemory, match=r"one row of \d+ tokens[\s\S]*objective.max_length"):
        next(steps(work_for(bases, records, "classification")))


def test_another_fault_is_not_taken_for_a_lack_of_memory(bases, records, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(self: Any, model: Any, batch: Batch) -> Loss:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(ClassificationObjective, "loss", loss)
    with pytest.raises(RuntimeError, match="mat1"):
        next(steps(work_for(bases, records, "classification")))


def test_the_allocators_own_words_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_an_evaluation_that_does_not_fit_is_halved_with_the_same_scores(bases, records, monkeypatch: pytest.MonkeyPatch) -> None:
    work = work_for(bases, records, "classification")
    whole = score(work.model, work.objective, work.validation)
    own = ClassificationObjective.score

    def run_short(self: Any, model: Any, batch: Batch) -> Any:
        if len(batch) > 3:
            raise MemoryError
        return own(self, model, batch)

    monkeypatch.setattr(ClassificationObjective, "score", run_short)
    halved = score(work.model, work.objective, work.validation)
    assert halved.loss == pytest.approx(whole.loss, abs=1e-6)
    assert (halved.target == whole.target).all()
    monkeypatch.setattr(ClassificationObjective, "score", lambda self, model, batch: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(OutOfMemory, match="an evaluation"):
        score(work.model, work.objective, work.validation)


def test_answers_that_do_not_fit_are_written_in_smaller_groups(bases, chats, monkeypatch: pytest.MonkeyPatch) -> None:
    work = work_for(bases, chats, "chat")
    tokenizer = load_tokenizer(bases("llama"))
    prompts = [example.tokens[:9] for example in work.train[:5]]
    together = generate.generate_answers(work.model, tokenizer, prompts, 6)
    own = generate._answers

    def run_short(model: Any, tokenizer: Any, few: Any, limit: int) -> list[str]:
        if len(few) > 2:
            raise MemoryError
        return own(model, tokenizer, few, limit)

    monkeypatch.setattr(generate, "_answers", run_short)
    assert generate.generate_answers(work.model, tokenizer, prompts, 6) == together


def test_a_finer_limit_always_makes_more_pieces() -> None:
    lengths = torch.tensor([5, 30, 7, 7, 7])
    batch = Batch(torch.arange(5), lengths, {"tokens": torch.arange(56)}, {})
    limit, pieces = 4096, [1]
    while limit := smaller_limit(limit, len(batch), lambda limit: len(batch.split(limit))):
        pieces.append(len(batch.split(limit)))
    assert pieces == sorted(set(pieces))
    assert pieces[-1] == 5


def test_what_was_decided_for_lack_of_memory_is_kept_and_obeyed_when_the_run_goes_on(
    bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Straight, and stopped and resumed where memory is no longer scarce: the same bits, because the pieces are the same."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({**row, "text": f"{row['text']} {number}"}) + "\n" for number, row in enumerate(rows(120))))
    asked = {
        "base": str(bases("bert").folder),
        "force": True,
        "set": ["training.steps=8", "optimizer.lr=0.003", "model.dropout=0.1", "training.checkpoint_seconds=0"],
    }
    plan = luthier.run(data, out=tmp_path / "plan", plan_only=True, **asked)  # type: ignore[arg-type]

    def go(out: str, stop: int = 0) -> Any:
        own = Fit.finish

        def finish(fit: Fit) -> dict[str, Any]:
            with pytest.MonkeyPatch.context() as patch:
                calls = []
                loss = ClassificationObjective.loss

                def scarce_from_the_third_step(self: Any, model: Any, batch: Batch) -> Loss:
                    calls.append(1)
                    if len(calls) == 3:
                        raise MemoryError
                    return loss(self, model, batch)

                patch.setattr(ClassificationObjective, "loss", scarce_from_the_third_step)
                return own(fit)

        def stop_early(step: Any) -> None:
            if step.number == stop:
                raise Stopped(15)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Fit, "finish", finish)
            return luthier.train(plan.folder / "experiment.yaml", out=tmp_path / out, force=True, watchers=[stop_early])

    straight = go("straight")
    with pytest.raises(Stopped):
        go("stopped", 5)
    resumed = luthier.resume(tmp_path / "stopped")
    for run in (straight, resumed):
        (event,) = run.events_named("shrunk")
        assert event["step"] == 3
    one, two = ((run.folder / "bundle" / "model.safetensors").read_bytes() for run in (straight, resumed))
    assert one == two


def test_a_training_that_nobody_needs_any_more_is_freed_at_once(bases, records, tmp_path: Path) -> None:
    gc.collect()
    gc.disable()  # Python's collector comes by too rarely for gigabytes
    try:
        work = work_for(bases, records, "classification", training__dtype="bfloat16", training__steps=6)
        with Signals() as signals:
            fit = Fit(Run.create(tmp_path / "run"), work, NullReporter(), signals)
            fit.advance(3)
            fit.save_checkpoint()
        held = [weakref.ref(part) for part in (fit, work, work.model, work.masters, *work.masters.weights().values())]
        del fit, work
        assert [part() for part in held] == [None] * len(held)
    finally:
        gc.enable()
