"""Lines, bars and stacks over time, with thresholds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tests.monitoring.drawing.canvas import Box, Canvas
from tests.monitoring.drawing.fields import CLASSIC, Field, Look, colour, reduced
from tests.monitoring.drawing.frames import Asked, fields_of
from tests.monitoring.drawing.legends import legend
from tests.monitoring.drawing.scales import AXIS_WIDTH, nothing, on_grid, steps, time_axis
from tests.monitoring.drawing.units import scale_of

__all__ = ["time_series"]


def time_series(canvas: Canvas, box: Box, panel: Mapping[str, Any], asked: Asked) -> None:
    """Lines, bars or points over time."""
    fields = [item for item in fields_of(panel, asked) if item.series.is_finite]
    if not fields:
        nothing(canvas, box, panel)
        return
    colours = [_series_colour(item, index) for index, item in enumerate(fields)]
    plot = legend(canvas, box, panel, fields, colours)
    room = plot.inset(AXIS_WIDTH, 6, 10, 22)
    axes = canvas.axes(room)
    grid = steps(asked)
    stacks: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(grid)))
    for item, shade in zip(fields, colours, strict=True):
        _draw(axes, item, shade, grid, stacks)
    for time, shade in asked.marks:
        axes.axvline(time, color=shade, linestyle=":", linewidth=1)
    _thresholds(axes, fields[0].look)
    _value_axis(axes, fields[0].look)
    time_axis(axes, asked, room.width)


def _series_colour(item: Field, index: int) -> str:
    look = item.look
    if look.colour_mode in ("fixed", "shades") and look.fixed_colour:
        return colour(look.fixed_colour)
    if look.colour_mode == "thresholds":
        return look.colour_of(reduced(item.series.values, "lastNotNull"))
    return CLASSIC[index % len(CLASSIC)]


def _draw(
    axes: Axes, item: Field, shade: str, grid: np.ndarray, stacks: dict[str, np.ndarray]
) -> None:
    custom = item.look.custom
    values = on_grid(item, grid)
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
    low, high = axes.get_ylim()
    scale = scale_of(high, look.unit)
    locator = MaxNLocator(5, steps=(1, 2, 2.5, 5, 10), integer=look.decimals == 0)
    ticks = locator.tick_values(low / scale, high / scale) * scale
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: look.text(value)))
