"""Name classes that the model never predicts; an average does not show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from luthier.core.finding import Finding
from luthier.core.run import Run
from luthier.pilot.stages.context import RunContext

NAMED = 5
"""Classes that are named in the terminal; the evidence has all."""


def never_predicted_at(place: Run, step: int) -> list[int]:
    """The classes that the evaluation after this step found never predicted, by number."""
    looks = [line for line in place.lines("metrics.jsonl") if "evaluation" in line and line["step"] == step]
    return looks[-1].get("never_predicted", []) if looks else []


def name_never_predicted(context: RunContext, classes: Sequence[int], part: str) -> None:
    """Say which classes have rows in a part and were never predicted there.

    Args:
        context: of the run; the finding is written into its folder and shown.
        classes: by number.
        part: validation or test.
    """
    labels = context.dataset.labels
    if not classes or not labels:  # without classes of its own a family has no border that should lie still
        return
    trained = Counter(example.target for example in context.examples("train"))
    counts = {labels[index]: trained[index] for index in sorted(classes, key=lambda index: trained[index])}
    listing = ", ".join(f"{label!r} ({rows:,} training {'row' if rows == 1 else 'rows'})" for label, rows in [*counts.items()][:NAMED])
    more = f" and {len(counts) - NAMED:,} more" if len(counts) > NAMED else ""
    what = "this class is" if len(counts) == 1 else f"these {len(counts):,} classes are"
    finding = Finding(
        check=f"never_predicted.{part}",
        severity="warning",
        claim=f"{what} never predicted on the {part} rows: {listing}{more}",
        evidence={"classes": counts, "part": part},
        remedy="give more rows of it, weigh rare classes more (--set objective.class_weights=balanced), decide by --metric macro_f1, or train longer",
    )
    if finding not in context.run.findings:  # a run that was stopped here says it again, and writes it once
        context.run.add_findings(finding)
    context.reporter.finding(finding)
