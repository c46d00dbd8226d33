"""What families of autoencoders share: which class is normal, which rows count as anomalous, and how the two kinds are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError, nearest
from luthier.core.types import Example, Record, Scores
from luthier.core.words import plural, with_article
from luthier.data.infer import TARGET_NAMES, find_label, text_of
from luthier.data.row_reader import Columns, RowView
from luthier.data.rows import Rows
from luthier.data.sources.images import KEPT
from luthier.data.spec import Data
from luthier.data.usable_rows import reject_label
from luthier.evaluation.metric_choice import AUTO
from luthier.families.choice import Choice
from luthier.families.family import Family

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset

NORMAL_NAMES = ("normal", "good", "ok", "healthy", "nominal", "no", "negative", "no_finding", "no finding")
"""What people call the class of rows that have nothing unusual, the likeliest first."""


class AnomalyFamily(Family):
    """A family that learns what is normal."""

    metrics = ("loss", "anomaly_auc")
    reads: str
    """What a row is, for a person: "image" or "text"."""

    # rows

    def columns_with(self, column: tuple[str, ...], rows: Rows, path: str, asked: Data, why: str, more: str = "") -> Columns | None:
        """The columns, with that of the known classes; None where there are classes and nobody insists.

        Args:
            column: that is read.
            rows: of the training file.
            path: of it, for messages.
            asked: what the person named.
            why: this column is read.
            more: what is said where there are no classes.

        Raises:
            DataError: a class is named as normal that no row has.
        """
        target = asked.target or find_classes(rows, path, column)
        if target is not None and asked.task != self.name:
            return None
        if target is None:
            if asked.normal:
                raise DataError(f"{path}: data.normal={asked.normal} names a class, and no column holds classes", "name the column with --target, or leave data.normal out")  # fmt: skip
            return Columns(self.name, column, None, why + more, normal="")
        target, why, normal = choose_normal(rows, path, target, asked.normal, why)
        return Columns(self.name, column, target, why, normal=normal)

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """Where one class is normal, a row without a class says nothing."""
        return super().reject_reason(record, columns) or (reject_label(record, columns) if columns.normal else "")

    def row_view(self, record: Record, data: Data) -> RowView:
        """Known classes are split in proportion."""
        return RowView(record.text(data.input), "", str(record.values.get(data.target) or "") if data.target else "")

    # starting point

    def metric(self, dataset: Dataset, asked: str) -> list[Choice]:
        """The loss on normal validation rows chooses the checkpoint: it needs no abnormal rows."""
        why = "what is learned is what is measured" + ("; the verdict is on the anomaly AUC" if dataset.spec.normal else "")
        return [Choice("training.metric", "loss" if asked == AUTO else asked, why)]

    # model and loss

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """The class that is normal."""
        normal = dataset.spec.normal
        return spec.model_copy(update={"normal": normal}) if normal else spec

    # judging

    def fit_after_training(self, model: Any, objective: Any, validation: Sequence[Example]) -> str:
        """The anomaly score that the asked share of normal validation rows lies above."""
        from luthier.evaluation.score import score

        normal = [example for example in validation if example.facts["abnormal"] <= 0]
        scores = np.sort(score(model, objective, normal).more["anomaly"])
        share = objective.spec.false_alarms
        threshold = threshold_of(scores, share)
        model.network.threshold.fill_(threshold)
        rough = "" if len(scores) * share >= 1 else f"; so few cannot tell a share of {share:.0%}: more validation {self.reads}s are needed"
        return f"{with_article(self.reads)} counts as anomalous above a score of {threshold:.4g}: {plural(int((scores > threshold).sum()), f'normal validation {self.reads}')} of {len(scores):,} lie above it{rough}"

    def metrics_of_verdict(self, metrics: tuple[str, ...], scores: Scores) -> tuple[str, ...]:
        """Where the test rows are known to be normal or not, how well the two are told apart decides."""
        if {0, 1} <= set(scores.more["abnormal"].tolist()):
            return ("anomaly_auc", *(name for name in metrics if name != "anomaly_auc"))
        return metrics

    def target_text(self, example: Example) -> str:
        """The class, where it is known."""
        return example.facts["label"] or f"the {self.reads} itself"

    def predicted_text(self, scores: Scores, position: int) -> str:
        """How unusual the row is."""
        return f"anomaly score {scores.more['anomaly'][position]:.4g}"

    def details(self, scores: Scores, spec: Any) -> dict[str, Any]:
        """What the threshold finds, and what it calls wrongly."""
        from luthier.evaluation.two_classes import shown_share

        if "flagged" not in scores.more:
            return {}
        flagged, abnormal = scores.more["flagged"] > 0, scores.more["abnormal"]
        kinds = (
            (f"all {self.reads}s", np.ones(len(flagged), bool)),
            ("normal (false alarms)", abnormal == 0),
            ("abnormal (found)", abnormal == 1),
        )
        rows = [(name, int(of.sum()), int(flagged[of].sum()), shown_share(int(flagged[of].sum()), int(of.sum()))) for name, of in kinds if of.any()]  # fmt: skip
        title = f"Called anomalous at a false-alarm rate of {spec.false_alarms:.0%}, fitted on the validation rows"
        return {
            "tables": [{"title": title, "head": ("test rows", f"{self.reads}s", "called anomalous", "share [95 % interval]"), "rows": rows}]
        }

    # use

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """How unusual each row is, and whether that is more than normal rows are."""
        from luthier.evaluation.score import score

        if not records:
            return []
        threshold = float(model.network.threshold)
        scores = score(model, objective, objective.prepare(records)).more["anomaly"]
        return [{"anomaly_score": float(value), "anomalous": bool(value > threshold)} for value in scores]


def find_classes(rows: Rows, path: str, column: tuple[str, ...]) -> str | None:
    """The column of known classes; None where there is none. A column that is called label may hold one value: training rows of one class are enough."""
    others = [name for name in rows.columns if name not in (*column, *KEPT)]
    candidates = [name for name in others if name.lower() in TARGET_NAMES]
    if candidates:
        return min(candidates, key=lambda name: TARGET_NAMES.index(name.lower()))
    try:
        return find_label(Rows(columns=others, values=rows.values), path, column)
    except DataError:
        return None


def choose_normal(rows: Rows, path: str, target: str, asked: str | None, why: str) -> tuple[str | None, str, str]:
    """The column of known classes, the reason, and the class that is normal: as asked, or found by its name.

    Args:
        rows: of the training file.
        path: of it, for messages.
        target: the column of the classes.
        asked: the class; None looks for one, an empty text learns from all rows.
        why: begins the reason.

    Raises:
        DataError: no row has the class that was asked for.
    """
    classes = sorted({text_of(row.get(target)) for row in rows.values} - {""})
    if asked:
        if asked not in classes:
            raise DataError(f"{path}: no row has the class {asked!r} in the column {target!r}", nearest(asked, classes))
        return target, f"{why}; rows of the class {asked!r} are normal, as asked", asked
    candidates = [name for known in NORMAL_NAMES for name in classes if name.lower() == known] if asked is None else []
    if not candidates:
        about = f"{plural(len(classes), 'class')} of {target!r} are not read" if len(classes) != 1 else f"{target!r} is not read"
        return None, f"{why}; {about} (say which is normal with --set data.normal=CLASS)", ""
    return target, f"{why}; rows of the class {candidates[0]!r} of {target!r} are taken as normal, by its name", candidates[0]


def threshold_of(scores: np.ndarray, share: float) -> float:
    """The score that at most so large a share of new normal rows is expected to exceed: an order statistic; the highest where the rows are too few.

    Source: Vovk, Gammerman & Shafer 2005, "Algorithmic Learning in a Random World", section 4.1 (split conformal).

    Args:
        scores: of normal rows, ascending, # (rows,)
        share: of false alarms.
    """
    rank = int(np.ceil((len(scores) + 1) * (1 - share)))
    return float(scores[min(rank, len(scores)) - 1])
