"""What may vary in a search: dotted paths into the experiment, each with its prior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, Literal

from pydantic import Field

from luthier.core.component import Component, build
from luthier.core.errors import ExperimentError, nearest
from luthier.experiment import Experiment, number

Values = dict[str, Any]
"""A point of the space: path → value."""
SHARED = {
    "data": "all trials read the same rows",
    "model.base": "all trials train the same base",
    "model.fingerprint": "all trials train the same base",
    "objective.kind": "all trials learn the same task",
    "objective.labels": "all trials learn the same classes",
    "training.metric": "trials are ranked by one metric",
    "environment": "it records where a run was trained",
    "seed": "the best of several seeds is the luckiest, and is no better on new rows",
}
"""Fields (with all below them) in which the trials of a search do not differ, and why."""


class Dimension(Component):
    """A field that may vary, between what bounds, and where its good values are expected.

    The prior is a normal distribution around the centre, cut at the bounds, in units of the logarithm where the field is searched so; of options,
    the centre has the chance `1 - spread`.
    """

    path: str = Field(description="The field, dotted, such as optimizer.lr.")
    kind: Literal["log", "linear", "choice"] = Field(description="How its values lie.")
    low: float = Field(default=0.0, description="The smallest value.")
    high: float = Field(default=1.0, description="The largest value.")
    options: tuple[Any, ...] = Field(default=(), description="The values, where they are few.")
    centre: Any = Field(default=None, description="Where the best value is expected: the default's.")
    spread: float = Field(default=1.0, gt=0, description="How far from the centre it may well be.")
    why: str = Field(default="", description="Where centre and spread come from.")
    when: dict[str, Any] = Field(
        default_factory=dict, description="Other paths, and the value that each must have for this field to be there."
    )
    multiples: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="Other paths, and for values of theirs by how much the centre is multiplied."
    )

    def at(self, place: float) -> Any:
        """The value below which a share `place` of the bounds lies, 0 < place < 1; of options, the one that lies there."""
        if self.kind == "choice":
            return self.options[min(int(place * len(self.options)), len(self.options) - 1)]
        low, high = self._scale(self.low), self._scale(self.high)
        return self._unscale(low + place * (high - low))

    def quantile(self, place: float) -> Any:
        """The value below which a share `place` of the prior lies, 0 < place < 1."""
        return self._around(self.centre, self.spread, place)

    def near(self, value: Any, place: float) -> Any:
        """A value near another one: a third of the prior's spread."""
        return self._around(value, self.spread / 3, place)

    def _around(self, centre: Any, spread: float, quantile: float) -> Any:
        if self.kind == "choice":
            centre = centre if centre in self.options else self.centre
            others = [option for option in self.options if option != centre]
            stays = 1 - min(spread, 0.9)
            if quantile < stays or not others:
                return centre
            return others[min(int((quantile - stays) / (1 - stays) * len(others)), len(others) - 1)]
        normal = NormalDist(self._scale(float(centre)), spread)
        low, high = normal.cdf(self._scale(self.low)), normal.cdf(self._scale(self.high))
        return self._unscale(normal.inv_cdf(min(max(low + quantile * (high - low), 1e-9), 1 - 1e-9)))

    def _scale(self, value: float) -> float:
        return math.log(value) if self.kind == "log" else value

    def _unscale(self, value: float) -> float:
        raw = math.exp(value) if self.kind == "log" else value
        return float(f"{min(max(raw, self.low), self.high):.3g}")  # as a person would write it down

    def times(self, value: Any, multiple: float) -> Any:
        """A value so many times as great."""
        return value if multiple == 1 else self._unscale(self._scale(value * multiple))

    def as_text(self) -> str:
        """The dimension as `--space` takes it."""
        condition = "".join(f" if {path}={value}" for path, value in self.when.items())
        if self.kind == "choice":
            return f"{self.path}={'|'.join(str(option) for option in self.options)}{condition}"
        return f"{self.path}={self.low:.2g}..{self.high:.2g},{self.kind}{condition}"

    def applies_to(self, values: Mapping[str, Any]) -> bool:
        """Whether a point has this field."""
        return all(values.get(path) == value for path, value in self.when.items())

    def multiple(self, values: Mapping[str, Any]) -> float:
        """By how much the centre is multiplied at a point."""
        return math.prod(by.get(str(values.get(path)), 1.0) for path, by in self.multiples.items())


Space = tuple[Dimension, ...]


def settle_point(space: Sequence[Dimension], values: Values, asked: Mapping[str, Any] | None = None) -> Values:
    """A point as it was drawn, without the fields that it does not have, and with the values that follow from others.

    Args:
        space: what may vary.
        values: of every dimension.
        asked: those that were asked for as they are.
    """
    return {
        dimension.path: values[dimension.path]
        if dimension.path in (asked or {})
        else dimension.times(values[dimension.path], dimension.multiple(values))
        for dimension in space
        if dimension.applies_to(values)
    }


def loosen_point(space: Sequence[Dimension], values: Values) -> Values:
    """A point as it might have been drawn: with every field, and without the multiples."""
    return {
        dimension.path: dimension.times(values[dimension.path], 1 / dimension.multiple(values))
        if dimension.path in values
        else dimension.centre
        for dimension in space
    }


def parse_dimension(text: str, experiment: Experiment) -> Dimension:
    """A dimension as it is typed: `optimizer.lr=1e-5..1e-3`, `model.dropout=0..0.3,linear`, `adaptation.depth=2|3|4 if adaptation.kind=freeze`.

    Args:
        text: the path, "=", and bounds or options; bounds ten times apart or more are searched in logarithms unless `linear` is said; where
            the field is there only at some points, "if" and the value of another one.
        experiment: whose value is the centre.

    Raises:
        ExperimentError: it is not such a text, there is no such field, or trials do not differ in it.
    """
    text, *conditions = text.split(" if ")
    path, equals, right = (part.strip() for part in text.partition("="))
    if not equals or not right:
        raise ExperimentError(f"--space {text!r} names no values", "write it as optimizer.lr=1e-5..1e-3 or training.batch_size=8|16|32")
    refuse_shared(path)
    when = {other.strip(): number(value.strip()) for other, _, value in (condition.partition("=") for condition in conditions)}
    experiment = apply_values(experiment, when)
    centre = value_at(experiment, path)
    bounds, _, how = (part.strip() for part in right.partition(","))
    if ".." in bounds:
        low, high = (number(part) for part in bounds.split("..", 1))
        if (
            not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
            or not low < high
            or how not in ("", "log", "linear")
        ):
            raise ExperimentError(f"--space {text!r} is not a range", "write it as optimizer.lr=1e-5..1e-3, with ,linear or ,log behind it")
        kind = how or ("log" if low > 0 and high / low >= 10 else "linear")
        if kind == "log" and low <= 0:
            raise ExperimentError(f"--space {text!r}: a logarithm needs bounds above 0", "raise the lower one, or say ,linear")
        width = math.log(high / low) if kind == "log" else high - low
        middle = centre if isinstance(centre, int | float) and low <= centre <= high else (math.sqrt(low * high) if kind == "log" else (low + high) / 2)  # fmt: skip
        dimension = build(Dimension, {"path": path, "kind": kind, "low": low, "high": high, "centre": middle, "spread": width / 4, "why": "as asked", "when": when}, "space")  # fmt: skip
    else:
        options = tuple(number(part.strip()) for part in right.split("|"))
        if len({str(option) for option in options}) < 2:
            remedy = (
                f"put | between the values: {path}={right.replace(',', '|')}"
                if "," in right
                else f"give several ({path}={right}|…), or set it: --set {path}={right}"
            )
            raise ExperimentError(f"--space {text!r} names one value, so nothing would be searched", remedy)
        middle = centre if centre in options else options[0]
        dimension = build(Dimension, {"path": path, "kind": "choice", "options": options, "centre": middle, "spread": 1 - 1 / len(options), "why": "as asked", "when": when}, "space")  # fmt: skip
    assert isinstance(dimension, Dimension)
    for end in (dimension.low, dimension.high) if dimension.kind != "choice" else dimension.options:
        apply_values(experiment, {path: end})
    return dimension


def refuse_shared(path: str) -> None:
    """Refuse a field in which the trials of a search do not differ.

    Args:
        path: dotted, such as "model.base".

    Raises:
        ExperimentError: it is one of `SHARED`.
    """
    field = next((shared for shared in SHARED if path == shared or path.startswith(f"{shared}.")), None)
    if field is not None:
        raise ExperimentError(
            f"{path} cannot be searched: {SHARED[field]}",
            f"make a run for each value (`luthier run DATA --set {path}=VALUE`), and `luthier compare` them",
        )


def value_at(experiment: Experiment, path: str) -> Any:
    """The experiment's value of a field.

    Raises:
        ExperimentError: there is no such field.
    """
    node: Any = experiment.model_dump(mode="json")
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            fields = node if isinstance(node, dict) else {}
            raise ExperimentError(f"there is no field {path!r}", nearest(part, fields))
        node = node[part]
    return node


def apply_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment at a point of the space; a `kind` comes before the fields that it brings.

    Raises:
        ExperimentError: a value does not fit its field.
    """
    for path in sorted(values, key=lambda path: not path.endswith(".kind")):
        value = values[path]
        if isinstance(value, float) and value == int(value) and isinstance(value_at(experiment, path), int):
            value = int(value)
        experiment = experiment.replace(path, value)
    return experiment


def named_paths(text: str) -> list[str]:
    """The paths that a point names."""
    return [part.partition("=")[0].strip() for part in text.split(",")]


def parse_point(text: str, space: Sequence[Dimension]) -> Values:
    """A point as it is typed: `optimizer.lr=3e-4,model.dropout=0`; what is not named stays at its centre.

    Raises:
        ExperimentError: a path that the space does not hold, or a value that is outside of it.
    """
    dimensions = {dimension.path: dimension for dimension in space}
    point: Values = {}
    for part in text.split(","):
        path, equals, right = (piece.strip() for piece in part.partition("="))
        if not equals or path not in dimensions:
            raise ExperimentError(f"--try {text!r}: {path!r} is not in the space", nearest(path, [*dimensions]))
        value, dimension = number(right), dimensions[path]
        if dimension.kind != "choice" and (isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value)):
            raise ExperimentError(
                f"--try {text!r}: {right!r} is no number", f"{dimension.as_text()} takes one, such as {path}={dimension.centre:g}"
            )
        inside = value in dimension.options if dimension.kind == "choice" else dimension.low <= value <= dimension.high
        if not inside:
            raise ExperimentError(f"--try {text!r}: {value} is outside of {dimension.as_text()}", "widen it with --space")
        point[path] = value
    return settle_point(space, {**{dimension.path: dimension.centre for dimension in space}, **point}, asked=point)


def default_point(space: Sequence[Dimension]) -> Values:
    """The point that the default stands at."""
    return settle_point(space, {dimension.path: dimension.centre for dimension in space})
