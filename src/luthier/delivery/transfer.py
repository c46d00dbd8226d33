"""What transfer is worth, as one self-contained page: learning curves, the table, the differences."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.core.run import AGAIN, Run, write_file
from luthier.core.words import duration, plural
from luthier.delivery.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, colour, drawable, format_short, ticks
from luthier.delivery.page import page, section, table, text, title_of
from luthier.evaluation.verdict import format_value

APART = 40
"""Pixels between two numbers of rows below the axis, at least."""


def write_transfer(place: Run, found: Mapping[str, Any]) -> Path:
    """Write report.html into the folder.

    Args:
        place: the folder.
        found: the content of transfer.json.

    Returns:
        The page.
    """
    metric, names = found["metric"], list(dict.fromkeys(line["start"] for line in found["table"]))
    paragraphs = "".join(f"<p>{text(sentence)}</p>" for sentence in found["sentences"])
    about = (
        f"{plural(found['test_rows'], 'test row')}, the same for every model; {plural(found['seeds'], 'seed')}, each with other training rows, which all starts share. "
        f"Intervals: 95 %, test rows and seeds drawn again."
    )
    body = [section("What transfer is worth", paragraphs, text(about))]
    body.append(
        section(
            f"{text(metric)} against labelled rows",
            draw_curves(found["table"], names, metric),
            "Bars are intervals; the rows are on a logarithmic scale.",
        )
    )
    body.append(section("The table", _table(found["table"], metric)))
    if found["gains"]:
        body.append(
            section(f"Against {text(found['against'])}", _gains(found["gains"], metric), "On the same test rows, training rows and seeds.")
        )
    body.append(
        section(
            "The starts",
            table(["start", "is", "left out because"], [[start["name"], start["about"], start["why_not"]] for start in found["starts"]]),
        )
    )
    if found["left_out"]:
        body.append(section("Left out for lack of time", text("; ".join(found["left_out"]))))
    name = title_of(found["data"])
    content = page(f"{name} · transfer, by Luthier", name, f"{plural(len(names), 'start')} compared", "".join(body))
    write_file(place.folder / "report.html", content, AGAIN)
    return place.folder / "report.html"


def _table(lines: Sequence[Mapping[str, Any]], metric: str) -> str:
    rows = [
        [line["start"], f"{line['rows']:,}", f"{line['validation_rows']:,}", format_value(metric, line["value"]),
         f"{format_value(metric, line['low'])} to {format_value(metric, line['high'])}", line["seeds"], duration(line["seconds"])]
        for line in lines
    ]  # fmt: skip
    return table(["start", "training rows", "validation rows", metric, "interval", "seeds", "a model took"], rows)


def _gains(gains: Sequence[Mapping[str, Any]], metric: str) -> str:
    def describe_needed(gain: Mapping[str, Any]) -> str:
        if gain["needed"] is None:
            return f"more than {gain['most']:,} rows"
        return f"about {round(gain['needed']):,} rows" if gain["needed"] else f"fewer than {gain['fewest']:,} rows"

    rows = [
        [gain["start"], f"{gain['rows']:,}", format_value(metric, gain["value"], signed=True),
         f"{format_value(metric, gain['low'], signed=True)} to {format_value(metric, gain['high'], signed=True)}", describe_needed(gain)]
        for gain in gains
    ]  # fmt: skip
    return table(["start", "training rows", "better by", "interval", "the other needs for as much"], rows)


def draw_curves(lines: Sequence[Mapping[str, Any]], names: Sequence[str], metric: str) -> str:
    """Learning curves with intervals, over rows on a logarithmic scale.

    Args:
        lines: of the table: `start`, `rows`, `value`, `low`, `high`.
        names: of the starts, in the order of their colours.
        metric: for the axis.
    """
    drawable_lines = [line for line in lines if drawable(line["value"])]
    if not drawable_lines:
        return "<p>nothing to draw</p>"
    counts = sorted({line["rows"] for line in drawable_lines})
    ends = [end for line in drawable_lines for end in (line["value"], line["low"], line["high"]) if drawable(end)]
    low, high = min(ends), max(ends)
    pad = (high - low or 1) * 0.05
    low, high = low - pad, high + pad
    first, last = math.log(counts[0]), math.log(counts[-1])

    def at_x(rows: int) -> float:
        return LEFT + 16 + ((math.log(rows) - first) / (last - first) if last > first else 0.5) * (WIDTH - LEFT - RIGHT - 40)

    def at_y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for value in ticks(low, high, 6):
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at_y(value):.1f}" x2="{WIDTH - RIGHT}" y2="{at_y(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at_y(value) + 4:.1f}" text-anchor="end">{format_short(value)}</text>')
    written: list[float] = []
    for rows in reversed(counts):  # the most in any case
        if not written or written[-1] - at_x(rows) >= APART:
            written.append(at_x(rows))
            parts.append(f'<text x="{at_x(rows):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{rows:,}</text>')
    parts.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">labelled training rows</text>')
    for number, name in enumerate(names):
        mine = sorted((line for line in drawable_lines if line["start"] == name), key=lambda line: line["rows"])
        aside = (number - (len(names) - 1) / 2) * 5  # so that bars do not lie on each other
        points = [(at_x(line["rows"]) + aside, line) for line in mine]
        path = " ".join(f"{x:.1f},{at_y(line['value']):.1f}" for x, line in points)
        parts.append(f'<polyline class="{colour(number)}" points="{path}"/>')
        for x, line in points:
            low_y, at, high_y = (at_y(line[end]) for end in ("low", "value", "high"))
            if drawable(line["low"], line["high"]):
                parts.append(f'<line class="{colour(number)} bar" x1="{x:.1f}" y1="{low_y:.1f}" x2="{x:.1f}" y2="{high_y:.1f}"/>')
            tooltip = f"{name}, {line['rows']:,} rows: {format_value(metric, line['value'])}"
            parts.append(
                f'<circle class="{colour(number)}" cx="{x:.1f}" cy="{at:.1f}" r="4"><title>{html.escape(tooltip)}</title></circle>'
            )
    legend = "".join(f'<span class="key {colour(number)}">{html.escape(name)}</span>' for number, name in enumerate(names))
    return f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(metric)} against labelled training rows">{"".join(parts)}</svg><figcaption>{legend}</figcaption></figure>'
