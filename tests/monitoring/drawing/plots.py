"""Panels with a time axis: lines, bars and stacks, with legend and thresholds; and heatmaps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tests.monitoring.drawing.canvas import DIM, TEXT, Box, Canvas
from tests.monitoring.drawing.fields import CLASSIC, Field, Look, colour, reduced
from tests.monitoring.drawing.frames import Asked, fields_of

__all__ = ["heatmap", "time_series"]

_ROW = 18
_AXIS_WIDTH = 62
_HEAT = LinearSegmentedColormap.from_list("heat", ["#20242B", "#FF780A", "#FFEE52"])


def time_series(canvas: Canvas, box: Box, panel: Mapping[str, Any], asked: Asked) -> None:
    """Lines, bars or points over time."""
    fields = [item for item in fields_of(panel, asked) if item.series.is_finite]
    if not fields:
        _nothing(canvas, box, panel)
        return
    colours = [_series_colour(item, index) for index, item in enumerate(fields)]
    plot = _legend(canvas, box, panel, fields, colours)
    room = plot.inset(_AXIS_WIDTH, 6, 10, 22)
    axes = canvas.axes(room)
    grid = np.arange(asked.start, asked.end + asked.step / 2, asked.step)
    stacks: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(grid)))
    for item, shade in zip(fields, colours, strict=True):
        _draw(axes, item, shade, grid, stacks)
    _thresholds(axes, fields[0].look)
    _value_axis(axes, fields[0].look)
    _time_axis(axes, asked, room.width)


def _nothing(canvas: Canvas, box: Box, panel: Mapping[str, Any]) -> None:
    text = Look.of(panel, "", "").no_value
    middle = (box.x + box.width / 2, box.y + box.height / 2)
    canvas.text(*middle, text, colour=DIM, pixels=14, ha="center")


def _series_colour(item: Field, index: int) -> str:
    look = item.look
    if look.colour_mode in ("fixed", "shades") and look.fixed_colour:
        return colour(look.fixed_colour)
    if look.colour_mode == "thresholds":
        return look.colour_of(reduced(item.series.values, "lastNotNull"))
    return CLASSIC[index % len(CLASSIC)]


def _on_grid(item: Field, grid: np.ndarray) -> np.ndarray:
    """Values at the times of the grid; NaN where there is none."""
    values = np.full(len(grid), np.nan)
    step = grid[1] - grid[0] if len(grid) > 1 else 1.0
    for time, value in zip(item.series.times, item.series.values, strict=True):
        index = round((time - grid[0]) / step)
        if 0 <= index < len(grid):
            values[index] = value if math.isfinite(value) else np.nan
    return values


def _draw(
    axes: Axes, item: Field, shade: str, grid: np.ndarray, stacks: dict[str, np.ndarray]
) -> None:
    custom = item.look.custom
    values = _on_grid(item, grid)
    stacking = custom.get("stacking") or {}
    below: Any = 0
    if stacking.get("mode") in ("normal", "percent"):
        group = str(stacking.get("group", "A"))
        below = stacks[group].copy()
        stacks[group] += np.nan_to_num(values)
        values = values + below
    style, fill = custom.get("drawStyle", "line"), custom.get("fillOpacity", 0) / 100
    if style == "bars":
        width = 0.9 * (grid[1] - grid[0] if len(grid) > 1 else 1)
        axes.bar(grid, values - below, width, below, color=shade, alpha=max(fill, 0.4), lw=0)
    elif style == "points":
        axes.plot(grid, values, ".", color=shade, markersize=4)
    else:
        stepped = "post" if str(custom.get("lineInterpolation", "")).startswith("step") else None
        dashes = "--" if (custom.get("lineStyle") or {}).get("fill") == "dash" else "-"
        width = float(custom.get("lineWidth", 1))
        how: dict[str, Any] = {"drawstyle": "steps-post"} if stepped else {}
        axes.plot(grid, values, dashes, color=shade, linewidth=width, **how)
        _lonely(axes, grid, values, shade)
        if fill:
            axes.fill_between(grid, below, values, color=shade, alpha=fill, lw=0, step=stepped)


def _lonely(axes: Axes, grid: np.ndarray, values: np.ndarray, shade: str) -> None:
    """Dots for points without a neighbour, which have no line."""
    known = np.isfinite(np.concatenate([[np.nan], values, [np.nan]]))
    lonely = known[1:-1] & ~known[:-2] & ~known[2:]
    axes.plot(grid[lonely], values[lonely], ".", color=shade, markersize=4)


def _thresholds(axes: Axes, look: Look) -> None:
    mode = (look.custom.get("thresholdsStyle") or {}).get("mode", "off")
    steps = [step for step in look.steps if step.get("value") is not None]
    if mode == "off" or not steps:
        return
    # Those that are far from what is shown do not press it flat.
    low, high = axes.get_ylim()
    for step in steps:
        if step["value"] <= high + 2 * (high - low):
            dashes = "--" if "dashed" in mode else "-"
            axes.axhline(step["value"], color=colour(step["color"]), linestyle=dashes, lw=1)
    axes.relim()


def _value_axis(axes: Axes, look: Look) -> None:
    low, high = axes.get_ylim()
    if look.least is not None:
        low = look.least
    if look.most is not None:
        high = look.most
    axes.set_ylim(low, high if high > low else low + 1)
    integer = look.unit in ("short", "none", "") and look.decimals == 0
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=integer))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: look.text(value)))


def _time_axis(axes: Axes, asked: Asked, pixels: float) -> None:
    start, end = asked.start, asked.end
    axes.set_xlim(start, end)
    steps = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 3 * 3600, 6 * 3600, 86400)
    step = next((item for item in steps if (end - start) / item <= pixels / 80), steps[-1])
    # None so near to the end that it would be written beyond it.
    last = end - 30 * (end - start) / pixels
    ticks = np.arange(math.ceil(start / step) * step, last, step)
    form = "%H:%M" if step >= 60 else "%H:%M:%S"
    axes.set_xticks(ticks, [datetime.fromtimestamp(tick, UTC).strftime(form) for tick in ticks])


# --- legends --------------------------------------------------------------------------------------


def _legend(
    canvas: Canvas,
    box: Box,
    panel: Mapping[str, Any],
    fields: Sequence[Field],
    colours: Sequence[str],
) -> Box:
    """Draw the legend and give what is left of the box."""
    options = (panel.get("options") or {}).get("legend") or {}
    if options.get("showLegend") is False or options.get("displayMode") == "hidden":
        return box
    calcs = list(options.get("calcs") or ())
    lines = [_line(item, calcs) for item in fields]
    if options.get("placement") == "right":
        width = min(
            0.45 * box.width, 90 + 75 * len(calcs) + 7 * max(len(line[0]) for line in lines)
        )
        space = Box(box.x + box.width - width, box.y, width, box.height)
        _legend_table(canvas, space, lines, colours, calcs)
        return box.inset(0, 0, width, 0)
    if options.get("displayMode") == "table":
        rows = min(len(lines) + 1, max(2, int(box.height * 0.4 / _ROW)))
        space = Box(box.x, box.y + box.height - rows * _ROW, box.width, rows * _ROW)
        _legend_table(canvas, space, lines, colours, calcs)
        return box.inset(0, 0, 0, rows * _ROW + 4)
    rows = _legend_list(canvas, box, lines, colours, calcs)
    return box.inset(0, 0, 0, rows * _ROW + 4)


def _line(item: Field, calcs: Iterable[str]) -> list[str]:
    return [item.name, *(item.look.text(reduced(item.series.values, calc)) for calc in calcs)]


def _legend_table(
    canvas: Canvas,
    box: Box,
    lines: Sequence[Sequence[str]],
    colours: Sequence[str],
    calcs: Sequence[str],
) -> None:
    heads = {"lastNotNull": "Last *", "max": "Max", "min": "Min", "mean": "Mean", "sum": "Total"}
    right = box.x + box.width - 8
    for index, calc in enumerate(reversed(calcs)):
        text = heads.get(calc, calc)
        canvas.text(right - 75 * index, box.y + 8, text, pixels=11, colour="#6E9FFF", ha="right")
    shown = max(1, int(box.height / _ROW) - 1)
    for row, (line, shade) in enumerate(zip(lines[:shown], colours, strict=False), start=1):
        y = box.y + 8 + row * _ROW
        canvas.line([(box.x + 8, y), (box.x + 22, y)], shade, 3)
        width = box.width - 40 - 75 * len(calcs)
        canvas.text(box.x + 28, y, line[0], pixels=11, width=width)
        for index, text in enumerate(reversed(line[1:])):
            canvas.text(right - 75 * index, y, text, pixels=11, ha="right")


def _legend_list(
    canvas: Canvas,
    box: Box,
    lines: Sequence[Sequence[str]],
    colours: Sequence[str],
    calcs: Sequence[str],
) -> int:
    """Names beside each other, in as many rows as they need, three at most."""
    texts = [
        "  ".join(
            [line[0], *(f"{calc}: {text}" for calc, text in zip(calcs, line[1:], strict=True))]
        )
        for line in lines
    ]
    rows: list[list[tuple[float, str, str]]] = [[]]
    x = 8.0
    for text, shade in zip(texts, colours, strict=True):
        width = canvas.text_width(text, 11) + 38
        if x + width > box.width and rows[-1]:
            rows.append([])
            x = 8.0
        rows[-1].append((x, text, shade))
        x += width
    rows = rows[:3]
    for number, row in enumerate(rows):
        y = box.y + box.height - (len(rows) - number) * _ROW + 8
        for x, text, shade in row:
            canvas.line([(box.x + x, y), (box.x + x + 14, y)], shade, 3)
            canvas.text(box.x + x + 20, y, text, pixels=11, colour=TEXT, width=box.width - x - 24)
    return len(rows)


# --- heatmaps -------------------------------------------------------------------------------------


def heatmap(canvas: Canvas, box: Box, panel: Mapping[str, Any], asked: Asked) -> None:
    """Buckets over time, brighter where more is; of a histogram's cumulative counts."""
    fields = sorted(fields_of(panel, asked), key=lambda item: float(item.series.labels["le"]))
    grid = np.arange(asked.start, asked.end + asked.step / 2, asked.step)
    counts = np.array([_on_grid(item, grid) for item in fields])
    if not fields or not np.nansum(counts):
        _nothing(canvas, box, panel)
        return
    counts = np.maximum(np.diff(counts, axis=0, prepend=0), 0)
    room = box.inset(_AXIS_WIDTH, 6, 10, 22)
    axes = canvas.axes(room)
    axes.grid(visible=False)
    edges = np.append(grid, grid[-1] + asked.step)
    counts[counts == 0] = np.nan
    axes.pcolormesh(edges, np.arange(len(fields) + 1), counts, cmap=_HEAT, vmin=0)
    unit = ((panel.get("options") or {}).get("yAxis") or {}).get("unit") or ""
    look = Look(unit=unit)
    ends = [float(item.series.labels["le"]) for item in fields]
    every = max(1, math.ceil(len(ends) / 6))
    marks = range(0, len(ends), every)
    axes.set_yticks([mark + 1 for mark in marks], [look.text(ends[mark]) for mark in marks])
    _time_axis(axes, asked, room.width)
