"""The queue before the model: what waits together is one call, nobody pays for another's fault, and whoever is gone is not worked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from torch import nn

from luthier.core.errors import DataError
from luthier.core.types import Record
from luthier.serving.limits import Limits
from luthier.serving.prediction_queue import Abandoned, Answerless, PredictionQueue, QueueClosed, QueueFull, poll_inside


class Slow:
    """A predict that waits until it may go on, and notes what it was asked."""

    def __init__(self) -> None:
        self.go, self.calls = threading.Event(), []
        self.began = threading.Event()

    def __call__(self, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        self.began.set()
        assert self.go.wait(10)
        self.calls.append([record.values["text"] for record in records])
        if any(record.values["text"] == "poison" for record in records):
            raise DataError("this one is wrong")
        return [{"text": record.values["text"].upper(), "limit": limit} for record in records]


def rows(*texts: str) -> list[Record]:
    return [Record(number, {"text": text}) for number, text in enumerate(texts, 1)]


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def queue(slow: Slow) -> Iterator[PredictionQueue]:
    made = PredictionQueue(slow, Limits(waiting=4, batch_rows=5))
    yield made
    slow.go.set()
    made.close(5)


def test_requests_that_wait_together_are_one_call_as_far_as_its_rows_allow(queue: PredictionQueue, slow: Slow) -> None:
    first = queue.submit(rows("a"), 1)
    assert slow.began.wait(5)
    others = [queue.submit(rows(*texts), limit) for texts, limit in ((("b", "c"), 1), (("d", "e"), 1), (("f", "g"), 1), (("h",), 2))]
    slow.go.set()
    assert [one["text"] for job in (first, *others) for one in job.future.result(5)] == list("ABCDEFGH")
    assert slow.calls == [["a"], ["b", "c", "d", "e"], ["f", "g"], ["h"]]


def test_a_fault_is_of_the_request_that_has_it(queue: PredictionQueue, slow: Slow) -> None:
    first = queue.submit(rows("a"), 1)
    assert slow.began.wait(5)
    good, bad, fine = (queue.submit(rows(text), 1) for text in ("b", "poison", "c"))
    slow.go.set()
    assert first.future.result(5) and good.future.result(5)[0]["text"] == "B" and fine.future.result(5)[0]["text"] == "C"
    with pytest.raises(DataError, match="this one"):
        bad.future.result(5)


def test_more_than_may_wait_is_refused_and_those_that_are_gone_make_room(queue: PredictionQueue, slow: Slow) -> None:
    queue.submit(rows("a"), 1)
    assert slow.began.wait(5)
    waiting = [queue.submit(rows(text), 1) for text in "bcde"]
    with pytest.raises(QueueFull, match="4 requests wait already") as full:
        queue.submit(rows("f"), 1)
    assert full.value.seconds >= 1
    waiting[1].cancel()
    assert queue.numbers() == {"waiting": 3, "running": 1}
    late = queue.submit(rows("f"), 1)
    slow.go.set()
    assert late.future.result(5)[0]["text"] == "F"
    assert "c" not in [text for call in slow.calls for text in call]


def test_what_nobody_waits_for_ends_inside_the_model() -> None:
    table = nn.Embedding(2, 2)
    import torch

    steps, begun = [], threading.Event()

    def predict(records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        for _ in range(1000):
            table(torch.tensor([0]))
            steps.append(1)
            begun.set()
            time.sleep(0.005)
        return [{} for _ in records]

    queue = PredictionQueue(predict, Limits())
    poll_inside(nn.Sequential(table), queue.poll)
    job = queue.submit(rows("a"), 1)
    assert begun.wait(5)
    table(torch.tensor([0]))  # another thread may use the network meanwhile
    job.cancel()
    end = time.monotonic() + 20
    while queue.numbers()["running"] or queue._in_call:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert len(steps) < 900
    with pytest.raises(Abandoned):  # it is what stopped it
        queue._in_call = [job]
        thread = threading.current_thread()
        queue._thread, kept = thread, queue._thread
        try:
            queue.poll()
        finally:
            queue._thread, queue._in_call = kept, []
    queue.close(1)


def test_rows_of_a_writer_are_asked_one_by_one_and_a_gone_client_ends_between_them(slow: Slow) -> None:
    queue = PredictionQueue(slow, Limits(), together=False)
    job = queue.submit(rows("a", "b", "c"), 7)
    assert slow.began.wait(5)
    job.cancel()
    slow.go.set()
    again = queue.submit(rows("d", "e"), 7)
    assert [one["text"] for one in again.future.result(5)] == ["D", "E"]
    assert slow.calls == [["a"], ["d"], ["e"]]
    queue.close(1)


def test_another_number_of_answers_than_rows_is_a_fault_and_not_somebody_elses_answer() -> None:
    queue = PredictionQueue(lambda records, limit: [{}], Limits())
    with pytest.raises(Answerless):
        queue.submit(rows("a", "b"), 1).future.result(5)
    queue.close(1)


def test_a_closed_queue_tells_those_who_wait(queue: PredictionQueue, slow: Slow) -> None:
    running = queue.submit(rows("a"), 1)
    assert slow.began.wait(5)
    waiting = queue.submit(rows("b"), 1)
    queue.close(0.05)
    for job in (running, waiting):
        assert isinstance(job.future.exception(1), QueueClosed)
    with pytest.raises(QueueClosed):
        queue.submit(rows("c"), 1)
    slow.go.set()
    queue._thread.join(5)
    assert not queue._thread.is_alive()


def test_a_closed_queue_tells_also_those_who_are_asked_again_one_by_one() -> None:
    begun, go = threading.Semaphore(0), threading.Semaphore(0)

    def predict(records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        if len(records) > 1:
            raise DataError("one of them is wrong")
        begun.release()
        assert go.acquire(timeout=10)
        return [{} for _ in records]

    queue = PredictionQueue(predict, Limits())
    first = queue.submit(rows("a"), 1)
    assert begun.acquire(timeout=5)
    jobs = [queue.submit(rows(text), 1) for text in "bc"]
    go.release()
    first.future.result(5)
    assert begun.acquire(timeout=5)  # the two failed together, and the first of them is asked by itself
    assert queue.numbers() == {"waiting": 0, "running": 2}
    queue.close(0.05)
    for job in jobs:
        assert isinstance(job.future.exception(1), QueueClosed)
    go.release(2)
    queue._thread.join(5)
    assert not queue._thread.is_alive()
