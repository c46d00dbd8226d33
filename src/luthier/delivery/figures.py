"""Draw figures as SVG: no library, no script, readable at any width."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 640, 260
MAP_HEIGHT = 420
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 36
Points = Sequence[tuple[float, float]]
LARGEST = 1e300
"""Values from here on are not drawn."""
COLOURS = 8
"""Classes c0 to c7 of the style sheet."""


def colour(number: int) -> str:
    """The classes of a line, its points and its name in the legend: eight colours, then the same ones dashed, and again.

    Args:
        number: of the line, from 0.
    """
    return f"c{number % COLOURS}" + (" dashed" if number // COLOURS % 2 else "")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two values.

    Args:
        low: the lower end of the scale.
        high: the upper one.
        count: of steps between them, at most.
    """
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / count))
    step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count)
    first = math.ceil(low / step) * step
    return [round(first + number * step, 10) for number in range(int((high - first) / step + 1e-9) + 1)]


def format_short(value: float) -> str:
    """A number beside an axis."""
    return f"{value:.0e}".replace("e-0", "e-") if value and abs(value) < 1e-2 else f"{value:g}"


def drawable(*values: float) -> bool:
    """Whether a place on a scale can be given to all of the values: they are finite, and their differences are."""
    return all(abs(value) < LARGEST for value in values)


def lines(
    series: dict[str, Points], x: str, y: str, mark: tuple[float, str] | None = None, zero: bool = False, diagonal: bool = False
) -> str:
    """Lines over a common axis.

    Args:
        series: name → points; the colours follow the order.
        x: what the horizontal axis says.
        y: what the vertical axis says.
        mark: a vertical line and its name.
        zero: start the vertical axis at zero.
        diagonal: draw where both axes are equal.
    """
    points = [point for one in series.values() for point in one if drawable(*point)]
    if not points:
        return "<p>nothing to draw</p>"
    x_low, x_high = min(point[0] for point in points), max(point[0] for point in points)
    y_low, y_high = min(point[1] for point in points), max(point[1] for point in points)
    if diagonal:
        x_low, y_low, x_high, y_high = min(x_low, y_low), min(x_low, y_low), 1.0, 1.0
    if zero:
        y_low = min(0.0, y_low)
    # The name of a mark stands at the top: no line may pass through it.
    y_high += (y_high - y_low or 1) * (0.04 if mark is None else 0.12)

    def at_x(value: float) -> float:
        return LEFT + (value - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT)

    def at_y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_low) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = _frame(x, y, at_x, at_y, (x_low, x_high), (y_low, y_high))
    if diagonal:
        parts.append(f'<line class="guide" x1="{at_x(x_low):.1f}" y1="{at_y(y_low):.1f}" x2="{at_x(1):.1f}" y2="{at_y(1):.1f}"/>')
    for number, (name, one) in enumerate(series.items()):
        drawable_points = [(px, py) for px, py in one if drawable(px, py)]
        path = " ".join(f"{at_x(px):.1f},{at_y(py):.1f}" for px, py in _thin(drawable_points))
        parts.append(f'<polyline class="{colour(number)}" points="{path}"/>')
        if len(drawable_points) <= 60:
            parts += [
                f'<circle class="{colour(number)}" cx="{at_x(px):.1f}" cy="{at_y(py):.1f}" r="3"><title>{html.escape(name)}: {py:.4g} at {px:g}</title></circle>'
                for px, py in drawable_points
            ]
    if mark is not None:
        parts.append(f'<line class="mark" x1="{at_x(mark[0]):.1f}" y1="{TOP}" x2="{at_x(mark[0]):.1f}" y2="{HEIGHT - BOTTOM}"/>')
        side = "end" if at_x(mark[0]) > WIDTH / 2 else "start"
        shift = -4 if side == "end" else 4
        parts.append(
            f'<text class="mark" x="{at_x(mark[0]) + shift:.1f}" y="{TOP + 12}" text-anchor="{side}">{html.escape(mark[1])}</text>'
        )
    legend = "".join(f'<span class="key {colour(number)}">{html.escape(name)}</span>' for number, name in enumerate(series))
    return f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(y)} against {html.escape(x)}">{"".join(parts)}</svg><figcaption>{legend}</figcaption></figure>'


def _frame(
    x: str, y: str, at_x: Callable[[float], float], at_y: Callable[[float], float], xs: tuple[float, float], ys: tuple[float, float]
) -> list[str]:
    parts = []
    for tick in ticks(*ys):
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at_y(tick):.1f}" x2="{WIDTH - RIGHT}" y2="{at_y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at_y(tick) + 4:.1f}" text-anchor="end">{format_short(tick)}</text>')
    for tick in ticks(*xs, count=6):
        parts.append(f'<text x="{at_x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{format_short(tick)}</text>')
    parts.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{html.escape(x)}</text>')
    parts.append(f'<text class="axis" x="4" y="{TOP + 2}" transform="rotate(-90 12 {TOP})" text-anchor="end">{html.escape(y)}</text>')
    return parts


def _thin(points: Points, most: int = 800) -> Points:
    """At most so many points: the mean of each stretch."""
    if len(points) <= most:
        return points
    size = -(-len(points) // most)
    return [
        (points[start][0], sum(y for _, y in points[start : start + size]) / len(points[start : start + size]))
        for start in range(0, len(points), size)
    ]


def intervals(rows: Sequence[tuple[str, float, float, float]], shown: Callable[[float], str]) -> str:
    """Values with their intervals on a common scale, one under the other: name, value, low, high."""
    ends = [end for row in rows for end in row[1:] if drawable(end)] or [0.0]
    low, high = min(ends), max(ends)
    pad = (high - low or 1) * 0.05
    low, high = low - pad, high + pad

    def at(value: float) -> str:
        if math.isnan(value):
            value = low
        return f"{(min(max(value, low), high) - low) / (high - low) * WIDTH:.1f}"

    parts = []
    for number, (name, value, least, most) in enumerate(rows):
        caption = (
            f'<span>{html.escape(name)}</span><span><b>{shown(value)}</b> <span class="soft">[{shown(least)}, {shown(most)}]</span></span>'
        )
        bar = f'<line class="{colour(number)} bar" x1="{at(least)}" y1="8" x2="{at(most)}" y2="8"/><circle class="{colour(number)}" cx="{at(value)}" cy="8" r="6"/>'
        parts.append(f'<p class="value">{caption}</p><svg viewBox="0 0 {WIDTH} 16" role="img" aria-label="95 % interval">{bar}</svg>')
    return f"<figure>{''.join(parts)}</figure>"


def grid(table: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """A confusion matrix as a table whose cells are shaded by their share of the row."""
    head = "".join(f"<th><span>{html.escape(label)}</span></th>" for label in labels)
    body = []
    for label, row in zip(labels, table, strict=True):
        total = sum(row) or 1
        cells = "".join(f'<td class="s{round(9 * value / total)}">{value or ""}</td>' for value in row)
        body.append(f"<tr><th>{html.escape(label)}</th>{cells}</tr>")
    return f'<div class="scroll"><table class="confusion"><thead><tr><th>true ↓ said →</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def draw_figure(figure: Mapping[str, Any]) -> str:
    """A figure of a family as it stands in evaluation.json.

    Args:
        figure: its `kind`, and what that kind needs: a `map` has `clusters`, each a name and its points (a word, x, y from -1 to 1).
    """
    return {"map": lambda: draw_map(figure["clusters"])}[figure["kind"]]()


def draw_map(clusters: Sequence[tuple[str, Sequence[tuple[str, float, float]]]]) -> str:
    """Words on a plane, a colour for each cluster; a word that would cover another one is a dot that says its name when it is pointed at.

    Args:
        clusters: a name, and words with their places from -1 to 1.
    """
    parts: list[str] = []
    taken: list[tuple[float, float, float]] = []
    longest = max((len(words) for _, words in clusters), default=0)
    for rank in range(longest):  # the words nearest to the middles first
        for number, (name, words) in enumerate(clusters):
            if rank >= len(words):
                continue
            word, x, y = words[rank]
            at_x, at_y, wide = (x + 1) / 2 * (WIDTH - 100) + 50, (1 - y) / 2 * (MAP_HEIGHT - 30) + 15, 3.4 * len(word)
            tooltip = f"<title>{html.escape(word)} ({html.escape(name)})</title>"
            free = all(abs(at_y - other_y) > 12 or abs(at_x - other_x) > wide + other for other_x, other_y, other in taken)
            if free:
                taken.append((at_x, at_y, wide))
                parts.append(
                    f'<text class="{colour(number)} word" x="{at_x:.1f}" y="{at_y + 4:.1f}" text-anchor="middle">{html.escape(word)}{tooltip}</text>'
                )
            else:
                parts.append(f'<circle class="{colour(number)}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="2.5">{tooltip}</circle>')
    legend = "".join(f'<span class="key {colour(number)}">{html.escape(name)}</span>' for number, (name, _) in enumerate(clusters))
    return f'<figure><svg viewBox="0 0 {WIDTH} {MAP_HEIGHT}" role="img" aria-label="words on a plane">{"".join(parts)}</svg><figcaption>{legend}</figcaption></figure>'


def parallel(axes: Sequence[tuple[str, Sequence[str], Sequence[float]]], names: Sequence[str], best: int) -> str:
    """Parallel coordinates: each axis is a hyperparameter, each line a trial.

    Args:
        axes: a name, what each trial's place says, and the place itself from 0 (bottom) to 1 (top).
        names: of the trials.
        best: the one that stands out.
    """
    gap = (WIDTH - 2 * LEFT) / max(len(axes) - 1, 1)
    parts = []
    for number, (name, labels, places) in enumerate(axes):
        x = LEFT + number * gap
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP + 16}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>')
        side = "start" if number == 0 else "end" if number == len(axes) - 1 else "middle"
        parts.append(f'<text class="axis" x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{side}">{html.escape(name)}</text>')
        ends = sorted(zip(places, labels, strict=True))
        for position, word in {ends[0][0]: ends[0][1], ends[-1][0]: ends[-1][1]}.items():
            shift = -6 if side == "end" else 6
            parts.append(
                f'<text x="{x + shift:.1f}" y="{_height(position) - 4:.1f}" text-anchor="{"end" if side == "end" else "start"}">{html.escape(word)}</text>'
            )
    for trial in [*(one for one in range(len(names)) if one != best), best]:
        points = " ".join(f"{LEFT + number * gap:.1f},{_height(places[trial]):.1f}" for number, (_, _, places) in enumerate(axes))
        about = f"{names[trial]}: " + ", ".join(f"{name} {labels[trial]}" for name, labels, _ in axes)
        parts.append(
            f'<polyline class="{"c0" if trial == best else "c7 faint"}" points="{points}"><title>{html.escape(about)}</title></polyline>'
        )
    return f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="each trial as a line">{"".join(parts)}</svg></figure>'


def _height(position: float) -> float:
    return HEIGHT - BOTTOM - position * (HEIGHT - TOP - BOTTOM - 16)


def fan(series: Mapping[str, Points], best: str, x: str, y: str) -> str:
    """Many lines of which one stands out.

    Args:
        series: name → points.
        best: the name of the one.
        x: what the horizontal axis says.
        y: what the vertical axis says.
    """
    series = {name: [point for point in one if drawable(*point)] for name, one in series.items()}
    points = [point for one in series.values() for point in one]
    if not points:
        return "<p>nothing to draw</p>"
    x_high = max(point[0] for point in points)
    y_low, y_high = min(point[1] for point in points), max(point[1] for point in points)
    y_high += (y_high - y_low or 1) * 0.04

    def at_x(value: float) -> float:
        return LEFT + value / x_high * (WIDTH - LEFT - RIGHT)

    def at_y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_low) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = _frame(x, y, at_x, at_y, (0.0, x_high), (y_low, y_high))
    for name in [*(name for name in series if name != best), *([best] if best in series else [])]:
        kind = "c0" if name == best else "c7 faint"
        tooltip = f"<title>{html.escape(name)}</title>"
        parts.append(
            f'<polyline class="{kind}" points="{" ".join(f"{at_x(px):.1f},{at_y(py):.1f}" for px, py in series[name])}">{tooltip}</polyline>'
        )
        parts += [
            f'<circle class="{kind}" cx="{at_x(px):.1f}" cy="{at_y(py):.1f}" r="3"><title>{html.escape(name)}: {py:.4g}</title></circle>'
            for px, py in series[name]
        ]
    return f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(y)} against {html.escape(x)}">{"".join(parts)}</svg></figure>'
