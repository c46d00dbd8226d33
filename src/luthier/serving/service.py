"""What a server serves: one model at a time, that can be replaced by another while requests are running."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.errors import LuthierError, ModelError
from luthier.serving.counters import Counters
from luthier.serving.limits import Limits
from luthier.serving.prediction_queue import PredictionQueue

if TYPE_CHECKING:
    from luthier.core.types import Record
    from luthier.families.family import Family
    from luthier.serving.interface import GenerationEngine
    from luthier.serving.prompts import Prompts

CLOSING_SECONDS = 5.0
"""That a replaced model has to end its thread once nobody uses it."""


class NotReady(LuthierError):
    """No request is taken now: the model is being loaded, or the server shuts down."""


@dataclass
class ServedModel:
    """A model at work.

    Args:
        name: by which clients ask for it.
        family: what kind of model it is.
        model: the network, in eval mode.
        objective: as the evaluation used it; it has the columns and the tokenizer.
        about: what `/info` tells of it.
        queue: in front of the family's `predict`.
        read: rows as a client sent them, each an object of columns → rows that were checked; raises `DataError`.
        postprocess: a prediction, `top`, the threshold → what is answered.
        choose_threshold: `top`, `abstain_below`, `error_below` → the confidence below which the label is left out, or None; raises `ExperimentError` where they do not fit.
        count_tokens: of texts.
        refuse_long: refuses rows that are longer than the model reads; raises `DataError`.
        engine: that writes text; None where the model cannot.
        prompts: its tokenizer, where it writes text.
        example: a row that it can be asked about.
        context: tokens that a text and its answer may have together; 0 where the model writes none.
    """

    name: str
    family: Family
    model: Any
    objective: Any
    about: dict[str, Any]
    queue: PredictionQueue
    read: Callable[[list[dict[str, Any]]], list[Record]]
    postprocess: Callable[[dict[str, Any], int | None, float | None], dict[str, Any]]
    choose_threshold: Callable[[int | None, float | None, float | None], float | None]
    count_tokens: Callable[[Sequence[str]], int]
    refuse_long: Callable[[Sequence[Record]], None]
    engine: GenerationEngine | None = None
    prompts: Prompts | None = None
    example: dict[str, Any] = field(default_factory=dict)
    context: int = 0
    users: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """That it reads."""
        return tuple(self.objective.input)

    def close(self, grace: float = 0.0) -> None:
        """End its threads."""
        self.queue.close(grace)
        if self.engine is not None:
            self.engine.close(grace)


Open = Callable[[], ServedModel]
"""Loads a model and tries it; raises what is wrong with it."""


class Service:
    """One model behind a server; any thread may use it.

    Args:
        limits: of the server.
        counters: of what is done.
    """

    def __init__(self, limits: Limits | None = None, counters: Counters | None = None) -> None:
        self.limits, self.counters = limits or Limits(), counters or Counters()
        self.state: Literal["loading", "ready", "draining"] = "loading"
        self.began = time.time()
        self._model: ServedModel | None = None
        self._changed = threading.Condition()
        self._swapping = threading.Lock()

    @property
    def model(self) -> ServedModel:
        """The model that new requests go to.

        Raises:
            NotReady: there is none yet, or no new requests are taken.
        """
        if self._model is None or self.state != "ready":
            raise NotReady(
                "the model is being loaded" if self.state == "loading" else "the server is shutting down", "ask again in a few seconds"
            )
        return self._model

    @property
    def loaded(self) -> ServedModel | None:
        """The model, also while the server shuts down."""
        return self._model

    @property
    def running(self) -> int:
        """Requests that use the model."""
        with self._changed:
            return self._model.users if self._model is not None else 0

    def acquire(self) -> ServedModel:
        """The model, for a request that will `release` it.

        Raises:
            NotReady: see `model`.
        """
        with self._changed:
            model = self.model
            model.users += 1
            return model

    def release(self, model: ServedModel) -> None:
        """A request has ended."""
        with self._changed:
            model.users -= 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def borrow(self) -> Iterator[ServedModel]:
        """The model for the time of a request: it is not closed meanwhile, whatever takes its place.

        Raises:
            NotReady: see `model`.
        """
        model = self.acquire()
        try:
            yield model
        finally:
            self.release(model)

    def load(self, open_model: Open) -> ServedModel:
        """Load the first model.

        Raises:
            LuthierError: it cannot be loaded, or fails its proof.
        """
        model = open_model()
        prove_answers(model)
        with self._changed:
            self._model = model
            if self.state == "loading":
                self.state = "ready"
        return model

    def swap(self, open_model: Open) -> ServedModel:
        """Replace the model: load the new one, prove that it answers, send new requests to it, let the old one finish its requests, and close it.

        Returns once the old one is closed; the old one stays where anything is wrong with the new one.

        Raises:
            LuthierError: the new model cannot be loaded, or fails its proof.
        """
        with self._swapping:
            try:
                model = open_model()
                prove_answers(model)
            except Exception:
                self.counters.add("luthier_swap_failures_total")
                raise
            with self._changed:
                old, self._model = self._model, model
                self.counters.add("luthier_swaps_total")
                if old is not None:
                    self._changed.wait_for(lambda replaced=old: replaced.users == 0)
            if old is not None:
                old.close(CLOSING_SECONDS)
                old = None
                gc.collect()  # a network and its hooks refer to each other: their memory would wait for a collection that may be hours away
            return model

    def drain(self, grace: float) -> bool:
        """Take no new requests, let those that run finish, end the rest, and close the model.

        Args:
            grace: seconds that they have.

        Returns:
            Whether all of them finished.
        """
        with self._changed:
            self.state = "draining"
            model = self._model
            finished = self._changed.wait_for(lambda: model is None or model.users == 0, grace)
        if model is not None:
            model.close()
        return finished


def prove_answers(model: ServedModel) -> None:
    """Ask a model about one row before anybody else does.

    Raises:
        ModelError: it does not answer.
    """
    try:
        job = model.queue.submit(model.read([model.example]), 1)
        if not job.future.result()[0]:
            raise ModelError(f"{model.name} says nothing of {model.example}")
    except Exception as problem:
        model.close()
        if isinstance(problem, LuthierError):
            raise
        raise ModelError(
            f"{model.name} cannot answer: {type(problem).__name__}: {problem}", "look at its run; `luthier predict` asks it the same"
        ) from problem
