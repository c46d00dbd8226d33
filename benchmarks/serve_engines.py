"""Engines beside each other behind the same HTTP server: what `luthier serve --engine` should be told on this machine?

    python benchmarks/serve_engines.py RUN                       # a classification run: torch beside onnx
    python benchmarks/serve_engines.py RUN --clients 1 8         # a chat run: torch in fp32 and int8, llama.cpp behind our server, and llama.cpp's own server
    python benchmarks/serve_engines.py RUN --engines torch onnx  # a chat run: these alone

An engine is what `--engine` is told, with `:` before a `--precision`; `own:DTYPE` is llama.cpp's own server on a GGUF export. All are processes of their own with the same threads, asked in
turn, the order turned each round; only ratios of medians to the first are told: answers (of texts: tokens) a second, the median seconds of a request, and processor seconds an answer or token,
those of child processes included. Behind them stand the pairs of a like precision, with what is asked of them. The last line is JSON. llama.cpp's server is found as `luthier serve` finds it;
where `LUTHIER_HOME` is set, exports and their proofs are kept there, so that a second start takes seconds.
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

OWN = "own"
WRITERS = ("torch", "torch:int8", "llama.cpp", f"{OWN}:float32", f"{OWN}:float16", f"{OWN}:q8_0")
PAIRS = (("torch", f"{OWN}:float32", 0.7), ("torch:int8", f"{OWN}:q8_0", 0.7), ("llama.cpp", f"{OWN}:float16", 0.95))
"""Two of a like precision, and how many times as many tokens a second the first is asked to give."""
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


def open_server(name: str, run: str, threads: int, stack: contextlib.ExitStack) -> Server:
    """A server, started."""
    engine, _, precision = name.partition(":")
    if engine != OWN:
        return stack.enter_context(ours(run, "model", 0, "--engine", engine, *(("--precision", precision) if precision else ())))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "gguf"
    luthier.export(run, to="gguf", out=folder, dtype=precision or "float16", parity=False)
    return stack.enter_context(llama(folder / "model.gguf", threads))


def compare(run: str, engines: Sequence[str], clients: Sequence[int], each: int, rounds: int, tokens: int) -> dict[str, Any]:
    """Ask all of them in turn."""
    facts = json.loads((Path(run) / "bundle" / "luthier.json").read_text())
    writes = facts["task"] != "classification"
    asks = ask_for_text if writes else ask_for_class
    names = list(engines) or list(WRITERS if writes else ("torch", "onnx"))
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    began, compared = time.monotonic(), {}
    with contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name in names:
            try:
                servers[name] = open_server(name, run, threads, stack)
            except SystemExit as problem:  # such as a llama.cpp that was built for another processor
                print(json.dumps({"left_out": name, "why": str(problem)}), flush=True)
        for count in clients:
            compared[f"{count} client{'s' * (count != 1)}"] = in_turn(servers, asks, count, each, rounds, tokens)
    about = {"task": facts["task"], "rounds": rounds, "threads": threads, "times_as_good_as": next(iter(servers))}
    return {**about, **compared, "seconds": round(time.monotonic() - began)}


def in_turn(servers: dict[str, Server], asks: Any, clients: int, each: int, rounds: int, tokens: int) -> dict[str, Any]:
    """So many clients at all servers, one after the other."""
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in servers}
    for number in range(rounds + 1):  # the first is not counted
        for name in servers if number % 2 else reversed(servers):
            found = drive(servers[name], asks, clients, each, tokens, 1000 * clients + number * clients * each)
            if number:
                rows[name].append(found)
                line = {"clients": clients, "round": number, "engine": name, "a_second": round(found[0], 1), "median_s": round(found[1], 3)}
                print(json.dumps(line), flush=True)
    middle = {name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in rows.items()}
    first = middle[next(iter(servers))]
    ratios = {
        name: {"rate": round(each[0] / first[0], 2), "latency": round(first[1] / each[1], 2), "processor": round(first[2] / each[2], 2) if each[2] else None}
        for name, each in middle.items()
    }  # fmt: skip
    pairs = {
        f"{one} beside {other}": {"rate": round(middle[one][0] / middle[other][0], 2), "lowest": round(min(a[0] / b[0] for a, b in zip(rows[one], rows[other], strict=True)), 2), "asked": asked}
        for one, other, asked in PAIRS
        if one in middle and other in middle
    }  # fmt: skip
    return {"ratios": ratios, **({"pairs": pairs} if pairs else {})}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--engines", nargs="*", default=[], help="to be compared; the first is what the others are compared with")
    parser.add_argument("--clients", type=int, nargs="+", default=[1])
    parser.add_argument("--each", type=int, default=8, help="requests of a client in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="that an answer may have")
    given = parser.parse_args()
    print(json.dumps(compare(given.run, given.engines, given.clients, given.each, given.rounds, given.tokens)))
