import functools
import threading
import time

import pytest
import torch

from luthier.core.errors import ModelError
from luthier.models.precision import round_weights_to
from luthier.models.pretrained import load_generator
from luthier.serving.generation import open_engine
from luthier.serving.interface import EngineClosed, EngineFull, GenerationRequest, RequestRefused


@pytest.fixture(scope="module")
def models(bases):
    return functools.cache(lambda family: load_generator(bases(family), 0.0))


@pytest.fixture
def opened(models):
    """Opens engines, and closes them at the end."""
    engines = []

    def open_one(family="llama", **options):
        engines.append(open_engine(models(family), **({"cache_mib": 2} | options)))
        return engines[-1]

    yield open_one
    for engine in engines:
        engine.close()


def prompts(count, length=12):
    generator = torch.Generator().manual_seed(count)
    return [tuple(torch.randint(5, 300, (length + number,), generator=generator).tolist()) for number in range(count)]


def transformers_answers(model, asked, limit, end=2):
    told = []
    with model.for_generation() as network:
        for prompt in asked:
            ids = torch.tensor([prompt])
            made = network.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, eos_token_id=end, pad_token_id=0
            )
            told.append([number for number in made[0, len(prompt) :].tolist() if number != end])
    return told


def wait_until(true):
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.mark.parametrize("family", ("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "smollm3", "phi3"))
def test_greedy_answers_are_those_of_transformers_alone_and_beside_others(family, models, opened):
    asked = prompts(9)
    wanted = transformers_answers(models(family), asked, 16)
    engine = opened(family, slots=8)
    requests = [GenerationRequest(prompt, 16, stop=frozenset({2})) for prompt in asked]
    assert [[token.id for token in engine.submit(request)] for request in requests] == wanted
    generations = [engine.submit(request) for request in requests]
    assert [[token.id for token in generation] for generation in generations] == wanted
    assert {generation.finish_reason for generation in generations} <= {"stop", "length"}
    numbers = engine.numbers()
    assert (numbers.finished, numbers.active, numbers.waiting) == (18, 0, 0) and numbers.tokens == 2 * sum(map(len, wanted))
    assert ("one request at a time" in engine.about) == (family == "phi3")


def test_an_answer_stays_the_same_when_its_neighbour_is_cancelled_and_the_slot_is_free_at_once(models, opened):
    (kept, gone, third) = prompts(3)
    engine = opened(slots=2)
    neighbour = engine.submit(GenerationRequest(gone, 200))
    generation = engine.submit(GenerationRequest(kept, 40))
    waiting = engine.submit(GenerationRequest(third, 5))
    assert neighbour.next(timeout=60) is not None
    neighbour.cancel()
    assert [token.id for token in generation] == transformers_answers(models("llama"), [kept], 40, -1)[0]
    assert len(list(waiting)) == 5
    list(neighbour)
    assert (neighbour.finish_reason, neighbour.error, engine.numbers().cancelled) == ("cancelled", None, 1)


def test_a_request_that_waits_can_be_cancelled_and_too_many_are_refused(opened):
    engine = opened(slots=1, waiting=1)
    first = engine.submit(GenerationRequest(prompts(1)[0], 200))
    first.next(timeout=60)
    second = engine.submit(GenerationRequest((5,), 5))
    with pytest.raises(EngineFull, match="wait"):
        engine.submit(GenerationRequest((5,), 5))
    second.cancel()
    assert list(second) == [] and second.finish_reason == "cancelled"
    assert first.finish_reason is None
    first.cancel()
    wait_until(lambda: first.done)
    assert len(list(engine.submit(GenerationRequest((5,), 5)))) == 5


def test_what_an_earlier_turn_computed_is_not_computed_again(opened):
    engine = opened()
    prompt = prompts(1, 40)[0]
    first = engine.submit(GenerationRequest(prompt, 20))
    answer = tuple(token.id for token in first)
    second = engine.submit(GenerationRequest((*prompt, *answer, 7, 8), 5))
    list(second)
    assert (first.cached_tokens, second.cached_tokens) == (0, 48)
    assert engine.numbers().cache_hits == 1 and engine.numbers().cached_tokens == 48


def test_an_error_ends_the_request_that_has_it_and_no_other(models, opened, monkeypatch):
    asked = prompts(4)
    wanted = transformers_answers(models("llama"), asked, 20, -1)
    engine = opened()
    decoder = engine._batch.decoder  # pyright: ignore
    step = decoder.step

    def failing(spans):
        if any(123 in span.tokens for span in spans):
            raise MemoryError("planted")
        return step(spans)

    monkeypatch.setattr(decoder, "step", failing)
    generations = [engine.submit(GenerationRequest(prompt, 20)) for prompt in (asked[0], (*asked[1], 123), asked[2])]
    assert [[token.id for token in generations[number]] for number in (0, 2)] == [wanted[0], wanted[2]]
    with pytest.raises(MemoryError, match="planted"):
        list(generations[1])
    assert (generations[1].finish_reason, engine.numbers().failed) == ("error", 1)
    assert [token.id for token in engine.submit(GenerationRequest(asked[3], 20))] == wanted[3]


def test_a_fault_of_the_batch_itself_ends_its_requests_and_the_engine_goes_on(opened, monkeypatch):
    engine = opened()
    with monkeypatch.context() as patch:
        patch.setattr(engine._batch, "_choose_spans", lambda: 1 / 0)  # pyright: ignore
        with pytest.raises(ZeroDivisionError):
            list(engine.submit(GenerationRequest((5, 6), 5)))
    assert len(list(engine.submit(GenerationRequest((5, 6), 5)))) == 5


def test_a_fault_of_the_engine_itself_leaves_nobody_waiting(opened, monkeypatch):
    engine = opened(slots=1)
    monkeypatch.setattr(engine._batch, "leave", lambda text: 1 / 0)
    running, waiting = engine.submit(GenerationRequest((5, 6), 250)), engine.submit(GenerationRequest((5, 6), 250))
    running.next(60)
    running.cancel()
    for each in (running, waiting):
        with pytest.raises(ZeroDivisionError):
            list(each)
    with pytest.raises(EngineClosed):
        engine.submit(GenerationRequest((5, 6), 5))
    assert (engine.numbers().active, engine.numbers().waiting, engine.numbers().failed) == (0, 0, 2)


def test_a_listener_is_called_and_one_that_fails_cancels_its_own_answer_alone(opened):
    engine = opened()
    heard, broken = engine.submit(GenerationRequest((5, 6), 150)), engine.submit(GenerationRequest((7, 8), 200))
    event = threading.Event()
    heard.on_change(event.set)
    broken.on_change(lambda: 1 / 0)
    taken = []
    while not heard.done:
        assert event.wait(60)
        event.clear()
        taken += heard.take()
    taken += heard.take()
    assert len(taken) == 150
    wait_until(lambda: broken.done)
    assert broken.finish_reason == "cancelled"


def test_closing_lets_what_runs_finish_within_the_grace_and_cancels_the_rest(opened):
    engine = opened()
    short = engine.submit(GenerationRequest((5, 6), 5))
    engine.close(grace=60)
    assert short.finish_reason == "length" and not engine._thread.is_alive()
    with pytest.raises(EngineClosed):
        engine.submit(GenerationRequest((5, 6), 5))
    other = opened(slots=1)
    long, waiting = other.submit(GenerationRequest((5, 6), 250)), other.submit(GenerationRequest((5, 6), 250))
    other.close()
    assert (long.finish_reason, waiting.finish_reason) == ("cancelled", "cancelled")


def test_more_requests_than_the_memory_holds_wait_for_it(opened):
    engine = opened(slots=8, cache_mib=1, context=200)
    generations = [engine.submit(GenerationRequest(prompt, 100)) for prompt in prompts(9)]
    assert [len(list(generation)) for generation in generations] == [100] * 9
    assert engine.numbers().cache_bytes <= 2**20


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("prompt", {"prompt": ()}),
        ("prompt", {"prompt": (5, -1)}),
        ("prompt", {"prompt": (5, 10**9)}),
        ("limit", {"limit": 0}),
        ("limit", {"limit": 10**6}),
        ("temperature", {"temperature": -1.0}),
        ("temperature", {"temperature": float("nan")}),
        ("temperature", {"temperature": float("inf")}),
        ("top_p", {"top_p": 0.0}),
        ("top_p", {"top_p": float("nan")}),
        ("top_k", {"top_k": -1}),
        ("logprobs", {"logprobs": 101}),
    ],
)
def test_a_request_that_can_never_be_answered_is_refused_with_its_field(field, options, opened):
    with pytest.raises(RequestRefused, match=field):
        opened().submit(GenerationRequest(**({"prompt": (5, 6), "limit": 5} | options)))


@pytest.mark.parametrize(
    "options", [{"slots": 0}, {"cache_mib": 0}, {"waiting": -1}, {"context": -1}, {"precision": "in8"}, {"precision": "int8"}]
)
def test_an_engine_that_makes_no_sense_or_cannot_be_had_is_refused(options, models):
    with pytest.raises(ModelError):
        open_engine(models("llama"), **options)


@pytest.mark.parametrize("family", ("llama", "gemma3_text"))
def test_weights_in_bf16_are_computed_in_fp32_for_many_at_once_and_it_is_said_how_near_that_is(family, bases, models):
    rounded, plain = (load_generator(bases(family), 0.0) for _ in range(2))
    round_weights_to(rounded.network, torch.bfloat16)
    with torch.no_grad():
        for parameter in plain.network.parameters():
            parameter.copy_(parameter.bfloat16().float())
    answers = []
    for model in (rounded, plain):
        engine = open_engine(model, cache_mib=2)
        try:
            assert engine.numbers().slots > 1
            answers.append([[token.id for token in engine.submit(GenerationRequest(prompt, 12))] for prompt in prompts(5)])
            if model is rounded:
                assert "weights of bfloat16, computed in fp32" in engine.about
                assert engine.parity is not None and 0 < engine.parity.largest < 0.5
            else:
                assert "bfloat16" not in engine.about and engine.parity is None
        finally:
            engine.close()
    assert answers[0] == answers[1]
    assert rounded.network.dtype == torch.bfloat16
