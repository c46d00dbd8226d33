"""Which metric may decide for which task, and which others are measured beside it."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.core.errors import ExperimentError, nearest
from luthier.evaluation.metrics import METRICS
from luthier.evaluation.own import is_function

FITTING = {
    "classification": ("accuracy", "macro_f1", "balanced_accuracy", "auc", "mcc", "loss"),
    "chat": ("loss", "bits_per_byte", "chrf", "rouge_l"),
}
"""task → the metrics that may decide, beside `f1:LABEL` for classes and `module:function` for both."""
ALIASES = {"log_loss": "loss", "f1_macro": "macro_f1", "f1": "macro_f1", "roc_auc": "auc", "matthews_corrcoef": "mcc"}
"""Names by which people know a metric, and ours."""
AUTO = "auto"


def resolve_metric(name: str, task: str, labels: Sequence[str]) -> str:
    """The metric that is meant, by our name for it.

    Args:
        name: as a person has typed it.
        task: classification or chat.
        labels: the classes.

    Raises:
        ExperimentError: there is none of that name, or it does not fit the task; those that do are named.
    """
    if name.startswith("f1:"):
        if task != "classification":
            raise _misfit(name, task)
        label = name.removeprefix("f1:")
        if label not in labels:
            raise ExperimentError(f"the metric {name}: there is no class {label!r}", nearest(label, labels))
        return name
    if is_function(name):
        return name
    found = ALIASES.get(name, name)
    fitting = FITTING.get(task, ())
    if found in fitting:
        return found
    if found in METRICS:
        raise _misfit(name, task)
    raise ExperimentError(f"there is no metric {name!r}", f"{nearest(name, fitting)}{_more(task)}")


def _misfit(name: str, task: str) -> ExperimentError:
    return ExperimentError(
        f"the metric {name} cannot decide a {task} run", f"those that can: {', '.join(FITTING.get(task, ()))}{_more(task)}"
    )


def _more(task: str) -> str:
    return (", f1:LABEL" if task == "classification" else "") + ", or a function of your own as module:function"


def metrics_at_evaluations(first: str, others: Sequence[str], task: str) -> tuple[str, ...]:
    """What an evaluation measures: the metric that decides, then the objective's own; both answer metrics where answers are generated anyway."""
    from luthier.evaluation.metrics import needs_answers

    answers = ("chrf", "rouge_l") if task == "chat" and needs_answers(first, task) else ()
    return (first, *(name for name in (*answers, *others) if name != first))


def metrics_at_verdict(measured: Sequence[str], task: str) -> tuple[str, ...]:
    """What is measured of every model on the test rows: what evaluations measure, and all else that fits the task."""
    more = FITTING["classification"] if task == "classification" else ()
    return (*measured, *(name for name in more if name not in measured))
