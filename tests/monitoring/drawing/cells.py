"""Panels of cells over time: heatmaps, and timelines of states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from tests.monitoring.drawing.canvas import TEXT, Box, Canvas
from tests.monitoring.drawing.fields import Field, Look
from tests.monitoring.drawing.frames import Asked, fields_of
from tests.monitoring.drawing.scales import AXIS_WIDTH, nothing, on_grid, steps, time_axis

__all__ = ["heatmap", "timeline"]

_HEAT = LinearSegmentedColormap.from_list("heat", ["#20242B", "#FF780A", "#FFEE52"])
_BLUES = LinearSegmentedColormap.from_list("blues", ["#1B2838", "#1F60C4", "#8AB8FF"])


def heatmap(canvas: Canvas, box: Box, panel: Mapping[str, Any], asked: Asked) -> None:
    """Buckets over time, brighter where more is; of a histogram's cumulative counts."""
    fields = sorted(fields_of(panel, asked), key=lambda item: float(item.series.labels["le"]))
    grid = steps(asked)
    counts = np.array([on_grid(item, grid) for item in fields])
    if not fields or not np.nansum(counts):
        nothing(canvas, box, panel)
        return
    counts = np.maximum(np.diff(counts, axis=0, prepend=0), 0)
    room = box.inset(AXIS_WIDTH, 6, 10, 22)
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
    time_axis(axes, asked, room.width)


def timeline(canvas: Canvas, box: Box, panel: Mapping[str, Any], asked: Asked) -> None:
    """A bar for each series, cut where its value changes."""
    fields = [item for item in fields_of(panel, asked) if item.series.is_finite]
    if not fields:
        nothing(canvas, box, panel)
        return
    names = max(canvas.text_width(item.name, 11) for item in fields) + 16
    room = box.inset(min(names, box.width * 0.4), 6, 10, 22)
    axes = canvas.axes(room)
    axes.set(ylim=(len(fields), 0), yticks=[])
    time_axis(axes, asked, room.width)
    height = room.height / len(fields)
    for row, item in enumerate(fields):
        y = room.y + (row + 0.5) * height
        canvas.text(box.x + 8, y, item.name, pixels=11, width=room.x - box.x - 12)
        _states(axes, item, row, asked)


def _states(axes: Axes, item: Field, row: int, asked: Asked) -> None:
    times, values = item.series.times, item.series.values
    changes = [0, *(n for n in range(1, len(values)) if values[n] != values[n - 1])]
    most = max(values) or 1
    for begin, after in zip(changes, [*changes[1:], len(values)], strict=True):
        end = times[after] if after < len(values) else times[-1] + asked.step
        shade = _BLUES(0.25 + 0.6 * max(values[begin], 0) / most)
        if item.look.colour_mode == "thresholds" or item.look.mappings:
            shade = item.look.colour_of(values[begin])
        axes.barh(row + 0.5, end - times[begin], 0.8, times[begin], color=shade, align="center")
        text = item.look.text(values[begin])
        if (end - times[begin]) / (asked.end - asked.start) > 0.012 * (len(text) + 1):
            axes.text(times[begin], row + 0.5, f" {text}", color=TEXT, fontsize=8, va="center")
