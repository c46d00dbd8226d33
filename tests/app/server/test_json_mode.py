"""`response_format` by the `openai` client: each answer parses and fits its schema, whole or streamed; what cannot be had is a 400 that says why."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pytest

from tests.app.server.conftest import Client

pytest.importorskip("llguidance")
TURNS: Any = [{"role": "user", "content": "what about 3?"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad"]}, "score": {"type": "integer", "minimum": 0, "maximum": 9}, "why": {"type": "string", "maxLength": 12}},
    "required": ["label", "score", "why"],
    "additionalProperties": False,
}  # fmt: skip
FORM: Any = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True}}


@pytest.fixture
def client(chat: Client) -> Any:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{chat.port}/v1", api_key=chat.token, max_retries=9) as made:
        yield made


def test_answers_of_many_clients_at_once_fit_their_schema(client: Any) -> None:
    def one(seed: int) -> Any:
        said = client.chat.completions.create(
            model="talker", messages=TURNS, max_tokens=120, temperature=1.5, seed=seed, response_format=FORM
        )
        return said.choices[0]

    with ThreadPoolExecutor(4) as pool:
        choices = list(pool.map(one, range(12)))
    whole = [json.loads(choice.message.content) for choice in choices if choice.finish_reason == "stop"]
    for each in whole:
        jsonschema.validate(each, SCHEMA)
    assert len(whole) > 8 and len({each["label"] for each in whole}) == 2
    assert one(3).message.content == choices[3].message.content


def test_a_stream_in_a_form_is_the_same_answer_in_pieces(client: Any) -> None:
    asked: Any = {
        "model": "talker",
        "messages": TURNS,
        "max_tokens": 120,
        "temperature": 1.0,
        "seed": 2,
        "response_format": FORM,
        "logprobs": True,
    }
    whole = client.chat.completions.create(**asked).choices[0]
    events = [choice for event in client.chat.completions.create(**asked, stream=True) for choice in event.choices]
    assert "".join(choice.delta.content or "" for choice in events) == whole.message.content
    assert events[-1].finish_reason == whole.finish_reason == "stop"
    jsonschema.validate(json.loads(whole.message.content), SCHEMA)


def test_json_object_is_an_object_and_text_is_any_text(client: Any) -> None:
    asked: Any = {"model": "talker", "messages": TURNS, "max_tokens": 150}
    plain = client.chat.completions.create(**asked).choices[0].message.content
    assert client.chat.completions.create(**asked, response_format={"type": "text"}).choices[0].message.content == plain
    found = 0
    for seed in range(8):
        choice = client.chat.completions.create(**asked, temperature=2.0, seed=seed, response_format={"type": "json_object"}).choices[0]
        assert choice.message.content.startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
            found += 1
    assert found


def test_texts_are_continued_in_a_form_too_several_at_once_and_streamed(client: Any) -> None:
    asked: Any = {"model": "talker", "max_tokens": 120, "temperature": 1.0, "seed": 5, "extra_body": {"response_format": FORM}}
    prompts = ["the phone", "what about 3?", "it was"]
    whole = client.completions.create(prompt=prompts, **asked).choices
    for choice in whole:
        assert choice.text.startswith("{") and choice.finish_reason in ("stop", "length")
        if choice.finish_reason == "stop":
            jsonschema.validate(json.loads(choice.text), SCHEMA)
    assert any(choice.finish_reason == "stop" for choice in whole)
    events = [choice.text for event in client.completions.create(prompt=prompts[0], stream=True, **asked) for choice in event.choices]
    assert "".join(events) == whole[0].text


def of_schema(schema: Any, **more: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, **more}


@pytest.mark.parametrize(
    ("asked", "param", "says"),
    [
        (of_schema({"type": "objekt"}), "response_format.json_schema.schema", "objekt"),
        (of_schema({"not": {}}), "response_format.json_schema.schema", "not"),
        (of_schema({"$ref": "http://127.0.0.1:9/secret"}), "response_format.json_schema.schema", "does not fetch"),
        (of_schema({"type": "object"}, stop=["}"]), "stop", "could cut the JSON"),
        (of_schema([1]), "response_format.json_schema.schema", "dictionary"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
        ({"response_format": {"type": "yaml"}}, "response_format", "json_object"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema", "no field"),
    ],
)
def test_a_form_that_cannot_be_had_is_a_400_that_names_the_field(chat: Client, asked: Any, param: str, says: str) -> None:
    status, said, _ = chat("POST", "/v1/chat/completions", {"model": "talker", "messages": TURNS, **asked})
    assert (status, said["error"]["param"]) == (400, param) and says in said["error"]["message"], said


def test_without_the_package_the_answer_names_the_line_that_installs_it(chat: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: Any = chat.running.service.model.prompts
    monkeypatch.setattr(prompts, "_json", None)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    body = {"model": "talker", "messages": TURNS, "response_format": {"type": "json_object"}}
    status, said, _ = chat("POST", "/v1/chat/completions", body)
    assert (status, said["error"]["param"]) == (400, "response_format")
    assert said["error"]["message"] == "JSON mode needs llguidance; pip install 'luthier[json]'"
