"""Engines beside each other behind the same HTTP server: what `luthier serve --engine` should be told on this machine?

    python benchmarks/serve_engines.py RUN                       # a classification run: torch beside onnx
    python benchmarks/serve_engines.py RUN --clients 8           # a chat run: torch, llama.cpp behind our server, and llama.cpp's own server on the same GGUF
    python benchmarks/serve_engines.py RUN --engines torch onnx  # a chat run: these alone

All are processes of their own with the same threads, asked in turn, the order turned each round; only ratios of medians to torch are told: answers (of texts: tokens) a second, the median
seconds of a request, and processor seconds an answer or token, those of child processes included. The last line is JSON. llama.cpp's server is found as `luthier serve` finds it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import luthier  # before torch: it says how long idle threads spin
from serve_http import Server, free_port, ours

OWN = "llama.cpp's own server"
QUESTIONS = (
    "what about a garden in spring?",
    "Tell me how bread is baked.",
    "Why is the sky blue?",
    "Name three rivers and what they are known for.",
    "How many hours are in a week?",
)
TEXTS = ("where is my card", "the payment was taken twice and nobody answers me", "thanks", "how do I change the address of my account before the new card is sent out?")  # fmt: skip


def cpu_of(pid: int) -> float:
    """Seconds of processor that a process and its children have used."""
    used = 0.0
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            if int(place.name) == pid or int(fields[1]) == pid:
                used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


@contextlib.contextmanager
def llama(file: Path, threads: int) -> Iterator[Server]:
    """llama.cpp's own server, with as many slots as ours gives it."""
    from luthier.models.llama_process import find_server
    from luthier.pilot.stages.serving_engines import SLOTS

    program, port = find_server(), free_port()
    assert program is not None, "llama-server is not on the PATH"
    command = [program, "-m", str(file), "--host", "127.0.0.1", "--port", str(port), "-np", str(SLOTS), "-c", "16384", "--kv-unified", "-t", str(threads), "--jinja"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    server = Server(process, port, "")
    try:
        server.wait()
        yield server
    finally:
        process.kill()
        process.wait()


def ask_for_text(server: Server, number: int, tokens: int) -> int:
    """One answer; its tokens."""
    messages = [{"role": "user", "content": f"{number}. {QUESTIONS[number % len(QUESTIONS)]}"}]
    body = {"model": "model", "messages": messages, "max_tokens": tokens, "temperature": 0.0}
    status, said = server.ask("POST", "/v1/chat/completions", body)
    assert status == 200, said
    return json.loads(said)["usage"]["completion_tokens"]


def ask_for_class(server: Server, number: int, tokens: int) -> int:
    """One class."""
    status, said = server.ask("POST", "/classify", {"input": f"{TEXTS[number % len(TEXTS)]} {number}"})
    assert status == 200, said
    return 1


def drive(server: Server, asks: Any, clients: int, each: int, tokens: int, first: int) -> tuple[float, float, float]:
    """Answers or tokens a second, the median seconds of a request, and processor seconds an answer or token."""
    times: list[float] = []

    def work(client: int) -> int:
        made = 0
        for turn in range(each):
            began = time.monotonic()
            made += asks(server, first + client * each + turn, tokens)
            times.append(time.monotonic() - began)
        return made

    before, began = cpu_of(server.process.pid), time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        made = sum(pool.map(work, range(clients)))
    return made / (time.monotonic() - began), statistics.median(times), (cpu_of(server.process.pid) - before) / max(made, 1)


def compare(run: str, engines: Sequence[str], clients: int, each: int, rounds: int, tokens: int) -> dict[str, Any]:
    """Ask all of them in turn."""
    facts = json.loads((Path(run) / "bundle" / "luthier.json").read_text())
    writes = facts["task"] != "classification"
    asks = ask_for_text if writes else ask_for_class
    names = list(engines) or (["torch", "llama.cpp", OWN] if writes else ["torch", "onnx"])
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name in names:
            if name == OWN:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "gguf"
                luthier.export(run, to="gguf", out=folder, parity=False)
                servers[name] = stack.enter_context(llama(folder / "model.gguf", threads))
            else:
                servers[name] = stack.enter_context(ours(run, "model", 0, "--engine", name))
        for number in range(rounds + 1):  # the first is not counted
            for name in names if number % 2 else reversed(names):
                found = drive(servers[name], asks, clients, each, tokens, number * clients * each)
                if number:
                    rows[name].append(found)
                    print(
                        json.dumps({"round": number, "engine": name, "a_second": round(found[0], 1), "median_s": round(found[1], 3)}),
                        flush=True,
                    )
    middle = {name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in rows.items()}
    first = middle[names[0]]
    ratios = {
        name: {"rate": round(each[0] / first[0], 2), "latency": round(first[1] / each[1], 2), "processor": round(first[2] / each[2], 2) if each[2] else None}
        for name, each in middle.items()
    }  # fmt: skip
    return {"task": facts["task"], "clients": clients, "rounds": rounds, "times_as_good_as": names[0], "ratios": ratios}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--engines", nargs="*", default=[], help="to be compared; the first is what the others are compared with")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--each", type=int, default=8, help="requests of a client in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="that an answer may have")
    given = parser.parse_args()
    print(json.dumps(compare(given.run, given.engines, given.clients, given.each, given.rounds, given.tokens)))
