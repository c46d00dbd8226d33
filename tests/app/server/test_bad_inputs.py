"""Whatever is wrong with a request, the answer is a 4xx in OpenAI's shape that names the field; never a 500, never silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import luthier
from tests.app.server.conftest import SHORT, Client

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
TURNS = [{"role": "user", "content": "what about 3?"}]


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "talker", "messages": TURNS, "max_tokens": 2, **changes}


def complete(**changes: Any) -> dict[str, Any]:
    return {"model": "talker", "prompt": "the phone", "max_tokens": 2, **changes}


FIELDS: list[tuple[str, dict[str, Any], int, str]] = [
    (CHAT, chat(temperature=-1), 400, "temperature"),
    (CHAT, chat(temperature=1e9), 400, "temperature"),
    (CHAT, chat(temperature="warm"), 400, "temperature"),
    (CHAT, chat(temperature=True), 400, "temperature"),
    (CHAT, chat(top_p=0), 400, "top_p"),
    (CHAT, chat(top_p=2), 400, "top_p"),
    (CHAT, chat(top_k=-1), 400, "top_k"),
    (CHAT, chat(max_tokens=0), 400, "max_tokens"),
    (CHAT, chat(max_tokens=-1), 400, "max_tokens"),
    (CHAT, chat(max_tokens=10**9), 400, "max_tokens"),
    (CHAT, chat(max_tokens=1.5), 400, "max_tokens"),
    (CHAT, chat(max_tokens=2, max_completion_tokens=2), 400, "max_tokens"),
    (CHAT, chat(n=10**6), 400, "n"),
    (CHAT, chat(stop=["x"] * 10_000), 400, "stop"),
    (CHAT, chat(stop=["x" * 5000]), 400, "stop.0"),
    (CHAT, chat(stop=[7]), 400, "stop.0"),
    (CHAT, chat(seed=2**70), 400, "seed"),
    (CHAT, chat(top_logprobs=10**6, logprobs=True), 400, "top_logprobs"),
    (CHAT, chat(top_logprobs=2), 400, "top_logprobs"),
    (CHAT, chat(logit_bias={"9999999": 5}), 400, "logit_bias"),
    (CHAT, chat(presence_penalty=1), 400, "presence_penalty"),
    (CHAT, chat(stream_options={"include_usage": True}), 400, "stream_options"),
    (CHAT, chat(response_format={"type": "json"}), 400, "response_format"),
    (CHAT, chat(tools=[{"type": "function", "function": {"name": "f"}}]), 400, "tools"),
    (CHAT, chat(chat_template="{{ cycler.__init__ }}"), 400, "chat_template"),
    (CHAT, chat(chat_template_kwargs={"chat_template": "x", "tokenize": False}), 400, "chat_template_kwargs"),
    (CHAT, chat(prompt_embeds="AAAA"), 400, "prompt_embeds"),
    (CHAT, chat(extra_body={"x": 1}), 400, "extra_body"),
    (CHAT, chat(temprature=0.1), 400, "temprature"),
    (CHAT, chat(model="../../etc/passwd"), 404, "model"),
    (CHAT, {"messages": TURNS}, 400, "model"),
    (CHAT, {"model": "talker"}, 400, "messages"),
    (CHAT, chat(messages=[]), 400, "messages"),
    (CHAT, chat(messages="hello"), 400, "messages"),
    (CHAT, chat(messages=[{"role": "user"}]), 400, "messages.0.content"),
    (CHAT, chat(messages=[{"role": "user", "content": " "}]), 400, "messages"),
    (CHAT, chat(messages=[{"role": "tool", "content": "x"}]), 400, "messages.0.role"),
    (CHAT, chat(messages=[*TURNS, {"role": "system", "content": "x"}]), 400, "messages"),
    (CHAT, chat(messages=[*TURNS, {"role": "assistant", "content": "The answer is"}]), 400, "messages"),
    (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]),
        400,
        "messages.0.content.0.image_url",
    ),
    (CHAT, chat(messages=[{"role": "user", "content": "word " * 2000}]), 422, "messages"),
    (CHAT, chat(max_tokens=250), 422, "max_tokens"),
    (CHAT, {name: value for name, value in chat(max_completion_tokens=250).items() if name != "max_tokens"}, 422, "max_completion_tokens"),
    (COMPLETE, complete(prompt=""), 400, "prompt"),
    (COMPLETE, complete(prompt=[]), 400, "prompt"),
    (COMPLETE, complete(prompt=[10**7]), 400, "prompt"),
    (COMPLETE, complete(prompt=[-1]), 400, "prompt.0"),
    (COMPLETE, complete(prompt={"a": 1}), 400, "prompt"),
    (COMPLETE, complete(prompt=["x"] * 40), 400, "prompt"),
    (COMPLETE, complete(prompt="word " * 2000), 422, "prompt"),
    (COMPLETE, complete(logprobs=10**6), 400, "logprobs"),
    (COMPLETE, complete(response_format={"type": "json"}), 400, "response_format"),
    (COMPLETE, complete(response_format={"type": "json_object"}, stop="}"), 400, "stop"),
    (COMPLETE, complete(echo=True), 400, "echo"),
    (COMPLETE, complete(best_of=4), 400, "best_of"),
    ("/v1/embeddings", {"model": "talker", "input": "x"}, 404, "model"),
    ("/classify", {"input": "x"}, 404, "model"),
    ("/score", {"text_1": "x", "text_2": "y"}, 404, "model"),
    ("/predict", {"rows": ["what about 3?"], "top": 2}, 400, "top"),
    ("/predict", {"rows": ["what about 3?"], "limit": 10**9}, 400, "limit"),
    ("/predict", {"rows": ["what about 3?", "word " * 2000]}, 422, "rows"),
]
CLASSES: list[tuple[str, dict[str, Any], int, str]] = [
    ("/predict", {"rows": []}, 400, "rows"),
    ("/predict", {"rows": "the phone"}, 400, "rows"),
    ("/predict", {"rows": [7]}, 400, "rows.0"),
    ("/predict", {"rows": [{"txt": "x"}]}, 400, "rows"),
    ("/predict", {"rows": [{"text": 7}]}, 400, "rows"),
    ("/predict", {"rows": [{"text": ["x"]}]}, 400, "rows"),
    ("/predict", {"rows": [{"text": None}]}, 400, "rows"),
    ("/predict", {"rows": [""]}, 400, "rows"),
    ("/predict", {"rows": ["x"] * (SHORT.rows + 1)}, 400, "rows"),
    ("/predict", {"rows": ["x" * (SHORT.characters + 1)]}, 422, "rows"),
    ("/predict", {"rows": ["x", "word " * 2000]}, 422, "rows"),
    ("/classify", {"input": ["x", "word " * 2000]}, 422, "input"),
    ("/predict", {"rows": ["x"], "top": 0}, 400, "top"),
    ("/predict", {"rows": ["x"], "limit": 16}, 400, "limit"),
    ("/predict", {"rows": ["x"], "abstain_below": 7}, 400, "abstain_below"),
    ("/predict", {"rows": ["x"], "error_below": 0}, 400, "error_below"),
    ("/classify", {"input": "x", "error_below": 1e-9}, 400, "error_below"),
    ("/classify", {"input": "x", "error_below": 0.5, "abstain_below": 0.5}, 400, "abstain_below"),
    ("/classify", {"input": "x", "model": "http://169.254.169.254/"}, 404, "model"),
    ("/classify", {"input": None}, 400, "input"),
    ("/classify", {"inputs": "x"}, 400, "inputs"),
    ("/classify", {"input": [["x"]]}, 400, "input.0"),
    (CHAT, {"model": "classification-run", "messages": TURNS}, 404, "model"),
    (COMPLETE, {"model": "classification-run", "prompt": "x"}, 404, "model"),
]


def check(client: Client, path: str, body: dict[str, Any], status: int, param: str) -> None:
    found, said, _ = client("POST", path, body)
    assert (found, said["error"]["param"]) == (status, param), said
    assert set(said["error"]) == {"message", "type", "param", "code"}
    assert said["error"]["message"]


@pytest.mark.parametrize("family", ["causal_lm", "translation"])
def test_a_model_that_writes_text_takes_a_limit_whatever_its_family(bundles: Any, home: Path, family: str) -> None:
    running = luthier.serve(bundles(family), port=0, limits=SHORT, say=lambda line: None, log=lambda line: None, wait=False)
    try:
        client = Client(running)
        example = client("GET", "/info")[1]["model"]["example"]
        assert len(client.post("/predict", {"rows": [example], "limit": 2})["data"]) == 1
    finally:
        running.close(0)


@pytest.mark.parametrize(("path", "body", "status", "param"), FIELDS)
def test_a_wrong_field_of_a_request_for_text_is_named(chat: Client, path: str, body: dict[str, Any], status: int, param: str) -> None:
    check(chat, path, body, status, param)


@pytest.mark.parametrize(("path", "body", "status", "param"), CLASSES)
def test_a_wrong_field_of_a_request_for_classes_is_named(
    classifier: Client, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    check(classifier, path, body, status, param)


def test_a_text_that_is_longer_than_the_model_reads_is_refused_before_it_waits_with_its_tokens_and_the_limit(classifier: Client) -> None:
    model: Any = classifier.running.service.model
    text = "the phone was great " * 200
    tokens = len(model.objective.tokenizer(text)["input_ids"])
    asked = classifier.metric("luthier_rows_total")
    status, said, _ = classifier("POST", "/classify", {"input": ["the phone", text]})
    assert (status, said["error"]["code"], said["error"]["param"]) == (422, "text_too_long", "input")
    assert said["error"]["message"].startswith(f"row 2: text has {tokens:,} tokens; the model reads 128")
    assert classifier.metric("luthier_rows_total") == asked


def test_a_row_of_a_decoder_that_leaves_no_room_for_an_answer_is_refused_before_it_waits_and_one_that_leaves_little_is_answered(
    chat: Client,
) -> None:
    model: Any = chat.running.service.model
    before = model.queue.numbers(), chat.metric("luthier_rows_total")

    def prompt(words: int) -> int:
        return len(model.prompts.of_conversation([{"role": "user", "content": " 3" * words}]))

    words = next(words for words in range(1, 4 * model.context) if prompt(words + 1) >= model.context)
    status, said, _ = chat("POST", "/predict", {"rows": ["what about 3?", " 3" * (words + 1)]})
    assert (status, said["error"]["code"], said["error"]["param"]) == (422, "text_too_long", "rows")
    message = f"row 2: the prompt has {prompt(words + 1):,} tokens; the model reads {model.context:,} together with the answer"
    assert said["error"]["message"].startswith(message) and (model.queue.numbers(), chat.metric("luthier_rows_total")) == before
    (row,) = chat.post("/predict", {"rows": [" 3" * words], "limit": 200})["data"]
    asked = {"model": "talker", "messages": [{"role": "user", "content": " 3" * words}], "max_tokens": model.context - prompt(words)}
    assert row["text"] == chat.post(CHAT, asked)["choices"][0]["message"]["content"].strip()


def test_a_text_that_is_too_long_for_a_vector_is_refused_in_its_own_field(bundles: Any, home: Any) -> None:
    running = luthier.serve(bundles("embedding"), port=0, limits=SHORT, say=print, wait=False)
    try:
        client, long = Client(running), "pizza " * 300
        for path, body, param in (
            ("/v1/embeddings", {"model": "embedding-run", "input": ["pizza", long]}, "input"),
            ("/score", {"text_1": long, "text_2": "pizza"}, "text_1"),
            ("/score", {"text_1": "pizza", "text_2": ["pizza", long]}, "text_2"),
            ("/predict", {"rows": [long]}, "rows"),
        ):
            check(client, path, body, 422, param)
            assert "tokens; the model reads 128" in client("POST", path, body)[1]["error"]["message"]
        assert len(client.post("/v1/embeddings", {"model": "embedding-run", "input": ["pizza", "soup"]})["data"]) == 2
    finally:
        running.close(0)


BODIES: list[tuple[bytes, str]] = [
    (b"", "empty"),
    (b'{"rows": ["x"]', "not JSON"),
    (b'{"rows": ["x"], "limit": NaN}', "NaN is not a number"),
    (b'{"rows": ["x"], "abstain_below": Infinity}', "Infinity is not a number"),
    (b'{"rows": ["x"], "abstain_below": 1e999}', "finite"),
    (b'{"rows": ["x"], "limit": ' + b"9" * 5000 + b"}", "digits"),
    (b'{"rows": ["x"], "rows": ["y"]}', "stands twice"),
    (b'{"rows": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    (b'{"rows": ' + b"[" * 20 + b"]" * 20 + b"}", "nested"),
    (b'["x"]', "JSON object"),
    (b"null", "JSON object"),
    ('{"rows": ["x"]}'.encode("utf-16"), "UTF-8"),
    (b'{"rows": ["\xff"]}', "UTF-8"),
    (b'{"rows": ["\\ud800"]}', "surrogate"),
    (b'{"\\udc00": 1}', "surrogate"),
]


@pytest.mark.parametrize(("content", "said"), BODIES)
def test_a_body_that_is_no_plain_json_is_refused(classifier: Client, content: bytes, said: str) -> None:
    status, body, _ = classifier("POST", "/predict", raw=content)
    assert status == 400
    assert said in body["error"]["message"]


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "application/xml",
    ],
)
def test_a_body_of_another_type_is_refused(classifier: Client, kind: str) -> None:
    assert classifier("POST", "/predict", {"rows": ["x"]}, {"Content-Type": kind})[0] == 415


def test_a_compressed_body_is_refused(classifier: Client) -> None:
    assert classifier("POST", "/predict", {"rows": ["x"]}, {"Content-Encoding": "gzip"})[0] == 415


def test_an_unknown_field_is_answered_with_the_nearest_name(chat: Client) -> None:
    said = chat("POST", CHAT, chat_with("temprature", 0.1))[1]
    assert "did you mean 'temperature'?" in said["error"]["message"]
    said = chat("POST", CHAT, {"model": "talker", "messages": [{"role": "user", "content": "x", "nam": "y"}]})[1]
    assert (said["error"]["param"], "did you mean 'name'?" in said["error"]["message"]) == ("messages.0.nam", True)


def chat_with(name: str, value: Any) -> dict[str, Any]:
    return {"model": "talker", "messages": TURNS, name: value}
