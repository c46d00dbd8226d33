"""A component: a frozen, validated value whose fields are its hyperparameters."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from luthier.core.errors import ExperimentError, nearest
from luthier.core.table import Table


class Component(BaseModel):
    """The base of every value that an experiment is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def from_table(table: Table, value: object) -> object:
    """Turn `{"kind": name, …}` into the component that the table lists under that name.

    Args:
        table: the room's table.
        value: a mapping with a `kind`, a bare name, or a component that is already built.

    Raises:
        ExperimentError: no such kind, or a field that the kind does not have.
    """
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, dict):
        return value
    if "kind" not in value:
        raise ExperimentError(f"a {table.noun} needs a kind", nearest("", table))
    return build(table[value["kind"]], value, table.noun)


def build(component: type[Component], value: dict[str, Any], where: str) -> Component:
    """Validate `value` as `component`; a mistake answers with the path and the nearest name.

    Raises:
        ExperimentError: an unknown or ill-typed field.
    """
    try:
        return component.model_validate(value)
    except ValidationError as problem:
        raise explain_problem(problem, component, where) from None


def set_at_path(whole: dict[str, Any], path: str, value: Any, where: str = "") -> None:
    """Put a value into nested mappings, at a dotted path that is there.

    Args:
        whole: changed in place.
        path: such as "optimizer.lr".
        value: what stands there from now on.
        where: what the path begins from, for the message.

    Raises:
        ExperimentError: there is no such field; the message gives the nearest.
    """
    *parents, last = path.split(".")
    node: Any = whole
    for depth, part in enumerate(parents):
        if not isinstance(node.get(part), dict):
            raise ExperimentError(f"there is no field {'.'.join([*filter(None, [where]), *parents[: depth + 1]])!r}", nearest(part, node))
        node = node[part]
    if last not in node:
        raise ExperimentError(
            f"there is no field {'.'.join(filter(None, [where, path]))!r}", _name_field(whole, last, where) or nearest(last, node)
        )
    node[last] = value


def _name_field(whole: dict[str, Any], name: str, where: str) -> str:
    """A sentence that names the fields called so in all sections; empty where there are none."""
    paths = [".".join(filter(None, [where, path])) for path in _paths_to(whole, name)]
    return f"did you mean {' or '.join(map(repr, paths))}?" if paths else ""


def _paths_to(whole: dict[str, Any], name: str) -> list[str]:
    """The dotted paths of the fields of a name in nested mappings; the record of where an experiment ran is none of them."""
    sections = {section: inner for section, inner in whole.items() if isinstance(inner, dict) and section != "environment"}
    below = [f"{section}.{path}" for section, inner in sections.items() for path in _paths_to(inner, name)]
    return [*([name] if name in whole else []), *below]


def explain_problem(problem: ValidationError, component: type[BaseModel], where: str) -> ExperimentError:
    """The first validation problem as an error that teaches."""
    first = problem.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        owner: Any = component
        for part in first["loc"][:-1]:
            owner = owner.model_fields[str(part)].annotation
        return ExperimentError(f"{where} has no field {path!r}", nearest(str(first["loc"][-1]), owner.model_fields))
    value = first.get("input")
    return ExperimentError(f"{where}.{path}: {first['msg'].lower()}, got {value!r}", f"set {path} to a value that fits")
