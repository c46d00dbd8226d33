"""Figures draw what can be drawn, and leave out what cannot."""

from __future__ import annotations

import math

import pytest

from luthier.delivery import figures

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
