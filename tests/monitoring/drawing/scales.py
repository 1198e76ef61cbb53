"""What plots over time have in common: the axis of time, values at steps of time, no data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from tests.monitoring.drawing.canvas import DIM, Box, Canvas
from tests.monitoring.drawing.fields import Field, Look
from tests.monitoring.drawing.frames import Asked

__all__ = ["AXIS_WIDTH", "nothing", "on_grid", "steps", "time_axis"]

#: Pixels beside a plot for the values of its axis.
AXIS_WIDTH = 62


def steps(asked: Asked) -> np.ndarray:
    """Times at which there may be a value, in seconds since the epoch."""
    return np.arange(asked.start, asked.end + asked.step / 2, asked.step)


def on_grid(item: Field, grid: np.ndarray) -> np.ndarray:
    """Values at the times of the grid; NaN where there is none."""
    values = np.full(len(grid), np.nan)
    step = grid[1] - grid[0] if len(grid) > 1 else 1.0
    for time, value in zip(item.series.times, item.series.values, strict=True):
        index = round((time - grid[0]) / step)
        if 0 <= index < len(grid):
            values[index] = value if math.isfinite(value) else np.nan
    return values


def time_axis(axes: Axes, asked: Asked, pixels: float) -> None:
    """Show the time that is asked for, with marks that do not touch each other.

    Args:
        axes: whose.
        asked: for which time.
        pixels: width of the axes.
    """
    start, end = asked.start, asked.end
    axes.set_xlim(start, end)
    steps = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 3 * 3600, 6 * 3600, 86400)
    step = next((item for item in steps if (end - start) / item <= pixels / 66), steps[-1])
    # None so near to the end that it would be written beyond it.
    last = end - 30 * (end - start) / pixels
    ticks = np.arange(math.ceil(start / step) * step, last, step)
    form = "%H:%M" if step >= 60 else "%H:%M:%S"
    axes.set_xticks(ticks, [datetime.fromtimestamp(tick, UTC).strftime(form) for tick in ticks])


def nothing(canvas: Canvas, box: Box, panel: Mapping[str, Any]) -> None:
    """Say that there is nothing to show."""
    text = Look.of(panel, "", "").no_value
    middle = (box.x + box.width / 2, box.y + box.height / 2)
    canvas.text(*middle, text, colour=DIM, pixels=14, ha="center")
