"""The engine that writes by llama-server, against a program that speaks as it does; with llama.cpp itself: tests/pilot/test_serving_engines.py."""

from __future__ import annotations

import functools
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import ModelError
from luthier.models.llama_process import LlamaProcess
from luthier.serving.interface import EngineClosed, EngineFailed, EngineFull, GenerationRequest, RequestRefused
from luthier.serving.llama_engine import UNTOLD, LlamaEngine
from tests.serving.llama_stand_in import bytes_of

END = 0
STAND_IN = Path(__file__).with_name("llama_stand_in.py")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The program, as something that can be started."""
    file = tmp_path / "llama-server"
    file.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    file.chmod(0o755)
    return file


@pytest.fixture
def opened(program: Path, tmp_path: Path) -> Iterator[Callable[..., LlamaEngine]]:
    """Opens engines, and closes them at the end."""
    engines: list[LlamaEngine] = []

    def open_one(slots: int = 2, waiting: int = 4, total: int = 400, say: Any = lambda line: None, **file: Any) -> LlamaEngine:
        model = tmp_path / f"model-{len(engines)}.json"
        model.write_text(json.dumps({"end": END, **file}))
        start = functools.partial(LlamaProcess, str(program), model, ["-np", str(slots)])
        engine = LlamaEngine(
            start, "a stand-in", context=200, total=total, vocabulary=300, slots=slots, waiting=waiting, bytes_of=bytes_of, say=say
        )
        engines.append(engine)
        return engine

    yield open_one
    for engine in engines:
        engine.close()


def asks(text: bytes | str, limit: int = 50, **options: Any) -> GenerationRequest:
    content = text.encode() if isinstance(text, str) else text
    return GenerationRequest(tuple(content), limit, stop=frozenset({END}), **options)


def running(engine: LlamaEngine) -> int:
    """Requests that the program still works at."""
    connection = http.client.HTTPConnection("127.0.0.1", engine.process.port, timeout=10)
    connection.request("GET", "/health")
    found = json.loads(connection.getresponse().read())["running"]
    connection.close()
    return found


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_tokens_come_with_their_log_probabilities_up_to_the_end_or_the_limit(opened: Any) -> None:
    engine = opened()
    whole = engine.submit(asks("hello", logprobs=2))
    tokens = list(whole)
    assert bytes(token.id for token in tokens) == b"hello"
    assert (tokens[0].logprob, tokens[0].top) == (-0.5, ((ord("h"), -0.5), (1, -2.0)))
    assert (whole.finish_reason, whole.cached_tokens) == ("stop", 2)
    cut = engine.submit(asks("hello", 3))
    assert [token.top for token in cut] == [(), (), ()] and cut.finish_reason == "length"
    numbers = engine.numbers()
    assert (numbers.finished, numbers.tokens, numbers.prompt_tokens, numbers.cached_tokens, numbers.cache_hits) == (2, 8, 10, 4, 2)


def test_a_character_of_several_tokens_arrives_with_all_of_them(opened: Any) -> None:
    for text in ("né", "a 🎻 b", "ab🎻🎻"):
        tokens = list(opened().submit(asks(text, logprobs=1)))
        assert bytes(token.id for token in tokens) == text.encode()
    assert [token.logprob for token in tokens] == [-0.5, -0.5, *([UNTOLD] * 3 + [-0.5]) * 2]


def test_log_probabilities_that_nobody_asks_for_are_not_made(opened: Any) -> None:
    assert {token.logprob for token in opened().submit(asks("hello"))} == {UNTOLD}


def test_bytes_that_become_no_character_still_count_as_tokens(opened: Any) -> None:
    engine = opened()
    torn = list(engine.submit(asks(b"a\xf0\x9f!b")))
    assert len(torn) == 5 and [torn[0].id, torn[3].id, torn[4].id] == list(b"a!b")
    assert b"".join(bytes_of(token.id) for token in torn).decode(errors="replace").strip("\ufffd!ab") == ""
    cut = engine.submit(asks("a🎻", 3))
    assert len(list(cut)) == 3 and cut.finish_reason == "length"


def test_a_long_run_of_bytes_that_are_no_character_is_counted_at_once(opened: Any) -> None:
    torn = "é".encode()[:1]
    answer = list(opened().submit(asks(b"a" + (torn + b"b") * 15 + torn * 60 + b"c", 100)))
    assert len(answer) == 92 and answer[-1].id == ord("c")


@pytest.mark.parametrize("text", ["hello", "né a 🎻 b", b"a\xffb", "abc\0de"])
@pytest.mark.parametrize("limit", [3, 50])
def test_an_answer_that_is_wanted_whole_has_the_tokens_of_one_that_is_streamed(opened: Any, text: Any, limit: int) -> None:
    engine = opened()
    streamed, whole = engine.submit(asks(text, limit)), engine.submit(asks(text, limit, whole=True))
    assert list(whole) == list(streamed) and len(whole.take()) == 0
    assert (whole.finish_reason, whole.cached_tokens) == (streamed.finish_reason, 2)
    assert engine.numbers().finished == 2 and engine.numbers().tokens % 2 == 0


def test_a_cancelled_whole_answer_frees_its_slot(opened: Any) -> None:
    engine = opened(slots=1, seconds=0.02)
    first = engine.submit(asks("a" * 150, 40, whole=True))
    wait_until(lambda: running(engine) == 1)
    first.cancel()
    wait_until(lambda: first.done)
    assert (first.finish_reason, first.take()) == ("cancelled", [])
    assert len(list(engine.submit(asks("abc", whole=True)))) == 3


@pytest.mark.parametrize("file", [{}, {"refuses": "chat_parser"}])
def test_bytes_that_are_no_character_are_tokens_as_all_others_whether_the_program_knows_our_field_or_not(opened: Any, file: Any) -> None:
    engine = opened(**file)
    for _ in range(2):
        assert [token.id for token in engine.submit(asks(b"a\xffb"))] == [97, 255, 98]


def test_a_cancelled_answer_frees_its_slot_and_one_that_waits_never_begins(opened: Any) -> None:
    engine = opened(slots=1, waiting=1, seconds=0.02)
    first = engine.submit(asks("a" * 150, 40))
    assert first.next(60) is not None
    second = engine.submit(asks("b"))
    with pytest.raises(EngineFull, match="wait"):
        engine.submit(asks("c"))
    second.cancel()
    assert list(second) == [] and second.finish_reason == "cancelled"
    first.cancel()
    wait_until(lambda: first.done and not running(engine))
    assert (first.finish_reason, engine.numbers().cancelled) == ("cancelled", 2)
    assert len(list(engine.submit(asks("abc")))) == 3


def test_requests_begin_while_their_tokens_have_room_together(opened: Any) -> None:
    engine = opened(slots=4, total=120, seconds=0.01)
    generations = [engine.submit(asks("a" * 10, 50)) for _ in range(4)]
    assert generations[0].next(60) is not None
    assert engine.numbers().active == 2
    assert [len(list(each)) for each in generations] == [9, 10, 10, 10]


def test_what_it_can_never_answer_is_refused_and_so_is_everything_once_it_is_closed(opened: Any) -> None:
    engine = opened()
    with pytest.raises(RequestRefused, match="more than 200"):
        engine.submit(asks("a", 200))
    with pytest.raises(RequestRefused, match="response_format"):
        engine.submit(asks("a", grammar=object()))
    engine.close()
    with pytest.raises(EngineClosed, match="closing"):
        engine.submit(asks("a"))
    assert not alive(engine.process.pid)


def test_a_program_that_dies_is_named_and_nobody_waits_for_ever(opened: Any) -> None:
    said: list[str] = []
    engine = opened(slots=1, say=said.append, seconds=0.02, dies_at=ord("!"))
    dying, waiting = engine.submit(asks("ab!cd")), engine.submit(asks("x"))
    with pytest.raises(EngineFailed, match=r"llama-server \(process \d+\) ended with exit code 9: "):
        list(dying)
    with pytest.raises(EngineFailed, match="ended with exit code 9"):
        list(waiting)
    with pytest.raises(EngineFailed, match="ended with exit code 9"):
        engine.submit(asks("x"))
    assert engine.fault is not None and len(said) == 1
    assert (engine.numbers().active, engine.numbers().waiting, engine.numbers().failed) == (0, 0, 2)


def test_a_file_that_it_cannot_read_is_told_in_its_own_words(opened: Any) -> None:
    with pytest.raises(ModelError, match=r"cannot open .*invalid magic characters"):
        opened(damaged=True)


def test_closing_with_a_grace_lets_answers_finish(opened: Any) -> None:
    engine = opened(seconds=0.005)
    generation = engine.submit(asks("abcdef"))
    engine.close(30)
    assert generation.finish_reason == "stop" and len(generation.take()) == 6


HOLD = """
import sys, time
from pathlib import Path
from luthier.models.llama_process import LlamaProcess
process = LlamaProcess(sys.argv[1], Path(sys.argv[2]), [])
process.wait_until_ready()
print(process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_no_orphan_is_left_when_we_are_killed(program: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"end": END}))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(program), str(tmp_path / "model.json")], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        assert alive(pid)
        os.kill(holder.pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid))
