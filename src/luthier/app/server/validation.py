"""What is wrong with a body, said by the field it is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

from luthier.app.server.errors import Refused
from luthier.app.server.requests import NOT_SUPPORTED
from luthier.core.errors import nearest

KINDS = {
    "string_type": "a text", "dict_type": "an object", "model_type": "an object", "model_attributes_type": "an object",
    "list_type": "a list", "int_type": "a whole number", "float_type": "a number", "bool_type": "true or false",
}  # fmt: skip
"""What pydantic misses → what is meant, for a field that may be several things."""


def explain(problems: Sequence[Any], route: Any, body: Any) -> Refused:
    """The first of pydantic's problems as an answer.

    Args:
        problems: as pydantic lists them.
        route: that was asked; it knows the fields.
        body: as it was sent.
    """
    ranks = ("too_long", "extra_forbidden")  # of a union: that a list is too long, though its items would fit
    first = max(
        problems, key=lambda problem: (ranks.index(problem["type"]) if problem["type"] in ranks else -1, len(_path(problem, body)[1]))
    )
    where, path = _path(first, body)
    name = ".".join(str(part) for part in path)
    kinds = dict.fromkeys(KINDS[problem["type"]] for problem in problems if problem["type"] in KINDS and _path(problem, body)[1] == path)
    if first["type"] in KINDS and len(kinds) > 1:
        return Refused(400, f"{name}: should be {' or '.join(kinds)}", name, "invalid_value")
    if first["type"] == "extra_forbidden":
        last = str(path[-1])
        if last in NOT_SUPPORTED:
            return Refused(400, f"{name} is not supported here", name, "unsupported_parameter")
        return Refused(400, f"there is no field {name[:100]}; {nearest(last, _fields(route, path[:-1]))}", name[:100], "unknown_parameter")
    if first["type"] == "missing":
        return Refused(400, f"{name} is missing", name, "missing_parameter")
    return Refused(400, f"{name or where}: {first['msg'][:1].lower()}{first['msg'][1:]}", name or None, "invalid_value")


def _path(problem: Any, body: Any) -> tuple[str, list[Any]]:
    """Where in the request, and at which path there; names that pydantic adds for the branches of a union are left out."""
    where, *parts = problem["loc"]
    path: list[Any] = []
    value = body
    for depth, part in enumerate(parts):
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
        elif not (problem["type"] == "missing" and depth == len(parts) - 1):
            continue
        path.append(part)
    return str(where), path


def _fields(route: Any, path: Sequence[Any]) -> list[str]:
    """The fields of what stands at a path of the body."""
    model = _model(getattr(getattr(route, "body_field", None), "field_info", None) and route.body_field.field_info.annotation)
    for part in path:
        if model is not None and isinstance(part, str) and part in model.model_fields:
            model = _model(model.model_fields[part].annotation)
    return list(model.model_fields) if model is not None else []


def _model(annotation: Any) -> type[BaseModel] | None:
    """The first class of fields within a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model(part)) is not None), None)
