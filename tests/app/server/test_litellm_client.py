"""litellm, unchanged: chat, streams, completions, vectors, errors; in a process that knows nothing of Luthier."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

import luthier
from tests.app.server.conftest import SHORT, Client
from tests.conftest import SELDOM

pytestmark = pytest.mark.peer(find_spec("litellm") is not None, "litellm")
ASK = f"""{SELDOM}
import json, sys
import litellm
url, key, model = sys.argv[1:]
asked = dict(model="openai/" + model, api_base=url, api_key=key, max_retries=0)
"""
CHAT = """
turns = [{"role": "user", "content": "what about 3?"}]
whole = litellm.completion(messages=turns, max_tokens=30, temperature=1.0, seed=5, **asked)
parts = list(litellm.completion(messages=turns, max_tokens=30, temperature=1.0, seed=5, stream=True, stream_options={"include_usage": True}, **asked))
text = litellm.text_completion(prompt="what about", max_tokens=6, **{**asked, "model": "text-completion-openai/" + model})
errors = []
for change in ({"api_key": "wrong"}, {"model": "openai/nobody"}):
    try:
        litellm.completion(messages=turns, **{**asked, **change})
        errors.append("none")
    except litellm.exceptions.OpenAIError as problem:
        errors.append(type(problem).__name__)
    except Exception as problem:
        errors.append(type(problem).__name__)
usage = [part.usage.total_tokens for part in parts if getattr(part, "usage", None)]
print(json.dumps({"whole": whole.choices[0].message.content, "stream": "".join(part.choices[0].delta.content or "" for part in parts if part.choices),
                  "usage": [whole.usage.total_tokens, usage[-1]], "text": text.choices[0].text, "errors": errors}))
"""
VECTORS = """
said = litellm.embedding(input=["great food", "awful service"], encoding_format="float", **asked)
print(json.dumps([each["embedding"] for each in said.data]))
"""


def ask(program: str, port: int, token: str, model: str) -> Any:
    command = [sys.executable, "-I", "-c", ASK + program, f"http://127.0.0.1:{port}/v1", token, model]
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it looks for prices in the network
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_litellm_writes_streams_completes_and_names_errors_as_openai_does(chat: Client) -> None:
    said = ask(CHAT, chat.port, chat.token, "talker")
    body = {"model": "talker", "messages": [{"role": "user", "content": "what about 3?"}], "max_tokens": 30, "temperature": 1.0, "seed": 5}
    assert said["whole"] == said["stream"] == chat.post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
    assert said["usage"][0] == said["usage"][1]
    assert said["text"] == chat.post("/v1/completions", {"model": "talker", "prompt": "what about", "max_tokens": 6})["choices"][0]["text"]
    assert said["errors"] == ["AuthenticationError", "NotFoundError"]


def test_litellm_gets_the_vectors_that_the_server_gives(bundles: Any, home: Any) -> None:
    running = luthier.serve(bundles("embedding"), port=0, limits=SHORT, name="vectors", say=lambda line: None, wait=False)
    try:
        client = Client(running)
        vectors = ask(VECTORS, client.port, client.token, "vectors")
        body = {"model": "vectors", "input": ["great food", "awful service"]}
        assert vectors == [each["embedding"] for each in client.post("/v1/embeddings", body)["data"]]
    finally:
        running.close(0)
