"""Which metrics a family allows, which one decides, and which others are measured beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from luthier.core.errors import ExperimentError, nearest
from luthier.core.words import with_article
from luthier.evaluation.metrics import METRICS
from luthier.evaluation.user_metric import is_function

ALIASES = {
    "mean_absolute_error": "mae",
    "root_mean_squared_error": "rmse",
    "log_loss": "loss",
    "f1_macro": "macro_f1",
    "f1": "macro_f1",
    "roc_auc": "auc",
    "matthews_corrcoef": "mcc",
}
"""Names by which people know a metric, and ours."""
AUTO = "auto"


class Measured(Protocol):
    """A family, as far as its metrics are concerned."""

    @property
    def name(self) -> str:
        """As after `--task`."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that may decide, beside `f1:LABEL` where there are classes, and `module:function`."""
        ...

    @property
    def generates(self) -> bool:
        """Whether it answers in words."""
        ...


def resolve_metric(name: str, family: Measured, labels: Sequence[str]) -> str:
    """The metric that is meant, by our name for it.

    Args:
        name: as a person has typed it.
        family: says which metrics may decide.
        labels: the classes, where there are some.

    Raises:
        ExperimentError: there is none of that name, or it does not fit the task; those that do are named.
    """
    if name.startswith("f1:"):
        if not labels:
            raise _misfit(name, family, labels)
        label = name.removeprefix("f1:")
        if label not in labels:
            raise ExperimentError(f"the metric {name}: there is no class {label!r}", nearest(label, labels))
        return name
    if is_function(name):
        return name
    metric = ALIASES.get(name, name)
    fitting = family.metrics
    if metric in fitting:
        return metric
    if metric in METRICS:
        raise _misfit(name, family, labels)
    raise ExperimentError(f"there is no metric {name!r}", f"{nearest(name, _list_metrics(family, labels))}{_more(labels)}")


def _misfit(name: str, family: Measured, labels: Sequence[str]) -> ExperimentError:
    return ExperimentError(
        f"the metric {name} cannot decide {with_article(family.name)} run",
        f"those that can: {', '.join(_list_metrics(family, labels))}{_more(labels)}",
    )


def _list_metrics(family: Measured, labels: Sequence[str]) -> list[str]:
    """A family's metrics by the names that help and pages have for them: the loss of classes is log_loss."""
    return ["log_loss" if labels and name == "loss" else name for name in family.metrics]


def _more(labels: Sequence[str]) -> str:
    return (", f1:LABEL" if labels else "") + ", or a function of your own as module:function"


def metrics_at_evaluations(first: str, others: Sequence[str], family: Measured) -> tuple[str, ...]:
    """What an evaluation measures: the metric that decides, then the objective's own; those that read answers all or none, for these cost time.

    Args:
        first: that decides.
        others: the objective's own.
        family: says which metrics read its answers.
    """
    from luthier.evaluation.metrics import needs_answers

    answers = [name for name in family.metrics if METRICS[name].answers] if needs_answers(first, family.generates) else []
    plain = [name for name in others if not METRICS[name].answers]
    return (first, *(name for name in (*answers, *plain) if name != first))


def metrics_at_verdict(measured: Sequence[str], family: Measured) -> tuple[str, ...]:
    """What is measured of every model on the test rows: what evaluations measure, and all else that fits the task."""
    more = [name for name in family.metrics if not METRICS[name].answers]  # answers cost time: only where one of them decides
    return (*measured, *(name for name in more if name not in measured))
