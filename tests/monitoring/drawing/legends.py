"""Legends: names and summaries of series, below a plot or beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.monitoring.drawing.canvas import TEXT, Box, Canvas
from tests.monitoring.drawing.fields import Field, reduced

__all__ = ["legend"]

_ROW = 18
_HEADS = {"lastNotNull": "Last *", "max": "Max", "min": "Min", "mean": "Mean", "sum": "Total"}


def legend(
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
    fields, colours = _ordered(fields, colours, options)
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


def _ordered(
    fields: Sequence[Field], colours: Sequence[str], options: Mapping[str, Any]
) -> tuple[Sequence[Field], Sequence[str]]:
    """Series in the order that the legend asks for, each with its colour."""
    calc = next((calc for calc, head in _HEADS.items() if head == options.get("sortBy")), None)
    if calc is None:
        return fields, colours
    values = [reduced(item.series.values, calc) for item in fields]
    order = sorted(
        range(len(fields)), key=values.__getitem__, reverse=bool(options.get("sortDesc"))
    )
    return [fields[index] for index in order], [colours[index] for index in order]


def _line(item: Field, calcs: Iterable[str]) -> list[str]:
    return [item.name, *(item.look.text(reduced(item.series.values, calc)) for calc in calcs)]


def _legend_table(
    canvas: Canvas,
    box: Box,
    lines: Sequence[Sequence[str]],
    colours: Sequence[str],
    calcs: Sequence[str],
) -> None:
    right = box.x + box.width - 8
    for index, calc in enumerate(reversed(calcs)):
        text = _HEADS.get(calc, calc)
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
