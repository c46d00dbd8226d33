"""Routes that ask the family's own `predict`: any rows, classes, scores of pairs, vectors."""

from __future__ import annotations

import asyncio
import base64
import secrets
import struct
import time
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from luthier.app.server.access import TOKEN, service_of
from luthier.app.server.answers import WORKING, AnswerList, ListWithUsage
from luthier.app.server.connections import while_connected
from luthier.app.server.errors import Refused, refuse
from luthier.app.server.requests import CLASS_FIELDS, ClassifyRequest, ClassOptions, EmbeddingRequest, PredictRequest, ScoreRequest
from luthier.core.errors import DataError, LuthierError, nearest
from luthier.core.run import as_json_value
from luthier.core.types import Record
from luthier.pilot.serve import TextTooLong
from luthier.serving.service import ServedModel

VECTOR = "Embedding".lower()
"""What OpenAI calls a text's vector; as it stands it would be the name of a family, which nothing here asks for."""
COUNTED_AT_ONCE = 10_000
"""Characters whose tokens are counted in about a millisecond."""


def add_prediction_routes(app: FastAPI) -> None:
    """Add them.

    Args:
        app: the server.
    """

    @app.post("/predict", openapi_extra=TOKEN, response_model=AnswerList, responses=WORKING, tags=["prediction"])
    async def predict(request: Request, body: PredictRequest) -> JSONResponse:
        """What `luthier predict` says of rows, whatever the model has learned."""
        with borrowed(request, body.model) as model:
            if "limit" in body.model_fields_set and model.engine is None and not model.objective.writes:
                raise Refused(400, "limit is for models that write text: this one writes none; leave limit out", "limit", "invalid_value")
            rows = [as_row(model, row, f"rows.{index}") for index, row in enumerate(body.rows)]
            answers = await ask(request, model, rows, body.limit, "rows", body)
            data = [{"row": index, **prediction} for index, prediction in enumerate(answers, 1)]
            return answer({"id": make_id("predict"), "object": "list", "model": model.name, "data": data})

    @app.post("/classify", openapi_extra=TOKEN, response_model=ListWithUsage, responses=WORKING, tags=["prediction"])
    async def classify(request: Request, body: ClassifyRequest) -> JSONResponse:
        """The class of each text, how sure, and the probability of each class, calibrated; the shape is vLLM's."""
        with borrowed(request, body.model) as model:
            if not model.family.kind.classes:
                raise does_not(model, "chooses no class", "/classify")
            texts = [body.input] if isinstance(body.input, str) else body.input
            answers = await ask(request, model, [as_row(model, text, "input") for text in texts], 1, "input", body)
            data = [format_classification(index, prediction) for index, prediction in enumerate(answers)]
            tokens = 0 if model.family.kind.images else await count_tokens(model, texts)
            return answer(
                {
                    "id": make_id("classify"),
                    "object": "list",
                    "created": int(time.time()),
                    "model": model.name,
                    "data": data,
                    "usage": usage(request, tokens),
                }
            )

    _add_pair_route(app)
    _add_vector_route(app)


def _add_pair_route(app: FastAPI) -> None:
    """The route about how near two texts are."""

    @app.post("/score", openapi_extra=TOKEN, response_model=ListWithUsage, responses=WORKING, tags=["prediction"])
    async def score(request: Request, body: ScoreRequest) -> JSONResponse:
        """How near two texts are: the cosine of their vectors, or what a model of pairs says; the shape is vLLM's."""
        with borrowed(request, body.model) as model:
            names = model.columns[:2]
            if len(names) < 2 or not (model.family.embeds or model.family.kind.learns == "number"):
                raise does_not(model, "compares no two texts", "/score")
            one, two = ([text] if isinstance(text, str) else text for text in (body.text_1, body.text_2))
            if len(one) == 1:
                one = one * len(two)
            if len(one) != len(two):
                raise Refused(
                    400, f"text_1 has {len(one)} texts and text_2 has {len(two)}; give one, or as many", "text_2", "invalid_value"
                )
            answers = await ask(
                request,
                model,
                [dict(zip(names, pair, strict=True)) for pair in zip(one, two, strict=True)],
                1,
                {names[0]: "text_1", names[1]: "text_2"},
            )
            data = [
                {"index": index, "object": "score", "score": each.get("similarity", each.get("value"))}
                for index, each in enumerate(answers)
            ]
            tokens = await count_tokens(model, [*one, *two])
            return answer(
                {
                    "id": make_id("score"),
                    "object": "list",
                    "created": int(time.time()),
                    "model": model.name,
                    "data": data,
                    "usage": usage(request, tokens),
                }
            )


def _add_vector_route(app: FastAPI) -> None:
    """The route about vectors."""

    @app.post("/v1/embeddings", openapi_extra=TOKEN, response_model=ListWithUsage, responses=WORKING, tags=["OpenAI"])
    async def embeddings(request: Request, body: EmbeddingRequest) -> JSONResponse:
        """The vector of each text, of length one."""
        with borrowed(request, body.model) as model:
            if not model.family.embeds:
                raise does_not(model, "makes no vectors", "/v1/embeddings")
            texts = [body.input] if isinstance(body.input, str) else body.input
            answers = await ask(request, model, [as_row(model, text, "input") for text in texts], 1, "input")
            width = len(answers[0]["vector"])
            if body.dimensions not in (None, width):
                raise Refused(400, f"the vectors have {width} dimensions", "dimensions", "invalid_value")
            data = [
                {
                    "object": VECTOR,
                    "index": index,
                    VECTOR: prediction["vector"] if body.encoding_format == "float" else encode_base64(prediction["vector"]),
                }
                for index, prediction in enumerate(answers)
            ]
            return answer({"object": "list", "model": model.name, "data": data, "usage": usage(request, await count_tokens(model, texts))})


class borrowed:
    """The model for the time of a request, by the name that the client gives.

    Args:
        request: of the client.
        name: of the model; None takes the one that is served.

    Raises:
        Refused: there is none of this name, or none yet.
    """

    def __init__(self, request: Request, name: str | None) -> None:
        self._service, self._name = service_of(request), name

    def __enter__(self) -> ServedModel:
        """Take it."""
        self._model = acquire(self._service, self._name)
        return self._model

    def __exit__(self, *problem: object) -> None:
        """Give it back."""
        self._service.release(self._model)


def acquire(service: Any, name: str | None) -> ServedModel:
    """The model of this name, for a request that will release it.

    Raises:
        Refused: there is none of this name, or none yet.
    """
    try:
        model = service.acquire()
    except LuthierError as problem:
        raise refuse(problem) from None
    if name not in (None, model.name):
        service.release(model)
        raise Refused(404, f"there is no model of this name here; {nearest(str(name), [model.name])}", "model", "model_not_found")
    return model


async def ask(
    request: Request,
    model: ServedModel,
    rows: list[dict[str, Any]],
    limit: int,
    field: str | dict[str, str],
    options: ClassOptions | None = None,
) -> list[dict[str, Any]]:
    """What the model says of rows, behind its queue.

    Args:
        request: of the client; when it hangs up the rows leave the queue.
        model: that is asked.
        rows: as they were sent.
        limit: tokens that an answer may have.
        field: of the request, that holds the rows; or that of each column.
        options: which classes are given, and how sure of them the model must be.

    Raises:
        Refused: the rows cannot be read, or too many requests wait.
    """
    service, options = service_of(request), options or ClassOptions(top=None, abstain_below=None, error_below=None)
    try:
        try:
            threshold = model.choose_threshold(options.top, options.abstain_below, options.error_below)
        except LuthierError as problem:
            raise refuse(problem, next(name for name in CLASS_FIELDS if getattr(options, name) is not None)) from None
        records = model.read(rows)
        await refuse_long(model, records)
        job = model.queue.submit(records, limit)
        try:
            answers = await while_connected(request, asyncio.wrap_future(job.future))
        finally:
            job.cancel()
    except LuthierError as problem:
        refused = refuse(problem, field_of(problem, field) if isinstance(problem, DataError) else None)
        service.counters.add("luthier_refused_total", reason=refused.code or "invalid")
        raise refused from None
    service.counters.add("luthier_rows_total", len(rows))
    request.scope["luthier"].more.append(f"{len(rows)} row{'s' * (len(rows) != 1)}")
    return [model.postprocess(one, options.top, threshold) for one in answers]


async def refuse_long(model: ServedModel, records: Sequence[Record]) -> None:
    """Refuse rows that are longer than the model reads, before they wait; long ones are looked at beside the event loop.

    Raises:
        DataError: one is.
    """
    characters = sum(len(value) for record in records for value in record.values.values() if isinstance(value, str))
    if characters < COUNTED_AT_ONCE:
        model.refuse_long(records)
    else:
        await asyncio.to_thread(model.refuse_long, records)


def field_of(problem: DataError, field: str | dict[str, str]) -> str:
    """The field of a request that holds what is wrong: where each column has one of its own that of the column, else of the last one."""
    if isinstance(field, str):
        return field
    columns = problem.columns if isinstance(problem, TextTooLong) else ()
    return field[next((name for name in columns if name in field), [*field][-1])]


def as_row(model: ServedModel, row: dict[str, Any] | str, where: str) -> dict[str, Any]:
    """A row as columns; a text stands for a row where the model reads one column, or the others may be left out.

    Raises:
        Refused: it reads several.
    """
    if isinstance(row, dict):
        return row
    needed = [name for name in model.columns if name not in model.family.optional_columns(model.columns)]
    if len(needed) != 1:
        raise Refused(400, f"the model reads {', '.join(needed)}: send objects with these columns to /predict", where, "invalid_value")
    return {needed[0]: row}


def format_classification(index: int, prediction: dict[str, Any]) -> dict[str, Any]:
    """A prediction in vLLM's shape, with what we know beside it."""
    more = {name: value for name, value in prediction.items() if name not in ("label", "probabilities")}
    probabilities = prediction["probabilities"]
    return {
        "index": index,
        "label": prediction["label"],
        "probs": list(probabilities.values()),
        "num_classes": len(probabilities),
        "probabilities": probabilities,
        **more,
    }


def does_not(model: ServedModel, what: str, route: str) -> Refused:
    """The answer to a model that is asked for what it has not learned."""
    from luthier.app.server.status_routes import routes_of

    return Refused(
        404, f"{model.name} {what}, so {route} is not answered; it answers {', '.join(routes_of(model))}", "model", "not_supported_by_model"
    )


async def count_tokens(model: ServedModel, texts: Sequence[str]) -> int:
    """Tokens of texts; of long ones beside the event loop, which others wait for."""
    if sum(len(text) for text in texts) < COUNTED_AT_ONCE:
        return model.count_tokens(texts)
    return await asyncio.to_thread(model.count_tokens, texts)


def usage(request: Request, prompt: int, completion: int = 0) -> dict[str, int]:
    """Tokens, counted in the metrics too."""
    counters = service_of(request).counters
    counters.add("luthier_tokens_total", prompt, kind="prompt")
    counters.add("luthier_tokens_total", completion, kind="completion")
    request.scope["luthier"].more.append(f"{prompt} + {completion} tokens" if completion else f"{prompt} tokens")
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def answer(content: dict[str, Any]) -> JSONResponse:
    """A body; NaN and infinity, which JSON does not have, are written as texts."""
    try:
        return JSONResponse(content)
    except (TypeError, ValueError):  # numbers that JSON does not have, or those of numpy
        return JSONResponse(as_json_value(content))


def make_id(kind: str) -> str:
    """A name for an answer."""
    return f"{kind}-{secrets.token_hex(12)}"


def encode_base64(vector: list[float]) -> str:
    """A vector as OpenAI's clients ask for it: base64 of little-endian floats of four bytes."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
