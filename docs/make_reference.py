"""Write the reference from the fields themselves: `python docs/make_reference.py > docs/reference.md`."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from luthier.adaptation import ADAPTATIONS
from luthier.data.augment import Augment
from luthier.data.image_views import ImageViews
from luthier.data.spec import Data
from luthier.experiment import Experiment, Training
from luthier.families import OBJECTIVES
from luthier.models.spec import Model
from luthier.optim import OPTIMIZERS, SCHEDULES


def kind_of(annotation: Any) -> str:
    """A type as a person reads it."""
    text = (
        getattr(annotation, "__name__", None) if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    return str(text).replace("typing.", "").replace("Literal", "one of ").replace("NoneType", "None").replace("|", "or")


def rows(component: type[BaseModel], prefix: str) -> str:
    """A table of a component's fields."""
    lines = ["| field | type | default | what it does |", "|---|---|---|---|"]
    for name, field in component.model_fields.items():
        if name == "kind" or not field.description:
            continue
        if field.default is PydanticUndefined:
            default = "required" if field.default_factory is None else "empty"
        else:
            default = f"`{field.default}`"
        lines.append(f"| `{prefix}{name}` | {kind_of(field.annotation)} | {default} | {field.description} |")
    return "\n".join(lines)


def room(title: str, path: str, table: Any) -> str:
    """A section for a room: one part for each kind that its table lists."""
    parts = [f"## {title}"]
    for name in table:
        component = table[name]
        about = inspect.getdoc(component) or ""
        parts.append(f"### `{path}.kind: {name}`\n\n{about.splitlines()[0]}\n\n{rows(component, path + '.')}")
    return "\n\n".join(parts)


def reference() -> str:
    """The whole page."""
    own = {"model_fields": {name: field for name, field in Experiment.model_fields.items() if name in ("seed", "environment")}}
    top = rows(type("Top", (), own), "")  # type: ignore[arg-type]
    return "\n\n".join(
        [
            "# Reference",
            "Every field of an experiment. Each is set in `experiment.yaml`, or with `--set path=value`. This page is made from the fields.",
            "## The run\n\n" + top,
            "## Data\n\n" + rows(Data, "data."),
            "## Augmentation\n\n" + rows(Augment, "augment.") + "\n\n### Of images\n\n" + rows(ImageViews, "augment.images."),
            room("Objective", "objective", OBJECTIVES),
            "## Model\n\n" + rows(Model, "model."),
            room("Adaptation", "adaptation", ADAPTATIONS),
            room("Optimizer", "optimizer", OPTIMIZERS),
            room("Schedule", "schedule", SCHEDULES),
            "## Training\n\n" + rows(Training, "training."),
        ]
    ) + "\n"  # fmt: skip


if __name__ == "__main__":
    print(reference(), end="")
