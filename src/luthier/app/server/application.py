"""The server as an ASGI application: the routes behind the guard."""

from __future__ import annotations

import html
import secrets
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from luthier.app.server.access import OPEN, GuardedRoute, check_routes, hash_token
from luthier.app.server.answers import WRONG
from luthier.app.server.errors import ClientGone, Refused, error_body
from luthier.app.server.guard import App, Guard, Say
from luthier.app.server.prediction_routes import add_prediction_routes
from luthier.app.server.status_routes import add_status_routes
from luthier.app.server.validation import explain
from luthier.app.server.writing_routes import add_writing_routes
from luthier.serving.service import Service

FILES = {"/": ("page.html", "text/html"), "/page.js": ("page.js", "text/javascript"), "/page.css": ("page.css", "text/css")}
"""The page, and what it loads: read once, so that no path of a client ever reaches the disk."""


def make_application(service: Service, token: str, hosts: set[str], say: Say | None = None) -> App:
    """The server as an ASGI application.

    Args:
        service: that it serves.
        token: that clients have to give.
        hosts: values of the Host header that are answered, such as "127.0.0.1:8000".
        say: told a line a request.

    Raises:
        ValueError: a route does not say who may ask it.
    """
    app = make_routes(service, token)
    return Guard(app, service, hosts, say)


def make_routes(service: Service, token: str) -> FastAPI:
    """The routes alone.

    Args:
        service: that they serve.
        token: that clients have to give.

    Raises:
        ValueError: a route does not say who may ask it.
    """
    app = FastAPI(
        title="Luthier", version=version("luthier"), description="A model that was trained with Luthier. Every route but the page and `/health` needs the token as `Authorization: Bearer TOKEN`.",
        openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.router.route_class = GuardedRoute
    app.state.service, app.state.token, app.state.version = service, hash_token(token), version("luthier")
    add_status_routes(app)
    add_prediction_routes(app)
    add_writing_routes(app)
    _add_pages(app)
    app.add_exception_handler(Refused, _answer_refusal)
    app.add_exception_handler(ClientGone, _answer_gone_client)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    check_routes(app.routes)
    return app


def _add_pages(app: FastAPI) -> None:
    """The page to try the model, and the documentation of the routes."""
    for path, (name, kind) in FILES.items():
        _add_file(app, path, (Path(__file__).parent / name).read_bytes(), kind)
    document: dict[str, Any] = {}

    @app.get("/openapi.json", openapi_extra=OPEN, responses=WRONG, tags=["server"])
    async def openapi() -> JSONResponse:
        """The routes as an OpenAPI document."""
        if not document:
            document.update(openapi_document(app))
        return JSONResponse(document)

    @app.get("/docs", openapi_extra=OPEN, response_class=HTMLResponse, responses=WRONG, tags=["server"])
    async def docs() -> HTMLResponse:
        """The routes as a page."""
        return HTMLResponse(docs_page(document or openapi_document(app)))


def _add_file(app: FastAPI, path: str, content: bytes, kind: str) -> None:
    @app.get(path, openapi_extra=OPEN, include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=kind)


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with how the token is given."""
    document = app.openapi()
    document.setdefault("components", {})["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    for operations in document["paths"].values():
        for operation in operations.values():
            if operation.get("responses", {}).get("422", {}).get("description") == "Validation Error":
                del operation["responses"]["422"]  # FastAPI adds its own; ours are 400
    return document


def docs_page(document: dict[str, Any]) -> str:
    """The routes as a page without a script.

    Args:
        document: of OpenAPI.
    """
    parts = []
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            about = html.escape(operation.get("description", ""))
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
            fields = schemas.get(body.rpartition("/")[2], {})
            needed = fields.get("required", ())
            rows = "".join(
                f"<tr><td><code>{html.escape(name)}</code></td><td>{'needed' if name in needed else ''}</td><td>{html.escape(_type_of(field))}</td><td>{html.escape(field.get('description', ''))}</td></tr>"
                for name, field in fields.get("properties", {}).items()
            )
            table = f"<table>{rows}</table>" if rows else ""
            lock = "" if operation.get("x-access") == "open" else " <span class=soft>needs the token</span>"
            parts.append(f"<section><h2><code>{method.upper()} {html.escape(path)}</code>{lock}</h2><p>{about}</p>{table}</section>")
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Luthier: routes</title><link rel="stylesheet" href="/page.css">'
    return f'{head}<header><p class=brand>Luthier</p><h1>Routes</h1><p class=soft>The same as an OpenAPI document: <a href="/openapi.json">/openapi.json</a>. To try the model: <a href="/">/</a>.</p></header><main>{"".join(parts)}</main></html>'


def _type_of(field: dict[str, Any]) -> str:
    kinds = [one.get("type", "object") for one in field.get("anyOf", [field])]
    return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))


async def _answer_refusal(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Refused)
    closing = {"connection": "close"} if problem.status in (401, 408, 413, 415) else {}  # the body has not been read
    return JSONResponse(problem.body(), problem.status, {**problem.headers, **closing})


async def _answer_gone_client(request: Request, problem: Exception) -> Response:
    request.app.state.service.counters.add("luthier_cancelled_total")
    return Response(status_code=499)


async def _http(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    known = {404: "there is no such route; /docs lists them", 405: "this route does not take this method; /docs says which it takes"}
    return JSONResponse(
        error_body(problem.status_code, known.get(problem.status_code, str(problem.detail))), problem.status_code, problem.headers
    )


async def _invalid(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, RequestValidationError)
    refused = explain(problem.errors(), request.scope.get("route"), getattr(request, "_json", None))
    request.app.state.service.counters.add("luthier_refused_total", reason="invalid")
    return JSONResponse(refused.body(), refused.status)


def make_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)
