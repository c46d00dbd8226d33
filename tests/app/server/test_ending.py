"""How a server begins and ends, in processes of its own: S13 to S15, and what the command prints."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import shutil
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.app.server.listen import GracefulServer
from luthier.app.server.token_file import keep_token
from luthier.core.cache import cache_folder
from luthier.core.errors import ExperimentError, ModelError
from luthier.core.run import file_hash
from tests.app.server.conftest import Client, until


def get(port: int, path: str, token: str = "", body: Any = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST" if body is not None else "GET", path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def address_of(line: str) -> tuple[int, str]:
    """The port, and the token, which is in a file and not in what a server logs."""
    found = re.search(r"http://127\.0\.0\.1:(\d+)/ \(it asks for the token\)", line)
    assert found, line
    port = int(found[1])
    return port, (cache_folder() / "serve" / f"{port}.token").read_text()


def test_the_command_says_what_where_and_how_and_lets_answers_finish(start: Any, bundles: Any, home: Path) -> None:
    server = start(bundles("chat"), "--port", 0, "--name", "talker")
    port, token = address_of(server.read_until("page"))
    assert server.lines[0].startswith("serving talker (chat, ")
    assert re.search(r"(improved|no evidence|worse): \S+ \d+\.\d+ \[", server.lines[0])
    ready = server.read_until("ready")
    file = home / "serve" / f"{port}.token"
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == (token, 0o600)
    said = subprocess.run(
        ["sh", "-c", ready[ready.index("curl") :].replace("curl ", "curl -s ", 1)], capture_output=True, text=True, check=True
    )
    assert json.loads(said.stdout)["choices"][0]["message"]["role"] == "assistant"
    assert get(port, "/health") == (200, b'{"status":"ok"}')
    asked = {"model": "talker", "messages": [{"role": "user", "content": "what about 3?"}], "temperature": 1.5, "seed": 1}
    expected = json.loads(get(port, "/v1/chat/completions", token, {**asked, "max_tokens": 150})[1])["choices"][0]
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(get(port, "/v1/chat/completions", token, {**asked, "max_tokens": 150})))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    assert until(lambda: b'luthier_generation{what="active"} 6' in get(port, "/metrics", token)[1])
    server.process.send_signal(signal.SIGTERM)
    refused: list[int] = []

    def new_ones_are_refused() -> bool:
        try:
            refused.extend([get(port, "/health")[0], get(port, "/v1/chat/completions", token, {**asked, "max_tokens": 1})[0]])
        except ConnectionError:
            return True
        return 503 in refused

    assert until(new_ones_are_refused)
    for thread in threads:
        thread.join()
    code, text = server.end()
    assert code == 0, text
    assert [status for status, _ in found] == [200] * 6
    assert all(json.loads(said)["choices"][0] == expected for _, said in found)
    assert "6 requests may finish" in text
    assert re.search(r"\d\d:\d\d:\d\d POST /v1/chat/completions 200 \d+ ms · \d+ \+ \d+ tokens", text)
    assert token not in text


def test_a_server_that_was_killed_starts_again_with_the_same_token(start: Any, bundles: Any) -> None:
    server = start(bundles("classification"), "--port", 0)
    port, _ = address_of(server.read_until("page"))
    token = "a-token-of-my-own-which-stays"
    server.process.kill()
    server.end()
    keep_token(port, token, fresh=False)
    again = start(bundles("classification"), "--port", port)
    assert address_of(again.read_until("page")) == (port, token)
    again.read_until("ready")
    assert get(port, "/classify", token, {"input": "good"})[0] == 200
    again.process.send_signal(signal.SIGINT)
    assert again.end()[0] == 0


def test_answers_that_are_not_through_in_time_are_told_that_the_server_ends(bundles: Any, home: Path) -> None:
    running = luthier.serve(bundles("chat"), port=0, name="talker", say=lambda line: None, wait=False)
    client = Client(running)
    engine: Any = running.service.model.engine
    step = engine._batch.step
    engine._batch.step = lambda: (time.sleep(0.05), step())[1]
    asked = {
        "model": "talker",
        "messages": [{"role": "user", "content": "what about 3?"}],
        "temperature": 1.5,
        "seed": 1,
        "max_tokens": 200,
    }
    found: dict[bool, Any] = {}

    def ask(stream: bool) -> None:
        found[stream] = client("POST", "/v1/chat/completions", {**asked, "stream": stream})

    threads = [threading.Thread(target=ask, args=(stream,)) for stream in (True, False)]
    for thread in threads:
        thread.start()
    assert until(lambda: engine.numbers().active == 2)
    running.close(0.3)
    for thread in threads:
        thread.join()
    assert found[True][0] == 200
    last = found[True][1].split(b"\n\n")[-3:]
    assert json.loads(last[0].removeprefix(b"data: "))["error"]["code"] == "shutting_down"
    assert last[1] == b"data: [DONE]"
    assert (found[False][0], found[False][1]["error"]["code"]) == (503, "shutting_down")
    with pytest.raises(ConnectionError):
        client("GET", "/health")


def test_predictions_that_wait_when_the_server_ends_are_answered_503(bundles: Any, home: Path) -> None:
    running = luthier.serve(bundles("classification"), port=0, say=lambda line: None, wait=False)
    client = Client(running)
    queue: Any = running.service.model.queue
    predict, go = queue._predict, threading.Event()
    queue._predict = lambda records, limit: (go.wait(60), predict(records, limit))[1]
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(client("POST", "/classify", {"input": "good"}))) for _ in range(5)]
    threads[0].start()  # alone, or a busy machine lets all five be one batch and none waits
    assert until(
        lambda: queue.numbers() == {"waiting": 0, "running": 1},
    )
    for thread in threads[1:]:
        thread.start()
    assert until(
        lambda: queue.numbers() == {"waiting": 4, "running": 1},
    )
    running.close(0.2)
    for thread in threads:
        thread.join()
    go.set()
    assert [(status, said["error"]["code"]) for status, said, _ in found] == [(503, "not_ready")] * 5
    assert running.service.counters.total("luthier_failed_total") == 0


FAULTS = ["weights", "swapped", "tokenizer", "template", "missing"]


def damage(bundle: Path, fault: str) -> None:
    """Change a bundle as a disk, or somebody who knows the manifest, would."""
    weights = bundle / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if fault == "weights":
        content[-5] ^= 1
        weights.write_bytes(content)
    elif fault == "swapped":
        content[-400:] = bytes(400)
        weights.write_bytes(content)
        facts = json.loads((bundle / "luthier.json").read_text())
        facts["files"]["model.safetensors"] = facts["sha256"] = file_hash(weights)
        (bundle / "luthier.json").write_text(json.dumps(facts))
    elif fault == "tokenizer":
        (bundle / "tokenizer.json").write_text((bundle / "tokenizer.json").read_text().replace("the", "teh"))
    elif fault == "template":
        (bundle / "chat_template.jinja").write_text("{{ messages[0].content }}")
    else:
        weights.unlink()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bundle_that_is_not_as_it_was_written_is_not_served(
    bundles: Any, home: Path, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundles("chat") / "bundle", tmp_path / "bundle")
    damage(tmp_path / "bundle", fault)
    monkeypatch.setattr("luthier.app.server.listen.bind", lambda host, port: pytest.fail("the port was opened"))
    with pytest.raises(ModelError, match=r"is not (whole|as it was written)"):
        luthier.serve(tmp_path / "bundle", port=0, say=lambda line: None)


def test_the_command_ends_with_2_and_the_reason(start: Any, bundles: Any, tmp_path: Path) -> None:
    shutil.copytree(bundles("chat") / "bundle", tmp_path / "bundle")
    damage(tmp_path / "bundle", "swapped")
    code, text = start(tmp_path / "bundle", "--port", 0).end()
    assert code == 2
    assert text.startswith("luthier: the bundle")
    assert "http://" not in text and "Traceback" not in text


def test_a_model_that_cannot_be_loaded_ends_the_server_with_the_reason(bundles: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*given: Any) -> Any:
        raise ModelError("the memory is full", "free some")

    monkeypatch.setattr("luthier.app.server.listen.load_model", load)
    with pytest.raises(ModelError, match="the memory is full"):
        luthier.serve(bundles("chat"), port=0, say=lambda line: None)


def test_a_server_that_is_back_can_be_asked_however_late_it_listens(bundles: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = GracefulServer.startup

    async def late(self: GracefulServer, sockets: Any = None) -> None:
        until(lambda: self._service.state != "loading")
        await asyncio.sleep(0.3)
        await begin(self, sockets)

    monkeypatch.setattr(GracefulServer, "startup", late)
    running = luthier.serve(bundles("embedding"), port=0, say=print, wait=False)
    try:
        assert Client(running)("GET", "/health")[0] == 200
    finally:
        running.close(0)


def test_an_unknown_engine_is_answered_with_the_nearest(bundles: Any) -> None:
    with pytest.raises(ExperimentError, match="did you mean 'torch'"):
        luthier.serve(bundles("chat"), port=0, engine="troch")
