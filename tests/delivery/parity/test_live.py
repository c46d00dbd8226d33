"""Parity with a server that is running: what it tells is compared, what it does not is unseen, and a server with something else is found out."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import luthier
from luthier.core.errors import DataError, ModelError
from luthier.core.types import Record
from luthier.delivery.exports.exporter import LOG_PROBABILITIES, RENDERED, TEXT, TOKENS, WEIGHTS
from luthier.delivery.exports.gguf import FILE, Gguf
from luthier.delivery.exports.json_http import JsonServer
from luthier.delivery.parity.live import TOKEN, check_endpoint
from luthier.delivery.parity.live_writing import token_bytes
from luthier.models.base import Base
from luthier.models.llama_process import SERVER, find_server
from luthier.models.store import resolve
from tests.conftest import rows
from tests.delivery.exports.gguf_bundles import make_bundle, other_bundle, rewritten

PROGRAM = find_server()
SECRET = "not to be seen"


class Served:
    """A decoder behind OpenAI's chat route, as vLLM and Ollama answer there: the tokens that it wrote with their log-probabilities, and how many it read.

    Args:
        bundle: whose weights, tokenizer and template answer.
        shows: what it tells beside the text: "logprobs", "tokenize".
        before: tokens that it puts before every prompt: a fault.
        stops: whether it stops at the end token.
    """

    def __init__(
        self,
        bundle: Base,
        shows: tuple[str, ...] = ("logprobs",),
        before: tuple[int, ...] = (),
        stops: bool = True,
        names: tuple[str, ...] = ("tiny",),
    ) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(bundle.folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(bundle.folder, dtype=torch.float32).eval()
        self.shows, self.before, self.stops, self.names = shows, list(before), stops, names
        self.asked: list[dict[str, Any]] = []

    def prompt(self, body: dict[str, Any]) -> list[int]:
        text = body.get("prompt") or self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        return self.before + self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def answer(self, route: str, body: dict[str, Any]) -> Any:
        self.asked.append(body)
        if route == "/tokenize" and "tokenize" in self.shows:
            return {"tokens": self.prompt(body)}
        if route not in ("/v1/chat/completions", "/v1/completions"):
            return None
        ids, told, made = self.prompt(body), [], []
        read = len(ids)
        for _ in range(body["max_tokens"]):
            with torch.no_grad():
                scores = self.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            token = int(scores.argmax())
            if self.stops and token == self.tokenizer.eos_token_id:
                break
            ids.append(token)
            made.append(token)
            piece = token_bytes(self.tokenizer, token)
            told.append({"token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": float(scores[token])})
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        usage = {"prompt_tokens": read, "completion_tokens": len(made)}
        if route == "/v1/completions":
            return {
                "choices": [
                    {
                        "text": text,
                        "logprobs": {"tokens": [each["token"] for each in told], "token_logprobs": [each["logprob"] for each in told]},
                    }
                ],
                "usage": usage,
            }
        shown = {"content": told} if "logprobs" in self.shows else None
        return {"choices": [{"message": {"role": "assistant", "content": text}, "logprobs": shown}], "usage": usage}


@contextmanager
def serving(served: Any, secret: str = "") -> Iterator[str]:
    """The address at which it answers."""

    class Handler(BaseHTTPRequestHandler):
        def reply(self, said: Any, status: int = 200) -> None:
            content = json.dumps(said if said is not None else {"error": {"message": "no such route"}}).encode()
            self.send_response(status if said is not None else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def allowed(self) -> bool:
            if secret and self.headers.get("Authorization") != f"Bearer {secret}":
                self.reply({"error": {"message": "who are you?"}}, 401)
                return False
            return True

        def do_GET(self) -> None:
            if self.allowed():
                self.reply({"data": [{"id": name} for name in served.names]} if self.path == "/v1/models" else None)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.allowed():
                self.reply(served.answer(self.path, body))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_bundle(tmp_path_factory.mktemp("live") / "bundle", "llama")


def states(record: Any) -> dict[str, str]:
    return {stage.name: stage.state for stage in record.stages}


def test_a_server_with_the_same_model_is_the_same_as_far_as_it_tells(bundle: Base, chats: list[Record]) -> None:
    with serving(Served(bundle, ("logprobs", "tokenize"))) as url:
        record = check_endpoint(bundle, url, chats, most=3, precision="float32")
    assert record.same, record.lines()
    assert states(record) == {
        RENDERED: "unseen",
        TOKENS: "same",
        WEIGHTS: "unseen",
        LOG_PROBABILITIES: "same",
        TEXT: "same",
        "metric": "unseen",
    }
    assert record.rows.startswith("3")


def test_what_a_server_does_not_tell_is_unseen_and_never_passed(bundle: Base, chats: list[Record]) -> None:
    with serving(Served(bundle, ())) as url:
        record = check_endpoint(bundle, url, chats, most=2)
    found = states(record)
    assert found[TOKENS] == found[LOG_PROBABILITIES] == found[RENDERED] == "unseen"
    assert found[TEXT] == "same"
    assert "only their number" in next(stage.detail for stage in record.stages if stage.name == TOKENS)


@pytest.mark.parametrize("shows", [("logprobs", "tokenize"), ("logprobs",)])
def test_a_double_beginning_is_found_by_the_tokens_or_their_number(bundle: Base, chats: list[Record], shows: tuple[str, ...]) -> None:
    with serving(Served(bundle, shows, before=(1,))) as url:
        record = check_endpoint(bundle, url, chats, most=2)
    assert record.first is not None
    assert record.first.name == TOKENS


def test_another_template_is_found(bundle: Base, chats: list[Record]) -> None:
    served = Served(bundle, ("logprobs", "tokenize"))
    served.tokenizer.chat_template = served.tokenizer.chat_template.replace("<|im_end|>", "")
    with serving(served) as url:
        record = check_endpoint(bundle, url, chats, most=2)
    assert record.first is not None
    assert record.first.name == TOKENS
    assert "template" in record.reason


def test_other_weights_are_found_by_what_it_writes(bundle: Base, chats: list[Record]) -> None:
    served = Served(bundle)
    with torch.no_grad():
        for parameter in served.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    with serving(served) as url:
        record = check_endpoint(bundle, url, chats, most=3)
    assert record.first is not None
    assert record.first.name in (LOG_PROBABILITIES, TEXT)


def test_slightly_other_weights_are_found_by_the_log_probabilities(bundle: Base, chats: list[Record]) -> None:
    served = Served(bundle)
    with torch.no_grad():
        served.model.lm_head.weight.mul_(1.02)
    with serving(served) as url:
        record = check_endpoint(bundle, url, chats, most=3, precision="float32")
    assert record.first is not None
    assert record.first.name == LOG_PROBABILITIES


def test_a_network_that_continues_texts_is_asked_to_continue_them(bundle: Base, records: list[Record], tmp_path: Path) -> None:
    text = other_bundle(bundle, tmp_path / "text", "causal_lm")
    with serving(Served(text, before=(2,))) as url:  # as trained: the mark stands before each text
        assert check_endpoint(text, url, records, most=2, precision="float32").same
    with serving(Served(text)) as url:
        record = check_endpoint(text, url, records, most=2, precision="float32")
    assert record.first is not None
    assert record.first.name == TOKENS


def test_one_of_several_models_is_named_behind_the_address(bundle: Base, chats: list[Record]) -> None:
    with serving(Served(bundle, names=("tiny:latest", "other"))) as url:
        with pytest.raises(ModelError, match="has 2 models") as caught:
            check_endpoint(bundle, url, chats, most=1)
        assert f"{url}#tiny" in caught.value.remedy
        with pytest.raises(ModelError, match="no model 'tine'"):
            check_endpoint(bundle, f"{url}#tine", chats, most=1)
        assert check_endpoint(bundle, f"{url}#tiny", chats, most=1).same


def test_a_token_comes_from_the_environment_and_stands_in_no_message(
    bundle: Base, chats: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Served(bundle), SECRET) as url:
        with pytest.raises(ModelError, match="wants a token") as caught:
            check_endpoint(bundle, url, chats, most=1)
        monkeypatch.setenv(TOKEN, "wrong" + SECRET)
        with pytest.raises(ModelError) as again:
            check_endpoint(bundle, url, chats, most=1)
        monkeypatch.setenv(TOKEN, SECRET)
        assert check_endpoint(bundle, url, chats, most=1).same
    assert SECRET not in str(caught.value) + str(again.value)
    with pytest.raises(ModelError, match="may hold no secret") as told:
        JsonServer(f"http://name:{SECRET.replace(' ', '')}@127.0.0.1:1")
    assert SECRET.replace(" ", "") not in str(told.value)


@pytest.mark.parametrize(
    ("url", "said"), [("127.0.0.1:8000", "not the address"), ("http://127.0.0.1:9", "does not answer"), ("ftp://x", "not the address")]
)
def test_an_address_that_leads_nowhere_is_said_so(bundle: Base, chats: list[Record], url: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        check_endpoint(bundle, url, chats, most=1)


def test_without_rows_nothing_is_asked(bundle: Base) -> None:
    with pytest.raises(DataError, match="no rows"):
        check_endpoint(bundle, "http://127.0.0.1:9", [])


def test_something_that_is_no_model_server_is_said_so(bundle: Base, chats: list[Record]) -> None:
    class Nothing:
        names = ()

        def answer(self, route: str, body: Any) -> None:
            return None

    with serving(Nothing()) as url, pytest.raises(ModelError, match="has 0 models"):
        check_endpoint(bundle, url, chats, most=1)


@contextmanager
def llama_server(file: Path, port: int) -> Iterator[str]:
    command = [str(PROGRAM), "-m", str(file), "--host", "127.0.0.1", "--port", str(port), "-c", "256", "-np", "1", "-t", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asked = JsonServer(f"http://127.0.0.1:{port}")
        for _ in range(600):
            try:
                asked.get("/health")
                break
            except ModelError:
                time.sleep(0.1)
        asked.close()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.peer(PROGRAM is not None, f"llama.cpp's {SERVER}")
def test_a_llama_server_as_people_start_it_is_compared_stage_by_stage(bundle: Base, chats: list[Record], tmp_path: Path) -> None:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    Gguf().write(bundle, tmp_path, "float16", lambda line: None)
    with llama_server(tmp_path / FILE, port) as url:
        record = check_endpoint(bundle, url, chats, most=2)
    assert record.same, record.lines()
    assert {name for name, state in states(record).items() if state == "unseen"} == {WEIGHTS}
    other = rewritten(tmp_path / FILE, tmp_path / "other.gguf", metadata={"llama.rope.freq_base": 100.0})
    with llama_server(other, port) as url:
        record = check_endpoint(bundle, url, chats, most=2)
    assert record.first is not None
    assert record.first.name == LOG_PROBABILITIES


class Sorting:
    """A classifier behind vLLM's /classify.

    Args:
        folder: of the bundle that answers.
        turned: whether its classes stand in another order: a fault.
    """

    names = ("classes",)

    def __init__(self, folder: Path, turned: bool = False) -> None:
        self.folder, self.turned = folder, turned

    def answer(self, route: str, body: dict[str, Any]) -> Any:
        if route != "/classify":
            return None
        found = []
        for said in luthier.predict(self.folder, body["input"]):
            labels, probs = list(said["probabilities"]), list(said["probabilities"].values())
            shown = labels[::-1] if self.turned else labels
            found.append({"label": shown[max(range(len(probs)), key=probs.__getitem__)], "probs": probs})
        return {"data": found}


def test_a_classifier_is_compared_by_its_probabilities_and_labels(runs: Any) -> None:
    folder = runs("classes").folder / "bundle"
    bundle, texts = resolve(str(folder)), [Record(number, row) for number, row in enumerate(rows(6), 1)]
    with serving(Sorting(folder)) as url:
        record = check_endpoint(bundle, url, texts, precision="float32")
    assert record.same, record.lines()
    assert "accuracy" in next(stage.detail for stage in record.stages if stage.name == "metric")
    with serving(Sorting(folder, turned=True)) as url:
        record = check_endpoint(bundle, url, texts, precision="float32")
    assert record.first is not None
    assert record.reason == "its classes stand in another order"
