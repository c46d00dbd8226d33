"""The `openai` client, unchanged: chat, streams, completions, vectors, models, errors, cancellation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

import luthier
from tests.app.server.conftest import SHORT, Client, until

TURNS: Any = [{"role": "user", "content": "what about 3?"}]


@pytest.fixture
def client(chat: Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{chat.port}/v1", api_key=chat.token, max_retries=0) as made:
        yield made


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["talker"]
    assert client.models.retrieve("talker").owned_by == "luthier"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_conversation_is_answered_as_predict_answers_it(client: openai.OpenAI, bundles: Any) -> None:
    said = client.chat.completions.create(model="talker", messages=TURNS, max_tokens=40)
    expected = luthier.predict(bundles("chat"), ["what about 3?"], limit=40)[0]["text"]
    assert (said.choices[0].message.content or "").strip() == expected
    assert said.usage is not None and said.choices[0].finish_reason in ("stop", "length")
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
    assert said.choices[0].finish_reason == "stop" or said.usage.completion_tokens == 40


def test_a_stream_is_the_same_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="talker", messages=TURNS, max_tokens=30, temperature=1.0, seed=5)
    pieces, usage, reasons, roles = "", None, [], []
    for event in client.chat.completions.create(
        model="talker", messages=TURNS, max_tokens=30, temperature=1.0, seed=5, stream=True, stream_options={"include_usage": True}
    ):
        for choice in event.choices:
            pieces += choice.delta.content or ""
            roles += [choice.delta.role] if choice.delta.role else []
            reasons += [choice.finish_reason] if choice.finish_reason else []
        usage = event.usage or usage
    assert (pieces, reasons, roles) == (whole.choices[0].message.content, [whole.choices[0].finish_reason], ["assistant"])
    assert usage == whole.usage


def test_seeds_decide_what_is_drawn(client: openai.OpenAI) -> None:
    def say(seed: int | None) -> Any:
        return (
            client.chat.completions.create(model="talker", messages=TURNS, max_tokens=20, temperature=1.5, seed=seed)
            .choices[0]
            .message.content
        )

    assert say(1) == say(1) != say(2)
    assert say(None) != say(None)


def test_log_probabilities_are_told_token_by_token(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(model="talker", messages=TURNS, max_tokens=5, logprobs=True, top_logprobs=3)
    assert said.choices[0].logprobs is not None
    content = said.choices[0].logprobs.content or []
    assert said.usage is not None and len(content) == said.usage.completion_tokens
    for token in content:
        assert [each.logprob for each in token.top_logprobs] == sorted((each.logprob for each in token.top_logprobs), reverse=True)
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)  # greedy
        assert len(token.top_logprobs) == 3
    assert (
        bytes(byte for token in content for byte in token.bytes or ())
        .decode(errors="replace")
        .startswith(said.choices[0].message.content or "?")
    )


def test_texts_are_continued_several_at_once(client: openai.OpenAI) -> None:
    both = client.completions.create(model="talker", prompt=["the phone", "the film"], max_tokens=6, logprobs=2)
    alone = [client.completions.create(model="talker", prompt=text, max_tokens=6).choices[0].text for text in ("the phone", "the film")]
    assert [choice.text for choice in both.choices] == alone
    logprobs: Any = both.choices[0].logprobs
    assert logprobs.text_offset[0] == 0 and len(logprobs.tokens) == len(logprobs.token_logprobs) <= 6
    parts: dict[int, str] = {0: "", 1: ""}
    for event in client.completions.create(model="talker", prompt=["the phone", "the film"], max_tokens=6, stream=True):
        parts[event.choices[0].index] += event.choices[0].text
    assert [parts[0], parts[1]] == alone


def test_an_answer_ends_before_a_stop_string(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="talker", prompt="the phone", max_tokens=40, temperature=1.0, seed=3).choices[0].text
    stop = whole[10:13]
    cut = client.completions.create(model="talker", prompt="the phone", max_tokens=40, temperature=1.0, seed=3, stop=[stop, "never said"])
    assert cut.choices[0].text == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_errors_are_those_that_its_users_catch(chat: Client, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as bad:
        client.chat.completions.create(model="talker", messages=TURNS, temperature=9)
    assert (bad.value.param, bad.value.code, bad.value.type) == ("temperature", "invalid_value", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        client.chat.completions.create(model="talker", messages=TURNS, tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-5", messages=TURNS)
    with pytest.raises(openai.UnprocessableEntityError, match="do not fit"):
        client.completions.create(model="talker", prompt="word " * 3000)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    assert chat.metric("luthier_failed_total") == 0


def test_closing_a_stream_frees_its_slot(chat: Client, client: openai.OpenAI, slow: None) -> None:
    engine = chat.running.service.model.engine
    assert engine is not None
    before = engine.numbers().cancelled
    stream = client.chat.completions.create(model="talker", messages=TURNS, max_tokens=200, temperature=1.0, seed=1, stream=True)
    next(iter(stream))
    assert engine.numbers().active == 1
    stream.close()
    assert until(lambda: engine.numbers().active == 0)
    assert engine.numbers().cancelled == before + 1
    assert until(lambda: chat.running.service.running == 0)


def test_vectors(bundles: Any, home: Any) -> None:
    running = luthier.serve(bundles("embedding"), port=0, limits=SHORT, say=lambda line: None, wait=False)
    try:
        client = openai.OpenAI(base_url=f"{running.address}/v1", api_key=running.token, max_retries=0)
        name = client.models.list().data[0].id
        texts = ["pizza at the river", "a drum"]
        expected = [row["vector"] for row in luthier.predict(bundles("embedding"), texts)]
        packed = client.embeddings.create(model=name, input=texts)  # the client asks for base64 by itself
        plain = client.embeddings.create(model=name, input=texts, encoding_format="float")
        assert [row.embedding for row in plain.data] == expected
        assert np.array_equal(np.array([row.embedding for row in packed.data], np.float32), np.array(expected, np.float32))
        assert packed.usage.prompt_tokens > 4
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            client.embeddings.create(model=name, input="x", dimensions=7)
        said = Client(running).post("/score", {"text_1": texts[0], "text_2": texts})
        assert [one["score"] for one in said["data"]] == [
            row["similarity"] for row in luthier.predict(bundles("embedding"), [{"anchor": texts[0], "positive": text} for text in texts])
        ]
        client.close()
    finally:
        running.close(0)
