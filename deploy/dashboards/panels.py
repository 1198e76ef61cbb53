"""Kinds of panels, each with the look that all of its kind have here; tables are in ``tables``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, stat, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.dashboards.shared import Panel, Query, Steps, Text, asked, common_look, target_of

__all__ = ["bars", "heat", "lines", "numbers", "ranking"]

#: Rare events are counted by no shorter steps: a bar that is a pixel wide is not seen.
RARE = "5m"


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
    return common_look(asked(panel, queries, instant=True), text, unit, base, steps)


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
    last: str = "",
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
        last: the time that is shown whatever is chosen, such as ``1h``.
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
    if last:
        panel.time_from(last)
    return _series(panel, text, queries, unit, limits, colors, stacked, ["lastNotNull", "max"])


def bars(
    text: Text,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    colors: Mapping[str, str] | None = None,
    every: str = RARE,
    summary: str = "sum",
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
    return _series(panel, text, queries, unit, (), colors, True, [summary])


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
    return common_look(asked(panel, [ordered], instant=True), text, unit, "blue", steps)


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
    target = target_of(0, expression, "{{le}}").range().format(PromQueryFormat.HEATMAP)
    return common_look(panel.with_target(target), text, unit, "text", ())


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
        .sort_by({"sum": "Total", "mean": "Mean"}.get(summary[-1], "Max"))
        .sort_desc(True)
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
    return common_look(asked(panel, queries), text, unit, "transparent", limits)


def _mapping(words: Mapping[str, tuple[str, str]]) -> models.ValueMap:
    results = {
        value: models.ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(words.items())
    }
    return models.ValueMap(options=results)
