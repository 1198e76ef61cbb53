"""Kinds of panels, each with the look that all of its kind have here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

__all__ = [
    "SOURCE",
    "Column",
    "Query",
    "Text",
    "bars",
    "heat",
    "lines",
    "numbers",
    "ranking",
    "rows",
    "timeline",
]

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

#: Rare events are counted by no shorter steps: a bar that is a pixel wide is not seen.
RARE = "5m"

Panel: TypeAlias = Any
"""A builder of one kind or another: the SDK has no common type with their methods."""
Steps: TypeAlias = Sequence[tuple[float, str]]
"""From which value on a panel has which color; below the first it is ``base``."""


@dataclass(frozen=True)
class Text:
    """What is written on a panel."""

    title: str
    means: str
    """What it shows, and what to do when it is bad."""
    alert: str = ""
    """Alert whose section of the runbook goes on from here."""

    @property
    def description(self) -> str:
        """What one reads at the panel's title."""
        link = f"\n\nRunbook: docs/runbook.md#{self.alert.lower()}" if self.alert else ""
        return self.means + link


@dataclass(frozen=True)
class Query:
    """An expression, and how its series are called."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Column:
    """A column of a table that has the value of an expression."""

    name: str
    expression: str
    unit: str
    base: str = "text"
    steps: Steps = ()


def numbers(
    text: Text,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    base: str = "text",
    steps: Steps = (),
    words: Mapping[str, tuple[str, str]] | None = None,
    names: bool = False,
    whole: bool = False,
    empty: str = "no data",
) -> Panel:
    """One number, or a few: what it is now.

    Args:
        text: what is written on it.
        queries: what is asked for.
        unit: Grafana's name of the unit.
        base: color below the first step.
        steps: colors from a value on.
        words: text and color for a value.
        names: show the names of the series alone, not their values.
        whole: round what Prometheus guesses of a count between two scrapes.
        empty: what stands there without a series.
    """
    mode = options.BigValueTextMode.VALUE_AND_NAME
    if len(queries) == 1 and "{{" not in queries[0].legend:
        mode = options.BigValueTextMode.VALUE
    panel = (
        stat.Panel()
        .graph_mode(options.BigValueGraphMode.NONE)
        .color_mode(options.BigValueColorMode.VALUE)
        .text_mode(options.BigValueTextMode.NAME if names else mode)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value(empty)
    )
    if words:
        panel.mappings([_mapping(words)])
    if whole:
        panel.decimals(0)
    return _common(_asked(panel, queries, instant=True), text, unit, base, steps)


def lines(
    text: Text,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    limits: Steps = (),
    colors: Mapping[str, str] | None = None,
    stacked: bool = False,
    stepped: bool = False,
    top: float | None = None,
    bottom: float | None = 0,
    every: str = "",
) -> Panel:
    """What changes all the time.

    Args:
        text: what is written on it.
        queries: what is asked for.
        unit: Grafana's name of the unit.
        limits: values at which a dashed line is drawn, and its color.
        colors: colors of series by name.
        stacked: areas on top of each other, for what adds up.
        stepped: a value holds until the next one.
        top: upper end of the axis.
        bottom: lower end of the axis; None leaves it to the data.
        every: shortest step.
    """
    panel = (
        timeseries.Panel()
        .draw_style(options.GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(30 if stacked else 0)
        .show_points(options.VisibilityMode.AUTO)
        .axis_soft_min(0)
    )
    if stepped:
        panel.line_interpolation(options.LineInterpolation.STEP_AFTER)
    if limits:
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.DASHED)
        )
    for end, value in ((panel.max, top), (panel.min, bottom)):
        if value is not None:
            end(value)
    if every:
        panel.interval(every)
    return _series(panel, text, queries, unit, limits, colors, stacked, ["lastNotNull", "max"])


def bars(
    text: Text,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    colors: Mapping[str, str] | None = None,
    every: str = RARE,
) -> Panel:
    """What happens now and then: how often in each step, on top of each other."""
    panel = (
        timeseries.Panel()
        .draw_style(options.GraphDrawStyle.BARS)
        .line_width(0)
        .fill_opacity(80)
        .min(0)
        .interval(every)
    )
    if unit == "short":  # a count, which Prometheus guesses between two scrapes
        panel.decimals(0)
    return _series(panel, text, queries, unit, (), colors, True, ["sum"])


def ranking(
    text: Text,
    query: Query,
    *,
    unit: str,
    steps: Steps = (),
    top: float | None = None,
    empty: str = "none",
) -> Panel:
    """Who has how much of something: a bar each, by length."""
    panel = (
        bargauge.Panel()
        .orientation(options.VizOrientation.HORIZONTAL)
        .display_mode(options.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .min(0)
        .no_value(empty)
    )
    if top is not None:
        panel.max(top)
    ordered = Query(f"sort_desc({query.expression})", query.legend)
    return _common(_asked(panel, [ordered], instant=True), text, unit, "blue", steps)


def heat(text: Text, expression: str, *, unit: str = "short") -> Panel:
    """How observations are distributed: the darker a cell, the fewer of them."""
    panel = (
        heatmap.Panel()
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .steps(32)
            .exponent(0.5)
        )
        .cell_gap(1)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .filter_values(heatmap.FilterValueRange().le(0.5))
        .interval(RARE)
    )
    target = _target(0, expression, "{{le}}").range().format(PromQueryFormat.HEATMAP)
    return _common(panel.with_target(target), text, unit, "text", ())


def timeline(text: Text, queries: Sequence[Query]) -> Panel:
    """Which value held from when to when."""
    panel = (
        statetimeline.Panel()
        .merge_values(True)
        .row_height(0.8)
        .line_width(1)
        .fill_opacity(70)
        .legend(common.VizLegendOptions().show_legend(False))
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.CONTINUOUS_BLUES))
    )
    return _common(_asked(panel, queries), text, "none", "text", ())


def rows(
    text: Text,
    keys: Mapping[str, str],
    columns: Sequence[Column],
    *,
    order: str,
    rising: bool = False,
    empty: str = "none",
) -> Panel:
    """A table of what is now.

    Args:
        text: what is written on it.
        keys: labels that make a row, and the names of their columns; others are left out.
        columns: what is shown of each.
        order: name of the column that rows are ordered by.
        rising: the smallest first.
        empty: what stands there without a row.
    """
    panel = table.Panel().no_value(empty).cell_height(options.TableCellHeight.SM)
    panel.sort_by([common.TableSortByFieldState().display_name(order).desc(not rising)])
    for index, column in enumerate(columns):
        target = _target(index, column.expression, "").instant()
        panel.with_target(target.format(PromQueryFormat.TABLE))
        panel.override_by_name(column.name, _column(column))
    single = len(columns) == 1
    values = {
        "Value" if single else f"Value #{_letter(index)}": column.name
        for index, column in enumerate(columns)
    }
    names = {**keys, **values}
    panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        models.DataTransformerConfig(
            id_val="filterFieldsByName", options={"include": {"names": list(names)}}
        )
    )
    panel.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={
                "renameByName": names,
                "indexByName": {name: index for index, name in enumerate(names)},
            },
        )
    )
    return _common(panel, text, "short", "text", ())


def _column(column: Column) -> list[models.DynamicConfigValue]:
    properties = [models.DynamicConfigValue(id_val="unit", value=column.unit)]
    if column.steps:
        steps = _thresholds(column.base, column.steps).build()
        colored = {"type": "color-text"}
        properties += [
            models.DynamicConfigValue(id_val="thresholds", value=steps),
            models.DynamicConfigValue(id_val="custom.cellOptions", value=colored),
        ]
    return properties


def _series(
    panel: Panel,
    text: Text,
    queries: Sequence[Query],
    unit: str,
    limits: Steps,
    colors: Mapping[str, str] | None,
    stacked: bool,
    summary: list[str],
) -> Panel:
    several = len(queries) > 1 or "{{" in queries[0].legend
    panel.legend(
        common.VizLegendOptions()
        .show_legend(several)
        .display_mode(options.LegendDisplayMode.TABLE)
        .placement(options.LegendPlacement.BOTTOM)
        .calcs(summary)
    )
    panel.tooltip(
        common.VizTooltipOptions()
        .mode(options.TooltipDisplayMode.MULTI)
        .sort(options.SortOrder.DESCENDING)
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL).group("A"))
    for name, color in (colors or {}).items():
        fixed = {"mode": "fixed", "fixedColor": color}
        panel.override_by_name(name, [models.DynamicConfigValue(id_val="color", value=fixed)])
    panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
    return _common(_asked(panel, queries), text, unit, "transparent", limits)


def _common(panel: Panel, text: Text, unit: str, base: str, steps: Steps) -> Panel:
    panel.title(text.title).description(text.description).datasource(SOURCE).unit(unit)
    return panel.thresholds(_thresholds(base, steps))


def _thresholds(base: str, steps: Steps) -> dashboard.ThresholdsConfig:
    first = models.Threshold(value=None, color=base)
    others = [models.Threshold(value=value, color=color) for value, color in steps]
    mode = models.ThresholdsMode.ABSOLUTE
    return dashboard.ThresholdsConfig().mode(mode).steps([first, *others])


def _mapping(words: Mapping[str, tuple[str, str]]) -> models.ValueMap:
    results = {
        value: models.ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(words.items())
    }
    return models.ValueMap(options=results)


def _asked(panel: Panel, queries: Sequence[Query], instant: bool = False) -> Panel:
    for index, query in enumerate(queries):
        target = _target(index, query.expression, query.legend)
        panel.with_target(target.instant() if instant else target.range())
    return panel


def _target(index: int, expression: str, legend: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(expression).ref_id(_letter(index)).datasource(SOURCE)
    return target.legend_format(legend) if legend else target


def _letter(index: int) -> str:
    return chr(ord("A") + index)
