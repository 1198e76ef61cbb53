"""A dashboard as one picture: its panels where Grafana would put them, with what they show now.

``python -m tests.monitoring.drawing.page DASHBOARD.json PORT MINUTES PICTURE.png NAME=VALUE...``
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.monitoring.drawing.canvas import DIM, Box, Canvas
from tests.monitoring.drawing.cells import heatmap, timeline
from tests.monitoring.drawing.fields import colour
from tests.monitoring.drawing.frames import Asked
from tests.monitoring.drawing.numbers import bar_gauge, stat, table
from tests.monitoring.drawing.plots import time_series
from tests.monitoring.expressions import marks
from tests.monitoring.prometheus import Prometheus

__all__ = ["draw", "variables"]

_WIDTH, _COLUMNS, _UNIT, _GAP, _HEAD, _TOP = 1600, 24, 38, 8, 30, 44

_KINDS: Mapping[str, Callable[[Canvas, Box, Mapping[str, Any], Asked], None]] = {
    "timeseries": time_series,
    "heatmap": heatmap,
    "state-timeline": timeline,
    "stat": stat,
    "gauge": stat,
    "bargauge": bar_gauge,
    "table": table,
}


def variables(repository: str, seconds: float) -> dict[str, str]:
    """What Grafana would fill in, but for what depends on the panel: one repository, all sites.

    Args:
        repository: the one that is chosen.
        seconds: that are shown.
    """
    return {
        "datasource": "prometheus",
        "namespace": ".*",
        "repository": repository,
        "site": ".*",
        "__range": f"{round(seconds)}s",
        "__range_s": f"{round(seconds)}",
    }


def draw(dashboard: Mapping[str, Any], asked: Asked, path: Path) -> None:
    """Draw a dashboard.

    Args:
        dashboard: as Grafana loads it.
        asked: has the data.
        path: PNG that is written.

    Raises:
        KeyError: a kind of panel, a unit or a transformation that is not known here.
    """
    asked = replace(asked, marks=_marks(dashboard, asked))
    placed = list(_placed(dashboard))
    rows = max(y + height for _, y, height in placed)
    canvas = Canvas(_WIDTH, _TOP + rows * _UNIT + _GAP)
    _title(canvas, dashboard, asked)
    for panel, y, height in placed:
        place, column = panel["gridPos"], (_WIDTH - _GAP) / _COLUMNS
        x, width = _GAP + place["x"] * column, place["w"] * column - _GAP
        _panel(canvas, Box(x, _TOP + y * _UNIT, width, height * _UNIT - _GAP), panel, asked)
    canvas.save(path)


def _marks(dashboard: Mapping[str, Any], asked: Asked) -> list[tuple[float, str]]:
    return [
        (time, colour(mark["color"]))
        for mark in marks(dashboard)
        if mark["enable"]
        for series in asked.of_panel(mark).series(mark["targets"][0])
        for time in series.times
    ]


def _placed(dashboard: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Panels with the line of the grid where they begin, and their height; rows are opened."""
    shift = 0
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        yield panel, place["y"] + shift, place["h"]
        inner = panel.get("panels") or ()
        if inner:
            first = min(item["gridPos"]["y"] for item in inner)
            last = max(item["gridPos"]["y"] + item["gridPos"]["h"] for item in inner)
            for item in inner:
                begin = place["y"] + shift + 1 + item["gridPos"]["y"] - first
                yield item, begin, item["gridPos"]["h"]
            shift += last - first


def _title(canvas: Canvas, dashboard: Mapping[str, Any], asked: Asked) -> None:
    canvas.text(_GAP + 4, _TOP / 2, dashboard["title"], pixels=18)
    shown = [
        f"{item.get('label') or item['name']}: {asked.variables[item['name']]}"
        for item in dashboard["templating"]["list"]
    ]
    text = "   ".join(shown).replace(".*", "All")
    canvas.text(_WIDTH - 12, _TOP / 2, text, colour=DIM, ha="right")


def _panel(canvas: Canvas, box: Box, panel: Mapping[str, Any], asked: Asked) -> None:
    if panel["type"] == "row":
        canvas.text(box.x + 4, box.y + box.height / 2, f"⌄ {panel['title']}", pixels=14)
        return
    if not panel.get("transparent"):
        canvas.panel(box)
    canvas.text(box.x + 10, box.y + 15, panel["title"], pixels=13, width=box.width - 40)
    if panel.get("description"):
        canvas.circled(box.x + box.width - 16, box.y + 15, "i")
    inside = box.inset(4, _HEAD, 4, 4)
    _KINDS[panel["type"]](canvas, inside, panel, asked.of_panel(panel))


def main() -> None:
    """Draw what a Prometheus of this machine has."""
    dashboard, port, minutes, picture, *pairs = sys.argv[1:]
    seconds, end = 60 * float(minutes), time.time()
    chosen = {**variables("", seconds), **dict(pair.split("=", 1) for pair in pairs)}
    server = Prometheus(Path(), int(port))
    asked = Asked(server, end - seconds, end, max(1, seconds / 400), chosen)
    draw(json.loads(Path(dashboard).read_text(encoding="utf-8")), asked, Path(picture))


if __name__ == "__main__":
    main()
