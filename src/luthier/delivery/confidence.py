"""The part of a report about confidence: is it as sure as it should be, and what can be promised where unsure answers are left out."""

from __future__ import annotations

from typing import Any

from luthier.delivery import figures
from luthier.delivery.page import table, text
from luthier.evaluation.abstention import explain_abstention, percent
from luthier.evaluation.verdict import format_value


def describe_confidence(details: dict[str, Any]) -> str:
    """Calibration and promised errors, as a part of a page; empty where a run has neither.

    Args:
        details: content of evaluation.json.
    """
    body = ""
    if "calibration" in details:
        points = [(part["confidence"], part["accuracy"]) for part in details["calibration"]]
        body += "<h3>Is it as sure as it should be?</h3>" + figures.lines(
            {f"{details.get('decided', 'rows')}, in bins of equal size": points}, "confidence", "accuracy", diagonal=True
        )
        if "temperature" in details:  # of a family without a linear probe none is fitted
            body += f"<p>{_calibration(details)}</p>"
    if "abstention" in details:  # a run of an earlier version has none
        body += "<h3>If unsure answers are left out</h3>" + _abstention(details["abstention"])
    return body


def _abstention(found: dict[str, Any]) -> str:
    """One promise in a sentence, and all of them in a table, each with what it gave on the test rows."""
    sentence = explain_abstention(found)
    body = f"<p>{text(sentence[:1].upper() + sentence[1:])}.</p>"
    if not found["promises"]:
        return body
    rows = [
        (
            percent(each["error_below"]),
            f"{each['threshold']:g}",
            f"{each['answered']:.1%}",
            f"{each['error']:.1%}",
            f"{each['bound']:.1%}",
            f"{each['test']['answered']:.1%}",
            "–" if each["test"]["error"] is None else f"{each['test']['error']:.1%}",
        )
        for each in found["promises"]
    ]
    head = ("wrong answers, at most", "confidence from", "validation rows answered", "of these wrong", "at most (this threshold alone)", "test rows answered", "of these wrong")  # fmt: skip
    about = (
        f"Chosen on {found['rows']:,} validation rows: the thresholds are tested from the highest down, each with a one-sided Clopper–Pearson bound of {found['sure']:.0%}, "
        "until one fails. <code>luthier predict RUN … --error-below 5%</code> takes the threshold of this table."
    )
    return body + table(head, rows) + f'<p class="about">{about}</p>'


def _calibration(details: dict[str, Any]) -> str:
    """How sure it is against how right it is, before and after its temperature."""
    before, after = (format_value("calibration_error", details["calibration_error"][when]) for when in ("before", "after"))
    chance = details["calibration_error"].get("by_chance")  # a run of an earlier version has none
    floor = (
        ""
        if chance is None
        else f" A perfectly calibrated model would show {format_value('calibration_error', chance)} on so many rows, by chance."
    )
    if "log_loss" in details:
        after_loss, before_loss = (f"{details['log_loss'][when]:.4f}" for when in ("after", "before"))
        was = f"; without the temperature it was {before_loss}" if before_loss != after_loss else ""
        floor += f" The log loss of a row, all labels together, is {after_loss}{was}."
    if details["temperature"] == 1.0 and before == after:
        return f"Its confidence and its accuracy differ by {after} on the test rows; there are too few validation rows for a temperature, or it would be 1.{floor}"
    return (
        f"Its confidence and its accuracy differ by {after} on the test rows; by {before} before temperature scaling "
        f"(temperature {details['temperature']:.2f}, fitted on the validation rows).{floor}"
    )
