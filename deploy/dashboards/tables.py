"""Tables: what is now, a row for each of something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, table
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.dashboards.shared import (
    Panel,
    Steps,
    Text,
    common_look,
    letter,
    target_of,
    thresholds,
)

__all__ = ["Column", "rows"]


@dataclass(frozen=True)
class Column:
    """A column of a table that has the value of an expression."""

    name: str
    expression: str
    unit: str
    base: str = "text"
    steps: Steps = ()


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
        target = target_of(index, column.expression, "").instant()
        panel.with_target(target.format(PromQueryFormat.TABLE))
        panel.override_by_name(column.name, _column(column))
    single = len(columns) == 1
    values = {
        "Value" if single else f"Value #{letter(index)}": column.name
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
    return common_look(panel, text, "short", "text", ())


def _column(column: Column) -> list[models.DynamicConfigValue]:
    properties = [models.DynamicConfigValue(id_val="unit", value=column.unit)]
    if column.steps:
        steps = thresholds(column.base, column.steps).build()
        colored = {"type": "color-text"}
        properties += [
            models.DynamicConfigValue(id_val="thresholds", value=steps),
            models.DynamicConfigValue(id_val="custom.cellOptions", value=colored),
        ]
    return properties
