"""Routes about the server: is it up, what does it serve, what has it done."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from luthier.app.server.access import OPEN, TOKEN, service_of
from luthier.app.server.answers import LOCKED, WRONG, Error, Health, Models
from luthier.app.server.errors import error_body
from luthier.core.run import as_json_value
from luthier.serving.service import Service

NOT_YET: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "It does not answer yet, or not any longer."}}


def add_status_routes(app: FastAPI) -> None:
    """Add them.

    Args:
        app: the server.
    """

    @app.get("/health", openapi_extra=OPEN, response_model=Health, responses={**WRONG, **NOT_YET}, tags=["server"])
    async def health(request: Request) -> JSONResponse:
        """Whether the server can be used: 503 until the model is loaded, and again from when it shuts down or what computes has ended by itself."""
        return answer_state(state_of(service_of(request)))

    @app.get("/ready", openapi_extra=OPEN, response_model=Health, responses={**WRONG, **NOT_YET}, tags=["server"])
    async def ready(request: Request) -> JSONResponse:
        """Whether a request would be taken now: 503 also while the queue is full."""
        service = service_of(request)
        state = state_of(service)
        return answer_state({"status": "busy"} if state["status"] == "ok" and queue_is_full(service) else state)

    @app.get("/metrics", openapi_extra=TOKEN, response_class=PlainTextResponse, responses=LOCKED, tags=["server"])
    async def metrics(request: Request) -> PlainTextResponse:
        """What the server has done, as Prometheus reads it."""
        service = service_of(request)
        return PlainTextResponse(service.counters.render(now_of(service)), media_type="text/plain; version=0.0.4")

    @app.get("/info", openapi_extra=TOKEN, responses=LOCKED, tags=["server"])
    async def info(request: Request) -> JSONResponse:
        """What is served, what it does, and every limit."""
        return JSONResponse(as_json_value(about(service_of(request), request.app.state.version)))

    @app.get("/v1/models", openapi_extra=TOKEN, response_model=Models, responses=LOCKED, tags=["OpenAI"])
    async def models(request: Request) -> JSONResponse:
        """The model that is served."""
        return JSONResponse({"object": "list", "data": cards(service_of(request))})

    @app.get(
        "/v1/models/{name}",
        openapi_extra=TOKEN,
        responses={**LOCKED, 404: {"model": Error, "description": "There is no such model here."}},
        tags=["OpenAI"],
    )
    async def model(request: Request, name: str) -> JSONResponse:
        """The model of this name."""
        matching = [card for card in cards(service_of(request)) if card["id"] == name]
        return (
            JSONResponse(matching[0])
            if matching
            else JSONResponse(error_body(404, "there is no such model here", "model", "model_not_found"), 404)
        )


def state_of(service: Service) -> dict[str, str]:
    """The state as `/health` tells it, with its reason where what computes has ended."""
    if service.state != "ready":
        return {"status": service.state}
    engine = service.loaded.engine if service.loaded is not None else None
    fault = engine.fault if engine is not None else None
    return (
        {"status": "ok"} if fault is None else {"status": "failed", "reason": fault.message.partition(":")[0]}
    )  # its last words may name paths


def answer_state(state: dict[str, str]) -> JSONResponse:
    """A state as an answer: 503 for all but a good one."""
    return JSONResponse(state, 200 if state["status"] == "ok" else 503)


def cards(service: Service) -> list[dict[str, Any]]:
    """The models that are served, as OpenAI lists them."""
    model = service.loaded
    return [{"id": model.name, "object": "model", "created": int(service.began), "owned_by": "luthier"}] if model is not None else []


def about(service: Service, version: str) -> dict[str, Any]:
    """What `/info` says.

    Args:
        service: what is served.
        version: of Luthier.
    """
    model = service.loaded
    return {
        "luthier": version,
        "state": service.state,
        "seconds": round(time.time() - service.began, 1),
        "limits": dataclasses.asdict(service.limits),
        "model": model.about | {"routes": routes_of(model), "example": model.example} if model is not None else None,
    }


def routes_of(model: Any) -> list[str]:
    """The routes that a model answers."""
    routes = ["/predict"]
    if model.family.kind.classes:
        routes.append("/classify")
    if model.family.embeds:
        routes += ["/v1/embeddings", "/score"]
    elif model.family.kind.learns == "number" and len(model.columns) == 2:
        routes.append("/score")
    if model.engine is not None:
        routes += ["/v1/chat/completions"] * model.family.converses + ["/v1/completions"]
    return routes


def queue_is_full(service: Service) -> bool:
    """Whether the next request would be answered 429."""
    model = service.loaded
    if model is None:
        return True
    written = model.engine is not None and model.engine.numbers().waiting >= service.limits.generating
    return written or model.queue.numbers()["waiting"] >= service.limits.waiting


def now_of(service: Service) -> list[tuple[str, dict[str, str], float]]:
    """What is so at the moment, for the metrics."""
    samples: list[tuple[str, dict[str, str], float]] = [
        ("luthier_ready", {}, float(service.state == "ready")),
        ("luthier_resident_bytes", {}, resident_bytes()),
    ]
    model = service.loaded
    if model is None:
        return samples
    samples.append(("luthier_model", {"name": model.name, "family": model.family.name, "sha256": model.about["sha256"]}, 1.0))
    samples += [("luthier_queue", {"state": state}, float(count)) for state, count in model.queue.numbers().items()]
    if model.engine is not None:
        numbers = dataclasses.asdict(model.engine.numbers())
        samples += [("luthier_generation", {"what": name}, float(count)) for name, count in numbers.items()]
    return samples


def resident_bytes() -> float:
    """Memory of this process; 0 where the system does not tell."""
    try:
        return float(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0.0
