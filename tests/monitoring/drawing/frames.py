"""What a panel shows: its queries' answers, named, and made into a table where it is one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.monitoring.drawing.fields import Column, Field, Look
from tests.monitoring.expressions import filled
from tests.monitoring.prometheus import SCRAPE_SECONDS, Prometheus, Series
from tests.monitoring.quickening import quickened_expr, seconds_of

__all__ = ["Asked", "fields_of", "table_of"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """Whom a drawing asks, and for which time.

    Args:
        prometheus: has the data.
        start: seconds since the epoch.
        end: the same.
        step: seconds between two points.
        variables: of the dashboard, filled.
    """

    prometheus: Prometheus
    start: float
    end: float
    step: float
    variables: Mapping[str, str]
    marks: Sequence[tuple[float, str]] = ()
    """Times that are marked in graphs, and the colour of each."""
    factor: float = 1
    """By which durations in queries, and the shortest steps that panels ask for, are divided."""

    def of_panel(self, panel: Mapping[str, Any]) -> Asked:
        """The same with the step of a panel, and what Grafana fills in for that."""
        step = max(self.step, seconds_of(panel.get("interval") or "0s") / self.factor)
        rates = max(step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)
        own = {"__interval": f"{round(step)}s", "__rate_interval": f"{round(rates)}s"}
        return replace(self, step=step, variables={**self.variables, **own})

    def series(self, target: Mapping[str, Any]) -> list[Series]:
        """Answer to one query."""
        quick = quickened_expr(target["expr"], self.factor, 5 * SCRAPE_SECONDS)
        expr = filled(quick, self.variables)
        if target.get("instant") and not target.get("range"):
            return self.prometheus.query(expr, self.end)
        return self.prometheus.query_range(expr, self.start, self.end, self.step)


def fields_of(panel: Mapping[str, Any], asked: Asked) -> list[Field]:
    """Series of all queries of a panel."""
    found = []
    for target in panel.get("targets") or ():
        if target.get("hide"):
            continue
        for series in asked.series(target):
            name = _named(target.get("legendFormat") or "", series.labels)
            look = Look.of(panel, name, target["refId"])
            found.append(Field(look.display_name or name, series, look, target["refId"]))
    return found


def _named(legend: str, labels: Mapping[str, str]) -> str:
    if legend in ("", "__auto"):
        texts = [f'{name}="{text}"' for name, text in labels.items() if name != "__name__"]
        return labels.get("__name__", "") + "{" + ", ".join(texts) + "}" if texts else "Value"
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), legend)


# --- tables ---------------------------------------------------------------------------------------


def table_of(panel: Mapping[str, Any], asked: Asked) -> list[Column]:
    """Columns of a panel that is a table, after its transformations.

    Raises:
        KeyError: a transformation that is not known here.
    """
    queries = panel["targets"]
    names = ["Value"] if len(queries) == 1 else [f"Value #{item['refId']}" for item in queries]
    frames = [_frame(item, name, asked) for item, name in zip(queries, names, strict=True)]
    for item in panel.get("transformations") or ():
        if not item.get("disabled"):
            frames = _TRANSFORMATIONS[item["id"]](frames, item.get("options") or {})
    rows = [row for frame in frames for row in frame]
    names = list(dict.fromkeys(_names(rows)))
    columns = []
    for name in names:
        look = Look.of(panel, name, name.partition("#")[2])
        cells = [row.get(name) for row in rows]
        if not look.custom.get("hidden"):
            columns.append(Column(look.display_name or name, cells, look))
    return _sorted(columns, panel.get("options") or {})


def _frame(target: Mapping[str, Any], value: str, asked: Asked) -> list[Row]:
    rows = []
    for series in asked.series(target):
        labels = {name: text for name, text in series.labels.items() if name != "__name__"}
        rows.append({"Time": series.times[-1], **labels, value: series.values[-1]})
    return rows


def _sorted(columns: list[Column], options: Mapping[str, Any]) -> list[Column]:
    for wanted in options.get("sortBy") or ():
        by = next((item for item in columns if item.name == wanted["displayName"]), None)
        if by is not None:
            order = sorted(range(len(by.cells)), key=lambda index: _sortable(by.cells[index]))
            order = order[::-1] if wanted.get("desc") else order
            columns = [
                Column(item.name, [item.cells[index] for index in order], item.look)
                for item in columns
            ]
    return columns


def _sortable(cell: Any) -> tuple[int, float, str]:
    if cell is None:
        return (0, 0, "")
    return (1, cell, "") if isinstance(cell, int | float) else (2, 0, str(cell))


# --- transformations ------------------------------------------------------------------------------


def _merge(frames: list[list[Row]], _: Mapping[str, Any]) -> list[list[Row]]:
    """Rows of all frames; those become one that agree in what they have in common."""
    merged: dict[tuple[Any, ...], Row] = {}
    for row in (row for frame in frames for row in frame):
        keys = tuple(sorted((name, row[name]) for name in row if not name.startswith("Value")))
        merged.setdefault(keys, {}).update(row)
    return [list(merged.values())]


def _join(frames: list[list[Row]], options: Mapping[str, Any]) -> list[list[Row]]:
    """One row for each value of a field that all frames have."""
    by = options["byField"]
    joined: dict[Any, Row] = {}
    for row in (row for frame in frames for row in frame):
        known = joined.setdefault(row.get(by), {})
        known.update({name: cell for name, cell in row.items() if name not in known})
    return [list(joined.values())]


def _organize(frames: list[list[Row]], options: Mapping[str, Any]) -> list[list[Row]]:
    hidden = {name for name, is_hidden in (options.get("excludeByName") or {}).items() if is_hidden}
    order: Mapping[str, int] = options.get("indexByName") or {}
    renamed: Mapping[str, str] = options.get("renameByName") or {}

    def organised(row: Row, names: Sequence[str]) -> Row:
        return {renamed.get(name) or name: row[name] for name in names if name in row}

    result = []
    for frame in frames:
        names = [name for name in dict.fromkeys(_names(frame)) if name not in hidden]
        names.sort(key=lambda name: order.get(name, math.inf))
        result.append([organised(row, names) for row in frame])
    return result


def _names(frame: Iterable[Row]) -> list[str]:
    return [name for row in frame for name in row]


def _filter(frames: list[list[Row]], options: Mapping[str, Any]) -> list[list[Row]]:
    include = options.get("include") or {}
    names, pattern = include.get("names"), include.get("pattern")

    def stays(name: str) -> bool:
        return name in names if names else re.search(str(pattern).strip("/"), name) is not None

    return [
        [{name: cell for name, cell in row.items() if stays(name)} for row in frame]
        for frame in frames
    ]


def _sort(frames: list[list[Row]], options: Mapping[str, Any]) -> list[list[Row]]:
    for wanted in options.get("sort") or ():
        frames = [
            sorted(
                frame,
                key=lambda row: _sortable(row.get(wanted["field"])),
                reverse=bool(wanted.get("desc")),
            )
            for frame in frames
        ]
    return frames


def _limit(frames: list[list[Row]], options: Mapping[str, Any]) -> list[list[Row]]:
    return [frame[: int(options.get("limitField") or 10)] for frame in frames]


_TRANSFORMATIONS = {
    "merge": _merge,
    "joinByField": _join,
    "organize": _organize,
    "filterFieldsByName": _filter,
    "sortBy": _sort,
    "limit": _limit,
}
