"""Figures draw what can be drawn, and leave out what cannot."""

from __future__ import annotations

import math
import re
from importlib.resources import files

import pytest

from luthier.delivery import figures
from luthier.delivery.transfer import draw_curves

WILD = (math.inf, -math.inf, math.nan, 1.7e308, -1.7e308)


@pytest.mark.parametrize("wild", WILD)
def test_a_value_without_a_place_on_the_scale_spoils_no_figure(wild: float) -> None:
    drawn = figures.intervals([("ours", 1.0, 0.5, wild), ("theirs", wild, wild, wild)], lambda value: f"{value:.1f}").split("<svg", 1)[1]
    drawn += figures.lines({"loss": [(1.0, 2.0), (2.0, wild), (3.0, 1.0)]}, "step", "loss")
    drawn += figures.fan({"one": [(1.0, 2.0), (2.0, wild)], "two": [(1.0, wild)]}, "one", "step", "loss")
    coordinates = [part.split('"')[1] for name in ("x1=", "x2=", "cx=", "cy=", "points=") for part in drawn.split(name)[1:]]
    assert coordinates and not any(word in place for place in coordinates for word in ("nan", "inf", "e+"))
    assert all(-1 <= float(place) <= figures.WIDTH + 1 for places in coordinates for place in places.replace(",", " ").split())
    assert figures.lines({"loss": [(1.0, wild)]}, "step", "loss") == "<p>nothing to draw</p>"


def test_each_of_many_lines_has_a_colour_or_dashes_of_its_own_and_the_style_sheet_knows_them() -> None:
    names = [f"start {number}" for number in range(10)]
    table = [{"start": name, "rows": rows, "value": 0.5, "low": 0.4, "high": 0.6} for name in names for rows in (50, 200)]
    drawings = [
        draw_curves(table, names, "accuracy"),
        figures.lines({name: [(1.0, 2.0), (2.0, 3.0)] for name in names}, "step", "loss"),
    ]
    style = (files("luthier.delivery") / "report.css").read_text()
    colours = dict(re.findall(r"\.(c\d) \{ --own: (#\w+);", style.split("@media (prefers-color-scheme: dark) { .c0")[0]))
    for drawn in drawings:
        looks = re.findall('<polyline class="([^"]+)"', drawn)
        assert len({(colours[look.split()[0]], look.split()[1:] != []) for look in looks}) == len(names)
        assert looks == [look.removeprefix("key ") for look in re.findall('<span class="(key [^"]+)"', drawn)]


def test_numbers_of_rows_below_the_axis_do_not_lie_on_each_other_and_those_beside_it_are_round() -> None:
    table = [{"start": "one", "rows": rows, "value": rows / 2000, "low": 0.01, "high": 0.99} for rows in (50, 200, 980, 1000)]
    drawn = draw_curves(table, ["one"], "accuracy")
    below = [(float(x), said) for x, said in re.findall(r'<text x="([\d.]+)" y="240" text-anchor="middle">([\d,]+)<', drawn)]
    assert [said for _, said in sorted(below)] == ["50", "200", "1,000"]
    assert re.findall(r'text-anchor="end">([\d.]+)<', drawn) == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


@pytest.mark.parametrize("best", [1.0, 5.0, 9.0])
def test_no_line_passes_through_the_name_of_a_mark(best: float) -> None:
    drawn = figures.lines({"chrf": [(step, 60 - abs(step - best)) for step in (1.0, 3.0, 5.0, 7.0, 9.0)]}, "step", "chrf", (best, "chosen"))
    (baseline,) = (float(y) for y in re.findall('<text class="mark" x="[^"]+" y="([^"]+)"', drawn))
    assert min(float(y) for y in re.findall('cy="([^"]+)"', drawn)) > baseline + 6
