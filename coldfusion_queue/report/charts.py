"""Charts as inline SVG: lines with intervals, stacked bars. Colours are classes of the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from coldfusion_queue.report.markup import Markup, element

__all__ = ["Bar", "Line", "Point", "bar_chart", "line_chart", "share_bar", "svg", "ticks"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 10.0, 8.0, 24.0
#: Letters of an axis, in units of the drawing.
_LABEL = 7.0
#: Largest number that is drawn, far above any percentage.
_MOST = 1e6


@dataclass(frozen=True)
class Point:
    """One measured number."""

    x: int
    y: float
    low: float
    high: float
    title: str
    """Shown where a pointer rests on it."""


@dataclass(frozen=True)
class Line:
    """Numbers that are joined."""

    style: str
    """Class that gives it its colour."""
    points: tuple[Point, ...]
    """By x; where an x is missing in between, the line has a gap."""


@dataclass(frozen=True)
class Bar:
    """Numbers on top of each other."""

    label: str
    values: Mapping[str, int]
    """By the class that gives each its colour."""
    title: str


@dataclass(frozen=True)
class _Scale:
    """From numbers to places on an axis."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def svg(width: float, height: float, title: str, *children: object) -> Markup:
    """A drawing that is scaled to the width that there is, with a title for those who hear it."""
    box = f"0 0 {width:g} {height:g}"
    return element("svg", *children, viewBox=box, role="img", aria_label=title)


def ticks(low: float, high: float, num_ticks: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, about so many."""
    rough = max(high - low, 1e-9) / max(num_ticks, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(
    lines: Sequence[Line], last_x: int, title: str, *, width: float = 320, height: float = 180
) -> Markup:
    """Lines over whole numbers from 0 to ``last_x``, each with its interval.

    Args:
        lines: points that no axis can hold, such as infinite ones, are left out.
        last_x: where the axis ends, whether there is a point or not.
        title: for those who hear the page.
        width: of the drawing, in its own units.
        height: the same.
    """
    lines = [Line(line.style, tuple(filter(_can_be_drawn, line.points))) for line in lines]
    points = [point for line in lines for point in line.points]
    low = min((point.low for point in points), default=0.0)
    high = max((point.high for point in points), default=100.0)
    margin = max((high - low) * 0.06, 0.5)
    x = _Scale(0, max(last_x, 1), _LEFT + 4, width - _RIGHT)
    y = _Scale(low - margin, high + margin, height - _BOTTOM, _TOP)
    return svg(
        width,
        height,
        title,
        *_grid(y, width, [(value, f"{value:g}") for value in ticks(y.low, y.high, 4)]),
        *_bottom(x, height, last_x),
        *(part for line in lines for part in _line(line, x, y)),
    )


def bar_chart(
    bars: Sequence[Bar], title: str, *, width: float = 920, height: float = 150
) -> Markup:
    """Stacked bars, with a label below as many of them as there is room for."""
    highest = max((sum(bar.values.values()) for bar in bars), default=0)
    y = _Scale(0, max(highest, 1) * 1.05, height - _BOTTOM, _TOP)
    pitch = (width - _LEFT - _RIGHT) / max(len(bars), 1)
    step = _labels_apart(bars, pitch)
    drawn = []
    for number, bar in enumerate(bars):
        left = _LEFT + number * pitch
        drawn.append(_bar(bar, left + (pitch - min(pitch * 0.8, 60)) / 2, min(pitch * 0.8, 60), y))
        if number % step == 0:
            middle = left + pitch / 2
            drawn.append(_text(bar.label, middle, height - 8, anchor="middle"))
    whole = [value for value in ticks(0, y.high, 4) if value == int(value)]
    return svg(
        width,
        height,
        title,
        *_grid(y, width, [(value, f"{value:,.0f}") for value in whole]),
        *drawn,
    )


def share_bar(values: Mapping[str, int], total: int, title: str) -> Markup:
    """Numbers beside each other, as long as they are of ``total``; for a cell of a table."""
    parts, left = [element("title", title)], 0.0
    for style, value in values.items():
        length = 160 * value / max(total, 1)
        if value:
            box = {"x": left, "y": 1.0, "width": max(length, 0.8), "height": 10.0}
            parts.append(element("rect", class_=style, **box))
        left += length
    return svg(160, 12, title, *parts)


def _can_be_drawn(point: Point) -> bool:
    # Of NaN this is false as well.
    return all(abs(value) <= _MOST for value in (point.y, point.low, point.high))


def _labels_apart(bars: Sequence[Bar], pitch: float) -> int:
    longest = max((len(bar.label) for bar in bars), default=1)
    return max(math.ceil((longest + 1) * _LABEL / pitch), 1)


def _bar(bar: Bar, left: float, width: float, y: _Scale) -> Markup:
    parts, below = [element("title", bar.title)], 0
    for style, value in bar.values.items():
        if value:
            top = y.at(below + value)
            box = {"x": left, "y": top, "width": width, "height": y.at(below) - top}
            parts.append(element("rect", class_=style, **box))
        below += value
    return element("g", *parts)


def _line(line: Line, x: _Scale, y: _Scale) -> Iterator[Markup]:
    runs = _runs(line.points)
    parts = []
    for before, after in pairwise(runs):
        # The eye may follow a line over a gap, but sees that nothing was measured there.
        parts.append(_path([before[-1], after[0]], x, y, "line gap"))
    for run in runs:
        if len(run) > 1:
            band = [(x.at(point.x), y.at(point.high)) for point in run]
            band += [(x.at(point.x), y.at(point.low)) for point in reversed(run)]
            parts.append(element("polygon", class_="band", points=_pairs(band)))
            parts.append(_path(run, x, y, "line"))
        else:
            place = x.at(run[0].x)
            ends = {"y1": y.at(run[0].low), "y2": y.at(run[0].high)}
            parts.append(element("line", class_="whisker", x1=place, x2=place, **ends))
    radius = 3.0 if len(line.points) <= 40 else 1.8
    for point in line.points:
        text = element("title", point.title)
        center = {"cx": x.at(point.x), "cy": y.at(point.y)}
        parts.append(element("circle", text, class_="dot", r=radius, **center))
    yield element("g", *parts, class_=line.style)


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """Points without a gap between them."""
    runs: list[list[Point]] = []
    for point in points:
        if runs and runs[-1][-1].x == point.x - 1:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def _path(points: Sequence[Point], x: _Scale, y: _Scale, style: str) -> Markup:
    places = [(x.at(point.x), y.at(point.y)) for point in points]
    return element("polyline", class_=style, points=_pairs(places))


def _pairs(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{left:.1f},{top:.1f}" for left, top in places)


def _grid(y: _Scale, width: float, labels: Sequence[tuple[float, str]]) -> Iterator[Markup]:
    for value, label in labels:
        place = y.at(value)
        yield element("line", class_="grid", x1=_LEFT, x2=width - _RIGHT, y1=place, y2=place)
        yield _text(label, _LEFT - 5, place + 4, anchor="end")


def _bottom(x: _Scale, height: float, last_x: int) -> Iterator[Markup]:
    whole = [value for value in ticks(0, max(last_x, 1), 8) if value == int(value)]
    for value in whole:
        yield _text(f"{value:.0f}", x.at(value), height - 8, anchor="middle")


def _text(text: str, left: float, top: float, *, anchor: str) -> Markup:
    return element("text", text, class_="label", x=left, y=top, text_anchor=anchor)
