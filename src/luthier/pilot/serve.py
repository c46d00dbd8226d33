"""Open a bundle to be served: checked against its manifest, loaded, with a queue in front of it and, where it writes text, an engine behind it."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from luthier.core.aliases import Alias, read_alias
from luthier.core.errors import DataError, LuthierError, nearest
from luthier.core.run import Run
from luthier.core.types import Record
from luthier.data.spec import Data
from luthier.evaluation.abstention import Abstention
from luthier.families import family_of
from luthier.families.family import Family
from luthier.models.base import Base
from luthier.pilot.stages.opened_bundle import Say, choose_threshold, load_bundle, postprocess, resolve_bundle
from luthier.pilot.stages.prediction_rows import parse_reading_options, rows_to_predict
from luthier.pilot.stages.serving_engines import OpenedEngine, check_engine, open_engine_network, open_llama, open_onnx
from luthier.pilot.stages.serving_precision import check_precision, record_int8, texts_to_compare
from luthier.serving.image_rows import predict_images, read_images
from luthier.serving.limits import Limits
from luthier.serving.prediction_queue import PredictionQueue, poll_inside
from luthier.serving.prompts import Prompts
from luthier.serving.service import ServedModel, Service

AUTO = "torch (auto: by it the verdict was reached)"
"""What takes the place of the engine's name where nobody named one."""
WATCH_SECONDS = 0.5
"""Between two looks at an alias."""


class TextTooLong(DataError):
    """A text has more characters than the server reads, or more tokens than the model reads.

    Args:
        message: what is so.
        columns: that hold the text.
    """

    def __init__(self, message: str, columns: tuple[str, ...]) -> None:
        super().__init__(message, "send a shorter text")
        self.columns = columns


def check_bundle(bundle: str | os.PathLike[str], say: Say) -> Base:
    """Find a bundle and check every file of it; nothing is loaded yet.

    Args:
        bundle: RUN/bundle, the run's folder, or the run itself.
        say: told what a person should know.

    Raises:
        ModelError: there is none, or it is not as it was written.
    """
    return resolve_bundle(bundle, say)[0]


def describe_bundle(base: Base, name: str | None = None) -> dict[str, Any]:
    """What can be said of a bundle before it is loaded.

    Args:
        base: a bundle, resolved.
        name: by which clients ask for it; that of the run's folder when not given.
    """
    facts = base.bundle or {}
    run = Run(base.folder.parent) if base.folder.name == "bundle" else None
    verdict = run.verdict if run is not None and (run.folder / "verdict.json").is_file() else None
    own = base.folder.resolve()
    named = name or (own.parent.name if own.name == "bundle" else own.name) or "model"
    return {
        "name": named,
        "family": facts["task"],
        "sha256": base.fingerprint,
        "facts": facts.get("facts"),
        "experiment": facts.get("experiment"),
        "base": _base_name((facts.get("base") or {}).get("name")),
        "architecture": base.family,
        "dtype": facts.get("dtype"),
        "ships": facts.get("ships", "trained"),
        "temperature": facts.get("temperature"),
        "columns": list(facts["input"]),
        "promises": _promises(facts.get("abstention")),
        "labels": list(facts["objective"].get("labels") or ()),
        "verdict": _verdict(verdict),
    }


def _base_name(base: str | None) -> str | None:
    """A base's name; of one that lies in a folder the folder's, for clients need not know where."""
    return Path(base).name if base is not None and Path(base).is_absolute() else base


def _promises(table: dict[str, Any] | None) -> list[dict[str, float]]:
    """Which errors can be promised of the answers from which confidence on, and the share of the validation rows that are answered then."""
    if table is None:
        return []
    abstention = Abstention.from_json(table)
    return [
        {"error_below": promise.error_below, "threshold": promise.counts.threshold, "answered": round(promise.share, 4)}
        for promise in abstention.promises()
    ]


def _verdict(verdict: dict[str, Any] | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    test = verdict["test"]
    return {"verdict": verdict["verdict"], "metric": verdict["metric"], "value": test["value"], "low": test["low"], "high": test["high"]}


def load_model(
    base: Base,
    name: str | None = None,
    engine: str = "auto",
    limits: Limits | None = None,
    say: Say = lambda line: None,
    precision: str = "auto",
) -> ServedModel:
    """Load a bundle that was checked, and put it to work.

    Args:
        base: of `check_bundle`.
        name: by which clients ask for it.
        engine: what computes: auto, torch, llama.cpp or onnx.
        limits: of the server.
        say: told what takes long.
        precision: in which torch writes text: auto, fp32 or int8.

    Raises:
        LuthierError: it cannot be loaded.
    """
    check_engine(engine, base)
    check_precision(precision, engine, base)
    from luthier.training.devices import keep_few_kernels

    keep_few_kernels()
    limits = limits or Limits()
    about = describe_bundle(base, name)
    family = family_of(about["family"])
    opened = OPEN[engine](base, limits, say) if engine in OPEN else open_torch(base, limits, say, precision)
    model, objective, writes = opened.model, opened.objective, opened.engine
    context = min(writes.context, int(getattr(objective.spec, "context", 0) or writes.context)) if writes is not None else 0

    def predict(records: Any, limit: int) -> list[dict[str, Any]]:
        if writes is not None:  # what it holds at once, not what it was trained on at once: `luthier predict` goes on beyond that too
            limit = max(1, min(limit, writes.context - max(len(prompt_of(family, objective, record)) for record in records)))
        return family.predict(model, objective, records, limit)

    column = objective.input[0]
    together = writes is None and not family.generates and base.kind != "vectors"
    queue = PredictionQueue(predict_images(predict, column) if family.kind.images else predict, limits, together)
    poll_inside(model, queue.poll)
    about |= {
        "context": context or None,
        "engine": opened.about.replace("torch", AUTO, 1) if engine == "auto" else opened.about,
        "parity": opened.parity,
    }

    counters = token_counters(objective, family, context)
    return ServedModel(
        name=about["name"], family=family, model=model, objective=objective, about=about, queue=queue,
        read=lambda rows: read_rows(family, objective.input, rows, limits), postprocess=postprocess,
        choose_threshold=lambda top, abstain_below, error_below: choose_threshold(base, family, top, abstain_below, error_below),
        count_tokens=counters[0], refuse_long=counters[1], engine=writes, prompts=Prompts(family, objective) if writes is not None else None, example=family.example_row(objective), context=context,
    )  # fmt: skip


def prompt_of(family: Family, objective: Any, record: Record) -> Sequence[int]:
    """The tokens that a model which writes text is given of a row."""
    return cast("Sequence[int]", family.serving_inputs(record, objective)["tokens"])


def token_counters(
    objective: Any, family: Family, context: int = 0
) -> tuple[Callable[[Sequence[str]], int], Callable[[Sequence[Record]], None]]:
    """What counts the tokens of texts, and what refuses rows that are longer than the model reads; any thread may call them.

    They have a tokenizer of their own, for that of the model belongs to the thread that predicts.

    Args:
        objective: of the model; where its tokenizer is none of texts (images, word vectors), nothing is counted.
        family: of the model.
        context: tokens that a text and its answer may have together; 0 where the model writes none.
    """
    lock = threading.Lock()
    own = copy.copy(objective)
    counts = callable(objective.tokenizer)
    if counts:
        own.tokenizer = copy.deepcopy(objective.tokenizer)

    def count(texts: Sequence[str]) -> int:
        if not texts or not counts:
            return 0
        with lock:
            return sum(len(ids) for ids in own.tokenizer(list(texts), verbose=False)["input_ids"])

    def refuse_long(records: Sequence[Record]) -> None:
        with lock:
            cuts = own.cuts(records)
        for record, texts in zip(records, cuts, strict=True):
            for text in texts:
                has = f"{' and '.join(text.columns)} {'has' if len(text.columns) == 1 else 'have'} {text.tokens:,} tokens"
                raise TextTooLong(f"row {record.row}: {has}; the model reads {text.read:,}", text.columns)
        for record in records if context else ():
            with lock:
                tokens = len(prompt_of(family, own, record))
            if tokens >= context:
                message = f"row {record.row}: the prompt has {tokens:,} tokens; the model reads {context:,} together with the answer"
                raise TextTooLong(message, tuple(own.input))

    return count, refuse_long


def open_torch(base: Base, limits: Limits, say: Say, precision: str = "auto") -> OpenedEngine:
    """Serve a bundle by its own network; what writes text with a decoder is put behind a generation engine.

    Args:
        base: a bundle, resolved.
        limits: of the server.
        say: told what takes long.
        precision: in which text is written; a bundle that writes none has auto.

    Raises:
        ModelError: int8 cannot be had, or is farther from fp32 than rounding explains.
    """
    if precision == "int8":
        return _open_int8(base, limits, say)
    model, objective = load_bundle(base)
    from luthier.models.pretrained import Generator

    if not isinstance(model, Generator):
        return OpenedEngine(model, objective, None, "torch: each batch is one call of predict")
    from luthier.serving.generation import open_engine

    engine = open_engine(model, waiting=limits.generating, precision=precision)
    _share_network(model)
    return OpenedEngine(model, objective, engine, f"torch: {engine.about}")


OPEN: dict[str, Callable[[Base, Limits, Say], OpenedEngine]] = {"onnx": open_onnx, "llama.cpp": open_llama}
"""Engine → what opens it; all others are torch."""


def _open_int8(base: Base, limits: Limits, say: Say) -> OpenedEngine:
    """Write all text with weights in int8, that of `/predict` too: so the network in fp32 need not stay."""
    from luthier.serving.generation import open_engine

    model, objective = load_bundle(base)
    texts, where = texts_to_compare(base, objective, say)
    engine = open_engine(model, waiting=limits.generating, precision="int8", rows=texts)
    del model
    gc.collect()  # a network and its hooks refer to each other
    assert engine.parity is not None
    try:
        record = record_int8(engine.parity, where)
    except LuthierError:
        engine.close()
        raise
    say(record["verdict"])
    return open_engine_network(engine, base, f"torch: {engine.about}", record)


def _share_network(model: Any) -> None:
    """Let `predict` use the network beside the engine: what `for_generation` sets for a time, and sets back, stays set.

    Two threads may ask a network at once, as long as neither changes it; setting the attention back in one would change it under the other.
    """
    import torch

    model.network.set_attn_implementation("sdpa")
    model.eval()

    @contextlib.contextmanager
    def as_it_is() -> Iterator[Any]:
        with torch.no_grad():
            yield model.network

    model.for_generation = as_it_is


@functools.cache
def _usual_reading() -> Data:
    """How a file would be read; rows that were sent are none."""
    return parse_reading_options(())


def read_rows(family: Family, columns: tuple[str, ...], rows: list[dict[str, Any]], limits: Limits) -> list[Record]:
    """Rows as a client sent them, checked as those of a file are.

    Args:
        family: of the model.
        columns: that it reads.
        rows: each an object of columns.
        limits: of the server.

    Raises:
        DataError: a column that is not known or missing, a text that is too long or none; the message names the row.
    """
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            if name not in columns:
                raise DataError(f"row {number} has a column {name!r}, which the model does not read", nearest(name, columns))
            if not family.kind.images and isinstance(value, str) and len(value) > limits.characters:
                raise TextTooLong(f"row {number}: {name} has {len(value):,} characters; {limits.characters:,} are read", (name,))
    if family.kind.images:
        return read_images(rows, columns[0])
    found = family.rows_to_predict(rows, columns) or rows_to_predict(
        rows, columns, family.converses, _usual_reading(), family.optional_columns(columns)
    )
    return found[0]


def alias_of(bundle: str | os.PathLike[str]) -> Alias | None:
    """The alias of this name; None where there is none, and a folder is meant.

    Raises:
        RunError: the file of aliases is damaged.
    """
    return read_alias(os.fspath(bundle))


def follow_alias(service: Service, alias: str, load: Callable[[Base], ServedModel], say: Say, stop: threading.Event) -> threading.Thread:
    """Replace the model whenever an alias is given to another bundle, in a thread of its own.

    What is not fit to be served is said once, and the model stays as it is.

    Args:
        service: that serves it.
        alias: that is followed.
        load: a bundle that was checked → the model.
        say: told of each change.
        stop: set to end it.
    """
    seen = service.loaded.about["facts"] if service.loaded is not None else None

    def change(now: str) -> None:
        began = time.monotonic()
        try:
            new = service.swap(lambda: load(check_bundle(alias, say)))
        except Exception as problem:
            message = problem.message if isinstance(problem, LuthierError) else type(problem).__name__
            say(f"{alias} is another bundle now, and it cannot be served, so the old one stays: {message}")
            return
        say(
            f"{alias} is another bundle now ({new.about['sha256'][:12]}): loaded and in use after {time.monotonic() - began:.1f} s, no request was lost"
        )

    def watch() -> None:
        nonlocal seen
        while not stop.wait(WATCH_SECONDS):
            try:
                found = read_alias(alias)
            except LuthierError:
                continue  # somebody is mending the file: what is served stays
            if found is not None and found.hash != seen and service.state == "ready":
                seen = found.hash
                change(seen)

    thread = threading.Thread(target=watch, name="luthier-follow", daemon=True)
    thread.start()
    return thread
