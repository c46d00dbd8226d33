"""An experiment: everything that decides a run's result, as one frozen value."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, field_validator

from luthier.adaptation import ADAPTATIONS
from luthier.core.component import Component, build, from_table, set_at_path
from luthier.core.errors import ExperimentError
from luthier.data.augment import Augment
from luthier.data.row_files import names_table
from luthier.data.spec import TEXT_FIELDS, Data
from luthier.families import OBJECTIVES
from luthier.models.spec import Model
from luthier.optim import OPTIMIZERS, SCHEDULES

KINDS = {"objective": OBJECTIVES, "adaptation": ADAPTATIONS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
"""Fields that hold a component of several kinds, and the tables of those."""


Changes = str | Mapping[str, Any] | Sequence[str]
"""What a verb's `set` takes: {"optimizer.lr": 1e-4}, ["optimizer.lr=1e-4", "seed=2"], or "optimizer.lr=1e-4"."""


class Training(Component):
    """How long, in which portions, and when to evaluate."""

    epochs: float = Field(default=3.0, gt=0, description="How often the training rows are seen (HF: num_train_epochs).")
    steps: int | None = Field(default=None, ge=1, description="Optimizer steps; wins over `epochs` where set (HF: max_steps).")
    batch_size: int = Field(
        default=16,
        ge=1,
        description="Rows an optimizer step learns from, however memory makes it cut them (HF: per_device_train_batch_size × gradient_accumulation_steps).",
    )
    sampling: Literal["each", "balanced"] = Field(
        default="each",
        description="each: an epoch sees every row once; balanced: every class equally often, rows of rare ones again. Classification only.",
    )
    micro_batch_tokens: int = Field(
        default=0,
        ge=0,
        description="Tokens that go through the model at once (what rows begin with in common comes on top); memory, not results, depends on it. 0 is replaced by what suits the machine, and written down.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="What the model computes in; auto chooses bfloat16 where the processor multiplies it fast, and is written down.",
    )
    kernels: Literal["auto", "plain", "compiled"] = Field(
        default="auto",
        description="compiled: what lies between the products of a transformer's blocks is computed in compiled passes while it trains in bfloat16 on a processor; needs a C++ compiler once, for some seconds. auto chooses them on a processor with matrix tiles for bases whose blocks are known (Llama, Mistral, Qwen, BERT, RoBERTa, ELECTRA), and for a causal language model from scratch also on one with bf16 vectors, and is written down. Networks for images with batch norm (ResNet, EfficientNet-Lite, from scratch or from a base) in either dtype, and CBOW (word2vec) in float32, have code of their own, which auto takes where there is a compiler.",
    )
    evaluations_per_epoch: float = Field(default=2.0, gt=0, description="How often the model is evaluated on the validation rows.")
    metric: str = Field(
        default="auto",
        description="Decides the checkpoint, early stopping, the search and the verdict: accuracy, macro_f1, balanced_accuracy, auc, mcc, log_loss or f1:LABEL; for chat loss, bits_per_byte, chrf or rouge_l; for answers of other kinds chrf, bleu or loss; or a function of your own, module:function. auto is replaced by what suits the rows, and written down.",
    )
    patience: int = Field(default=6, ge=1, description="Evaluations without a better one before the run stops early.")
    checkpoint_seconds: float = Field(
        default=60.0, ge=0, description="At most this often a checkpoint is written, and no more often than 20 times what one costs."
    )
    ships: Literal["auto", "trained", "probe", "average"] = Field(
        default="auto",
        description="What the bundle of a model with classes, labels or a number holds; auto: the validation rows choose between the trained model, a linear model (logistic or ridge regression) on the untouched base (probe), and the average of both.",
    )


class Experiment(Component):
    """A run as a value; `environment` is a record of where it ran, not part of its key."""

    seed: int = Field(default=1, ge=0, description="Decides the order of rows, dropout and new weights.")
    data: Data
    objective: SerializeAsAny[Component]
    model: Model = Field(default_factory=lambda: Model())
    adaptation: SerializeAsAny[Component]
    optimizer: SerializeAsAny[Component]
    schedule: SerializeAsAny[Component]
    augment: Augment = Field(default_factory=lambda: Augment())
    training: Training = Field(default_factory=lambda: Training())
    environment: dict[str, Any] = Field(
        default_factory=dict, description="Versions, threads and processor; filled in; on resume compared, and the threads set again."
    )

    @field_validator("objective", mode="before")
    @classmethod
    def _objective(cls, value: object) -> object:
        return from_table(OBJECTIVES, value)

    @field_validator("adaptation", mode="before")
    @classmethod
    def _adaptation(cls, value: object) -> object:
        return from_table(ADAPTATIONS, value)

    @field_validator("optimizer", mode="before")
    @classmethod
    def _optimizer(cls, value: object) -> object:
        return from_table(OPTIMIZERS, value)

    @field_validator("schedule", mode="before")
    @classmethod
    def _schedule(cls, value: object) -> object:
        return from_table(SCHEDULES, value)

    @classmethod
    def of(cls, value: dict[str, Any]) -> Experiment:
        """Validate a mapping.

        Raises:
            ExperimentError: an unknown or ill-typed field; the nearest name is given.
        """
        made = build(cls, value, "experiment")
        assert isinstance(made, Experiment)
        return made

    @classmethod
    def load(cls, path: Path) -> Experiment:
        """Read a YAML file.

        Raises:
            ExperimentError: it is missing, rows, not YAML, or not an experiment.
        """
        if path.suffix.lower() not in (".yaml", ".yml", ".json") and names_table(path) and path.exists():
            raise ExperimentError(f"{path} holds rows, not an experiment", f"begin with the rows: `luthier run {path}`, or `luthier run {path} --plan-only` for the experiment alone")  # fmt: skip
        try:
            value = yaml.safe_load(path.read_text())
        except FileNotFoundError:
            raise ExperimentError(f"there is no experiment {path}", "make one: `luthier run DATA --plan-only`") from None
        except (yaml.YAMLError, UnicodeDecodeError) as problem:
            raise ExperimentError(f"{path} is not YAML: {problem}", "mend the file") from None
        if not isinstance(value, dict):
            raise ExperimentError(f"{path} does not hold an experiment", "make one: `luthier run DATA --plan-only`")
        return cls.of(value)

    def yaml(self) -> str:
        """The experiment as a file."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)

    @property
    def key(self) -> str:
        """A hash of everything that decides the result: the rows by their content, not by where they lie."""
        places = {"path", "validation", "test"} if self.data.fingerprint else set()
        decides = self.model_dump(mode="json", exclude={"environment": True, "data": places})
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def replace(self, path: str, value: Any) -> Experiment:
        """A copy with one field changed.

        Args:
            path: dotted, such as "optimizer.lr"; "optimizer.kind" changes the component and keeps the fields that fit.
            value: of the field's type, or as text that YAML would read so.

        Raises:
            ExperimentError: there is no such field, or the value does not fit it.
        """
        whole = self.model_dump(mode="json")
        room, _, last = path.rpartition(".")
        if room in KINDS and last == "kind":
            fits = KINDS[room][value].model_fields
            whole[room] = {**{name: kept for name, kept in whole[room].items() if name in fits}, "kind": value}
        else:
            set_at_path(whole, path, value)
        return Experiment.of(whole)

    def set(self, *changes: str | Mapping[str, Any]) -> Experiment:
        """A copy with several fields changed.

        Args:
            changes: each "path=value", or a mapping of paths to values.

        Raises:
            ExperimentError: an assignment without "=", or one that does not fit.
        """
        changed = self
        for assignment in (text for change in changes for text in as_assignments(change)):
            path, _, text = assignment.partition("=")
            place, value = path.strip(), number(text.strip())
            text_field = place == "training.metric" or (place.removeprefix("data.") in TEXT_FIELDS and value is not None)
            changed = changed.replace(place, text.strip() if text_field else value)
        return changed

    def planned_steps(self, rows: int) -> int:
        """Optimizer steps over this many training rows that the schedule is laid out for."""
        if self.training.steps:
            return self.training.steps
        return max(1, round(self.training.epochs * -(-rows // self.training.batch_size)))

    def total_steps(self, rows: int) -> int:
        """Optimizer steps of the run over this many training rows: fewer than planned where the schedule ends early."""
        schedule: Any = self.schedule
        return max(1, round(schedule.end_fraction * self.planned_steps(rows)))


def as_assignments(changes: Changes | None) -> list[str]:
    """Changes to an experiment as texts `path=value`, however they were given.

    Args:
        changes: a mapping of dotted paths to values, one text, several texts, or None.

    Raises:
        ExperimentError: it is something else, or a text has no "=".
    """
    example = 'give {"optimizer.lr": 3e-4}, ["optimizer.lr=3e-4"] or "optimizer.lr=3e-4"'
    if changes is None:
        return []
    if isinstance(changes, Mapping):
        return [text for path, value in changes.items() for text in _assignments_of(path, value, example)]
    listed = [changes] if isinstance(changes, str) else changes
    if not isinstance(listed, Sequence) or isinstance(listed, bytes):
        raise ExperimentError(f"set={changes!r} is {type(changes).__name__}: it names no changes", example)
    for text in listed:
        if not isinstance(text, str):
            raise ExperimentError(f"set holds {text!r}, which is no text of the form path=value", example)
        if not text.partition("=")[0].strip() or "=" not in text:
            raise ExperimentError(f"--set {text!r} has no '='", "write it as path=value, such as optimizer.lr=3e-4")
    return [*listed]


def _assignments_of(path: object, value: object, example: str) -> list[str]:
    """A path and its value as a text that `number` reads back; the values of a nested mapping by their whole paths."""
    if not isinstance(path, str) or "=" in path or not path.strip():
        raise ExperimentError(f"set names the field {path!r}, which is no path", example)
    if isinstance(value, Mapping):
        return [text for name, inner in value.items() for text in _assignments_of(f"{path}.{name}", inner, example)]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()  # type: ignore[attr-defined]  # numpy's and torch's numbers
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        return [f"{path}={value}" if _reads_as_itself(value) else f"{path}={json.dumps(value, ensure_ascii=False)}"]
    if not isinstance(value, bool | int | float | list | tuple | None):
        raise ExperimentError(
            f"set gives {path} {value!r}, which is {type(value).__name__}", "give a number, a text, True, False, None or a list of these"
        )
    return [f"{path}={json.dumps(value)}"]


def _reads_as_itself(text: str) -> bool:
    """Whether a text is still this text once YAML has read it: "no" and "1e-4" are not."""
    return text == text.strip() and number(text) == text


def number(text: str) -> Any:
    """A value as YAML reads it, and 3e-4 as the number it is meant to be; what is no YAML is a text."""
    with contextlib.suppress(ValueError):
        if any(mark in text for mark in "eE."):
            return float(text)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # a bracket that is never closed; a date such as 2026-13-45
        return text
