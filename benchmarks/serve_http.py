"""The HTTP server: how many classifications a second against FastAPI with a pipeline of transformers, and what hours of use leave behind.

    python benchmarks/serve_http.py speed RUN            # RUN: a classification run whose bundle transformers can open
    python benchmarks/serve_http.py heavy RUN            # RUN: a chat run; S01 and S03 of the test catalogue with large counts
    python benchmarks/serve_http.py soak RUN --seconds 600
    python benchmarks/serve_http.py restart RUN          # after kill -9: seconds from the start of the next process, and from the moment its model is loaded, to its first answer
    python benchmarks/serve_http.py swap RUN OTHER       # 1,000 requests of 16 clients while an alias is given to the one and the other

Both servers are processes of their own with the same threads, asked in turn; only ratios of medians are told. What is told of memory, threads and open files is read
from the process. The last line of each is JSON. Where `LUTHIER_HOME` is set, compiled code and exports are kept there; else each server makes its own.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PEER = """
import sys
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline
import uvicorn
app = FastAPI()
classify = pipeline("text-classification", sys.argv[1], top_k=None)
class Asked(BaseModel):
    input: str
@app.post("/classify")
def answer(asked: Asked):
    return classify(asked.input)
@app.get("/health")
def health():
    return {}
uvicorn.run(app, port=int(sys.argv[2]), log_level="critical")
"""
PATIENCE = 900
"""Seconds that a client waits for the next bytes: what is asked is whether anything is lost, also beside busy neighbours."""
TEXTS = Path(__file__).parent.parent / "examples" / "intents" / "test.csv"


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


class Server:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int, token: str) -> None:
        self.process, self.port, self.token = process, port, token

    def wait(self, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self.ask("GET", "/health", None)[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                raise SystemExit("the server ended")
            time.sleep(0.1)
        raise SystemExit("the server did not answer")

    def ask(self, method: str, path: str, body: Any, connection: http.client.HTTPConnection | None = None) -> tuple[int, bytes]:
        own = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        own.request(method, path, None if body is None else json.dumps(body), headers)
        answer = own.getresponse()
        said = answer.read()
        if connection is None:
            own.close()
        return answer.status, said

    def metric(self, start: str) -> float:
        text = self.ask("GET", "/metrics", None)[1].decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(start))

    def resources(self) -> dict[str, float]:
        place = Path("/proc") / str(self.process.pid)
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines() if ":" in line)
        return {
            "mib": int(status["VmRSS"].split()[0]) / 1024,
            "threads": int(status["Threads"]),
            "files": len(list((place / "fd").iterdir())),
        }

    def cpu(self) -> float:
        """Seconds of processor that it has used: what neighbours take does not count."""
        fields = (Path("/proc") / str(self.process.pid) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


SERVE = """
import sys, time
from luthier.app.server import listen
load = listen.load_model
def timed(*given):
    model = load(*given)
    print(time.monotonic(), flush=True)
    return model
listen.load_model = timed
from luthier.app.cli import main
sys.argv[0] = "luthier"
main()
"""
"""The command, which also prints when its model is loaded, by the clock that all processes of a machine share."""


@contextmanager
def ours(run: str, name: str = "model", port: int = 0, *more: str, said: Any = subprocess.DEVNULL) -> Iterator[Server]:
    port, token = port or free_port(), "benchmark-token-benchmark"
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen([sys.executable, "-c", SERVE, "serve", run, "--port", str(port), "--name", name, "--quiet", *more], stdout=said, stderr=subprocess.DEVNULL, text=True,
                                   env={"LUTHIER_HOME": home, **os.environ, "LUTHIER_TOKEN": token})  # fmt: skip
        server = Server(process, port, token)
        try:
            server.wait()
            yield server
        finally:
            process.kill()
            process.wait()


@contextmanager
def peer(bundle: str) -> Iterator[Server]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", PEER, bundle, str(port)], stderr=subprocess.DEVNULL, text=True)
    server = Server(process, port, "")
    try:
        server.wait()
        yield server
    finally:
        process.kill()
        process.wait()


def drive(server: Server, texts: Sequence[str], clients: int, seconds: float) -> tuple[float, list[float]]:
    """Requests a second of so many clients that each ask again once they are answered; and the seconds of each request."""
    end, times = time.monotonic() + seconds, []

    def work(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        place = number
        while time.monotonic() < end:
            began = time.monotonic()
            status, said = server.ask("POST", "/classify", {"input": texts[place % len(texts)]}, connection)
            assert status == 200, said
            times.append(time.monotonic() - began)
            place += clients
        connection.close()

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(clients)))
    return len(times) / (time.monotonic() - began), times


def speed(run: str, rounds: int, seconds: float, clients: int) -> dict[str, Any]:
    texts = [row[0] for row in list(csv.reader(TEXTS.open()))[1:]]
    bundle = Path(run) / "bundle" if (Path(run) / "bundle").exists() else Path(run)
    found: dict[str, list[Any]] = {"ours": [], "peer": []}
    with ours(run) as one, peer(str(bundle)) as other:
        for server in (one, other):
            drive(server, texts, clients, min(2.0, seconds))
        for number in range(rounds):
            for name, server in (("ours", one), ("peer", other)) if number % 2 else (("peer", other), ("ours", one)):
                before = server.cpu()
                rate, times = drive(server, texts, clients, seconds)
                used = 1000 * (server.cpu() - before) / len(times)
                found[name].append((rate, statistics.median(times), sorted(times)[int(0.99 * (len(times) - 1))], used))
                print(
                    f"{name}: {rate:.0f} requests/s, p50 {1000 * found[name][-1][1]:.0f} ms, p99 {1000 * found[name][-1][2]:.0f} ms, {used:.1f} ms of processor a request",
                    flush=True,
                )
        same = json.loads(one.ask("POST", "/classify", {"input": texts[0]})[1])["data"][0]
        theirs = json.loads(other.ask("POST", "/classify", {"input": texts[0]})[1])
        best = theirs[0][0] if isinstance(theirs[0], list) else theirs[0]
    middle = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in found.items()}
    return {
        "clients": clients, "rounds": rounds, "requests_a_second_ratio": middle["ours"][0] / middle["peer"][0], "p50_ratio": middle["ours"][1] / middle["peer"][1],
        "processor_a_request_ratio": middle["peer"][3] / middle["ours"][3],
        "p99_ratio": middle["ours"][2] / middle["peer"][2], "ours_p99_ms": 1000 * middle["ours"][2], "same_label": best["label"] == same["label"],
        "largest_difference": abs(best["score"] - same["confidence"]),
    }  # fmt: skip


def chat_body(number: int, stream: bool, tokens: int = 24) -> dict[str, Any]:
    return {
        "model": "model",
        "messages": [{"role": "user", "content": f"what about {number}?"}],
        "max_tokens": tokens,
        "temperature": 1.2,
        "seed": number,
        "stream": stream,
    }


def text_of(stream: bool, said: bytes) -> str:
    if not stream:
        return json.loads(said)["choices"][0]["message"]["content"]
    events = [json.loads(event[6:]) for event in said.decode().split("\n\n") if event and event != "data: [DONE]"]
    return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])


def load_heavily(run: str, tokens: int) -> dict[str, Any]:
    """64 clients with 500 requests; 200 clients that hang up at random."""
    with ours(run) as server:
        before = server.resources()
        alone = {
            number: text_of(False, server.ask("POST", "/v1/chat/completions", chat_body(number, False, tokens))[1]) for number in range(20)
        }
        counts: dict[str, int] = {"same": 0, "other": 0, "busy": 0}

        def one(number: int) -> None:
            while True:
                status, said = server.ask("POST", "/v1/chat/completions", chat_body(number % 20, number % 3 == 0, tokens))
                if status == 200:
                    counts["same" if text_of(number % 3 == 0, said) == alone[number % 20] else "other"] += 1
                    return
                assert status in (429, 503), said
                counts["busy"] += 1
                time.sleep(0.05)

        with ThreadPoolExecutor(64) as pool:
            list(pool.map(one, range(500)))
        for number in range(200):
            content = json.dumps(chat_body(number, True, 200)).encode()
            opened = socket.create_connection(("127.0.0.1", server.port))
            opened.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {server.token}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
                + content
            )
            time.sleep(0.02 * (number * 7919 % 10) / 10)
            opened.close()
        began = time.monotonic()
        while server.metric('luthier_generation{what="active"}') + server.metric('luthier_generation{what="waiting"}'):
            time.sleep(0.02)
        freed = time.monotonic() - began
        code_errors = server.metric('luthier_requests_total{route="/v1/chat/completions",status="500"}')
        after = server.resources()
        return {**counts, "errors": code_errors, "slots_free_after_s": freed, "before": before, "after": after, "exit": server.end()}


def soak(run: str, seconds: float, path: str, body: Callable[[int], Any]) -> dict[str, Any]:
    """Five requests a second; what grows."""
    with ours(run) as server:
        times: list[tuple[float, float]] = []
        samples: list[dict[str, float]] = []
        wrong: list[str] = []
        end, number, lock = time.monotonic() + seconds, 0, threading.Lock()
        with ThreadPoolExecutor(16) as pool:

            def one(number: int) -> None:
                began = time.monotonic()
                try:
                    status, said = server.ask("POST", path, body(number))
                except OSError as problem:
                    status, said = 0, repr(problem).encode()
                with lock:
                    times.append((began, time.monotonic() - began))
                    wrong.extend([f"{status} {said[:200]!r}"] * (status != 200))

            while time.monotonic() < end:
                pool.submit(one, number)
                if number % 50 == 0:
                    samples.append(server.resources())
                number += 1
                time.sleep(0.2)
        samples.append(server.resources())
        ordered = [taken for _, taken in sorted(times)]
        half = len(ordered) // 2
        p95 = [sorted(part)[int(0.95 * (len(part) - 1))] for part in (ordered[:half], ordered[half:])]
        warm = samples[min(2, len(samples) - 1)]
        return {"requests": len(times), "sent": number, "wrong": len(wrong), "first_wrong": wrong[:3], "p95_second_half_ratio": p95[1] / p95[0], "first": samples[0], "warm": warm, "last": samples[-1],
                "mib": [round(sample["mib"]) for sample in samples], "growth": samples[-1]["mib"] / warm["mib"] - 1, "exit": server.end()}  # fmt: skip


def restart(run: str, times: int = 3) -> dict[str, Any]:
    """Serve, kill -9, serve again at the same port: to the first answer to a row, from the start of the process and from the moment that it has loaded the model."""
    port, whole, behind = free_port(), [], []
    with ours(run, "model", port) as server:  # what is made once and kept is made here
        row = json.loads(server.ask("GET", "/info", None)[1])["model"]["example"]
        assert server.ask("POST", "/predict", {"rows": [row], "limit": 1})[0] == 200
        server.process.kill()
    for _ in range(times):
        with tempfile.TemporaryFile("w+") as said:
            began = time.monotonic()
            with ours(run, "model", port, said=said) as server:
                status, answer = server.ask("POST", "/predict", {"rows": [row], "limit": 1})
                answered = time.monotonic()
                assert status == 200, answer
                server.process.kill()
            said.seek(0)
            loaded = float(said.read().split()[0])
        whole.append(round(answered - began, 2))
        behind.append(round(answered - loaded, 2))
        print(json.dumps({"from_the_start_s": whole[-1], "from_the_loaded_model_s": behind[-1]}), flush=True)
    return {"from_the_start_s": whole, "from_the_loaded_model_s": behind, "asked_s": 5.0, "held": max(behind) <= 5.0}


def swap(run: str, other: str) -> dict[str, Any]:
    """Requests while an alias goes from one run to the other and back; which model answered is told by its probabilities."""
    texts = [row[0] for row in list(csv.reader(TEXTS.open()))[1:]]
    answered: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LUTHIER_ALIASES"] = str(Path(folder) / "aliases.json")
        import luthier

        luthier.promote(run, "production", force=True)
        with ours("production") as server:
            done = threading.Event()

            def promote() -> None:
                for place in (other, run) * 50:
                    swaps = server.metric("luthier_swaps_total")
                    luthier.promote(place, "production", force=True)
                    while server.metric("luthier_swaps_total") == swaps:
                        time.sleep(0.2)
                        if done.is_set():
                            return

            def one(number: int) -> None:
                try:
                    status, said = server.ask("POST", "/predict", {"rows": [texts[0]]})
                    key = json.dumps(json.loads(said)["data"]) if status == 200 else f"{status} {said[:100]!r}"
                except (OSError, http.client.HTTPException) as problem:
                    key = repr(problem)
                answered[key] = answered.get(key, 0) + 1
                time.sleep(0.3)

            promoting = threading.Thread(target=promote)
            promoting.start()
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(one, range(1000)))
            done.set()
            promoting.join()
            rows = [json.loads(key)[0].get("label") for key in answered if key.startswith("[")]
            return {
                "answered": sorted(answered.values()), "different_answers": len(answered), "labels": rows, "wrong": [key for key in answered if not key.startswith("[")],
                "swaps": server.metric("luthier_swaps_total"), "resources": server.resources(),
            }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "heavy", "soak", "restart", "swap"))
    parser.add_argument("run")
    parser.add_argument("other", nargs="?", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=24)
    given = parser.parse_args()
    if given.what == "speed":
        done = speed(given.run, given.rounds, given.seconds, given.clients)
    elif given.what == "soak":
        texts = [row[0] for row in list(csv.reader(TEXTS.open()))[1:]]
        done = soak(given.run, given.seconds, "/predict", lambda number: {"rows": [texts[number % len(texts)]], "limit": 16})
    elif given.what == "swap":
        done = swap(given.run, given.other)
    else:
        done = load_heavily(given.run, given.tokens) if given.what == "heavy" else restart(given.run)
    print(json.dumps(done))


if __name__ == "__main__":
    main()
