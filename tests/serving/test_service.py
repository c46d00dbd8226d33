"""One model after another: no request is lost when a model is replaced, and none is taken by a model that cannot answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, cast

import pytest

from luthier.core.errors import ModelError
from luthier.core.types import Record
from luthier.serving.limits import Limits
from luthier.serving.prediction_queue import PredictionQueue, QueueClosed
from luthier.serving.service import NotReady, ServedModel, Service


def serve(name: str, fault: Exception | None = None, seconds: float = 0.0) -> ServedModel:
    """A model that says its name."""

    def predict(records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        if fault is not None:
            raise fault
        time.sleep(seconds)
        return [{"text": name} for _ in records]

    return ServedModel(
        name, cast(Any, None), None, None, {}, PredictionQueue(predict, Limits()), lambda rows: [Record(1, row) for row in rows], lambda one, top, below: one,
        lambda top, below: None, lambda texts: 0, lambda records: None, example={"text": "x"},
    )  # fmt: skip


def ask(service: Service) -> str:
    with service.borrow() as model:
        return model.queue.submit(model.read([{"text": "x"}]), 1).future.result(10)[0]["text"]


def test_nothing_is_answered_before_it_is_loaded_or_while_it_ends() -> None:
    service = Service()
    with pytest.raises(NotReady, match="being loaded"):
        ask(service)
    service.load(lambda: serve("a"))
    assert (service.state, ask(service)) == ("ready", "a")
    assert service.drain(1)
    with pytest.raises(NotReady, match="shutting down"):
        ask(service)


def test_no_request_is_lost_while_models_are_replaced() -> None:
    service, found, stop = Service(), list[str](), threading.Event()
    service.load(lambda: serve("0", seconds=0.002))
    problems: list[Exception] = []

    def work() -> None:
        while not stop.is_set():
            try:
                found.append(ask(service))
            except Exception as problem:
                problems.append(problem)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    old = service.model
    for number in range(1, 6):
        time.sleep(0.03)
        service.swap(lambda number=number: serve(str(number), seconds=0.002))
        assert ask(service) == str(number)
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems
    assert {str(number) for number in range(6)} <= set(found)
    assert service.counters.total("luthier_swaps_total") == 5
    assert old.users == 0 and not old.queue._thread.is_alive()
    with pytest.raises(QueueClosed):
        old.queue.submit([], 1)
    service.drain(1)


@pytest.mark.parametrize("fault", [ValueError("secret"), ModelError("not whole")])
def test_a_model_that_cannot_answer_replaces_nothing(fault: Exception) -> None:
    service = Service()
    service.load(lambda: serve("a"))
    bad = serve("b", fault)
    with pytest.raises(ModelError):
        service.swap(lambda: bad)
    assert ask(service) == "a"
    assert service.counters.total("luthier_swap_failures_total") == 1
    bad.queue._thread.join(5)
    assert not bad.queue._thread.is_alive()

    def cannot() -> ServedModel:
        raise ModelError("no such bundle")

    with pytest.raises(ModelError, match="no such bundle"):
        service.swap(cannot)
    assert ask(service) == "a"
    service.drain(1)


def test_the_end_waits_for_those_that_run_and_not_for_ever() -> None:
    service = Service()
    model = service.load(lambda: serve("a"))
    with service.borrow():
        began = time.monotonic()
        assert not service.drain(0.1)
        assert 0.1 <= time.monotonic() - began < 5
    model.queue._thread.join(5)
    assert not model.queue._thread.is_alive()


def test_a_replaced_model_stays_open_for_those_who_have_it() -> None:
    service = Service()
    service.load(lambda: serve("a"))
    swapped = threading.Event()
    with service.borrow() as old:
        thread = threading.Thread(target=lambda: (service.swap(lambda: serve("b")), swapped.set()))
        thread.start()
        while service.model is old:
            time.sleep(0.005)
        assert ask(service) == "b"
        assert not swapped.wait(0.1)
        assert old.queue.submit(old.read([{"text": "x"}]), 1).future.result(10)[0]["text"] == "a"  # taken before, asked after
    assert swapped.wait(10)
    thread.join()
    service.drain(1)
