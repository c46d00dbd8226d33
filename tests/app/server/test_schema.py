"""schemathesis asks every route of the OpenAPI document for what it allows and what it does not: no 5xx, no status or type that is not documented."""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from luthier.app.server.application import make_routes, openapi_document
from luthier.serving.service import Service
from tests.app.server.conftest import Client

DOCUMENT = openapi_document(make_routes(Service(), "t" * 20))
PLACES = [
    (mode, method.upper(), path)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
    for mode in ("positive", *(["negative"] if operation.get("requestBody") or operation.get("parameters") else []))
]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
EXAMPLES = 12


@pytest.mark.parametrize(("mode", "method", "path"), PLACES)
def test_no_request_that_the_document_allows_or_forbids_breaks_a_route(chat: Client, mode: str, method: str, path: str) -> None:
    cases = SCHEMA[path][method].as_strategy(generation_mode=schemathesis.GenerationMode(mode))

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(cases, some.booleans())
    def ask(case: Any, right: bool) -> None:
        if isinstance(case.body, dict) and right and "model" in case.body:
            case.body["model"] = "talker"
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {chat.token}"}
        answer = case.call(base_url=f"http://127.0.0.1:{chat.port}")
        case.validate_response(answer, checks=CHECKS)

    ask()


def test_the_document_says_who_may_ask_and_what_is_answered() -> None:
    assert DOCUMENT["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    for path, operations in DOCUMENT["paths"].items():
        for operation in operations.values():
            assert operation["security"] == ([] if operation["x-access"] == "open" else [{"bearer": []}]), path
            assert operation["description"]
    assert "HTTPValidationError" not in json.dumps(DOCUMENT["paths"])
    assert DOCUMENT["components"]["schemas"]["ChatRequest"]["additionalProperties"] is False
