"""Panels without a time axis: single numbers, bars and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.monitoring.drawing.canvas import DIM, GRID, TEXT, Box, Canvas
from tests.monitoring.drawing.fields import Column, Field, Look, colour, reduced
from tests.monitoring.drawing.frames import Asked, fields_of, table_of

__all__ = ["bar_gauge", "stat", "table"]

_ROW = 26


def stat(canvas: Canvas, box: Box, panel: Mapping[str, Any], asked: Asked) -> None:
    """One large number for each series, perhaps with its course behind it."""
    options = panel.get("options") or {}
    fields = fields_of(panel, asked)
    if not fields:
        look = Look.of(panel, "", "A")
        canvas.text(
            box.x + box.width / 2,
            box.y + box.height / 2,
            look.no_value,
            pixels=18,
            colour=DIM,
            ha="center",
        )
        return
    width = box.width / len(fields)
    for index, item in enumerate(fields):
        part = Box(box.x + index * width, box.y, width, box.height)
        _number(canvas, part, item, options, has_name=len(fields) > 1)


def _number(
    canvas: Canvas, box: Box, item: Field, options: Mapping[str, Any], *, has_name: bool
) -> None:
    calc = ((options.get("reduceOptions") or {}).get("calcs") or ["lastNotNull"])[0]
    value = reduced(item.series.values, calc)
    shade, mode = _shade(item.look, value), options.get("colorMode", "value")
    ground = mode.startswith("background")
    if ground:
        canvas.rectangle(box.inset(2, 0, 2, 2), shade, 0.75)
    if options.get("graphMode", "area") == "area" and len(item.series.times) > 2:
        _course(canvas, box.inset(2, box.height * 0.6, 2, 2), item, "#FFFFFF" if ground else shade)
    pixels = max(14, min(box.height * 0.45, 46))
    text = item.look.text(value) if math.isfinite(value) else item.look.no_value
    if options.get("textMode") == "name":
        text, has_name = item.name, False
    while pixels > 12 and canvas.text_width(text, pixels) > box.width - 16:
        pixels -= 2
    front = "#FFFFFF" if ground else TEXT if mode == "none" else shade
    y = box.y + box.height * (0.55 if has_name else 0.45)
    canvas.text(box.x + box.width / 2, y, text, pixels=pixels, colour=front, ha="center")
    if has_name or options.get("textMode") == "value_and_name":
        canvas.text(
            *(box.x + box.width / 2, box.y + 10, item.name),
            pixels=12,
            ha="center",
            width=box.width - 8,
        )


def _shade(look: Look, value: float) -> str:
    if look.colour_mode == "fixed" and look.fixed_colour:
        return colour(look.fixed_colour)
    return look.colour_of(value) if math.isfinite(value) else DIM


def _course(canvas: Canvas, box: Box, item: Field, shade: str) -> None:
    axes = canvas.axes(box)
    axes.axis("off")
    values = np.array(item.series.values)
    axes.fill_between(item.series.times, values, min(0, np.nanmin(values)), color=shade, alpha=0.15)
    axes.plot(item.series.times, values, color=shade, linewidth=1)
    axes.margins(0, 0.05)
    axes.patch.set_alpha(0)


def bar_gauge(canvas: Canvas, box: Box, panel: Mapping[str, Any], asked: Asked) -> None:
    """A bar for each series, with its number."""
    calc = (((panel.get("options") or {}).get("reduceOptions") or {}).get("calcs") or ["last"])[0]
    found = [(item, reduced(item.series.values, calc)) for item in fields_of(panel, asked)]
    found = [(item, value) for item, value in found if math.isfinite(value)]
    if not found:
        canvas.text(
            box.x + box.width / 2, box.y + box.height / 2, "No data", colour=DIM, ha="center"
        )
        return
    height = min(_ROW, box.height / len(found))
    most = max(item.look.most or value for item, value in found) or 1
    wide = min(box.width * 0.4, max(canvas.text_width(item.name, 12) for item, _ in found) + 8)
    for index, (item, value) in enumerate(found):
        y, room = box.y + index * height, box.width - wide - 100
        canvas.text(box.x + 8, y + height / 2, item.name, width=wide)
        bar = Box(box.x + wide + 16, y + 3, room, height - 6)
        canvas.rectangle(bar, GRID)
        filled = Box(bar.x, bar.y, room * max(0, min(value / most, 1)), bar.height)
        shade = _shade(item.look, value)
        canvas.rectangle(filled, shade, 0.8)
        canvas.text(bar.x + room + 8, y + height / 2, item.look.text(value), colour=shade)


# --- tables ---------------------------------------------------------------------------------------


def table(canvas: Canvas, box: Box, panel: Mapping[str, Any], asked: Asked) -> None:
    """Rows and columns."""
    columns = table_of(panel, asked)
    if not columns or not columns[0].cells:
        look = Look.of(panel, "", "A")
        canvas.text(
            *(box.x + box.width / 2, box.y + box.height / 2, look.no_value), colour=DIM, ha="center"
        )
        return
    widths = _widths(canvas, columns, box.width - 8)
    x = box.x + 4
    for column, width in zip(columns, widths, strict=True):
        _column(canvas, Box(x, box.y, width, box.height), column)
        x += width
    canvas.line([(box.x + 4, box.y + _ROW), (box.x + box.width - 4, box.y + _ROW)], GRID)


def _widths(canvas: Canvas, columns: Sequence[Column], room: float) -> list[float]:
    wanted = []
    for column in columns:
        texts = [column.name, *(_cell(column, cell) for cell in column.cells[:30])]
        fixed = column.look.custom.get("width")
        wanted.append(fixed or max(canvas.text_width(text, 12) for text in texts) + 24)
    return [width * room / sum(wanted) for width in wanted]


def _column(canvas: Canvas, box: Box, column: Column) -> None:
    is_number = any(isinstance(cell, float) for cell in column.cells)
    x, side = (box.x + box.width - 10, "right") if is_number else (box.x + 8, "left")
    canvas.text(x, box.y + _ROW / 2, column.name, colour="#6E9FFF", ha=side, width=box.width - 12)
    shown = int((box.height - _ROW) / _ROW)
    for row, cell in enumerate(column.cells[:shown], start=1):
        y = box.y + row * _ROW
        front = TEXT
        kind = (column.look.custom.get("cellOptions") or {}).get("type", "auto")
        if isinstance(cell, float) and kind.startswith("color"):
            shade = _shade(column.look, cell)
            front = shade if kind == "color-text" else "#FFFFFF"
            if kind == "color-background":
                canvas.rectangle(Box(box.x + 1, y + 1, box.width - 2, _ROW - 2), shade, 0.75)
        text = _cell(column, cell)
        canvas.text(x, y + _ROW / 2, text, colour=front, ha=side, width=box.width - 12)


def _cell(column: Column, cell: Any) -> str:
    if cell is None:
        return ""
    return column.look.text(cell) if isinstance(cell, float) else str(cell)
