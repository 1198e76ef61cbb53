"""A dashboard: its variables, links and marks, and where its panels are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from coldfusion_queue.metrics import catalogue
from deploy.dashboards.queries import Scope
from deploy.dashboards.shared import SOURCE, Panel

__all__ = ["Board", "Row", "Tile"]

TAG = "coldfusion"


@dataclass(frozen=True)
class Tile:
    """A panel and its size: Grafana's grid has 24 columns."""

    panel: Panel
    width: int
    height: int = 8


@dataclass(frozen=True)
class Row:
    """A question, and the panels that answer it."""

    question: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    description: str
    scope: Scope
    since: str
    """How far back it looks at first, such as ``now-24h``."""
    rows: Sequence[Row]

    def to_json(self) -> str:
        """The text of its file."""
        made = (
            dashboard.Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags([TAG])
            .readonly()
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .time(self.since, "now")
            .timezone("browser")
            .refresh("1m")
            .variables(self._variables())
            .link(_others())
        )
        self._place(made)
        document: dict[str, Any] = json.loads(JSONEncoder().encode(made.build()))
        # Of use beside qualities; beside queues they are to be asked for.
        marks = [_versions(self.scope), _rollbacks(self.scope)]
        document["annotations"] = {
            "list": [{**mark, "enable": not self.scope.sites} for mark in marks]
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    def _place(self, made: dashboard.Dashboard) -> None:
        number = 0
        for row in self.rows:
            made.with_row(dashboard.Row(row.question).id(number := number + 1))
            for tile in row.tiles:
                panel = tile.panel.id(number := number + 1)
                made.with_panel(panel.span(tile.width).height(tile.height))

    def _variables(self) -> list[Any]:
        source = (
            dashboard.DatasourceVariable("datasource")
            .label("Data source")
            .type("prometheus")
            .current(models.VariableOption(selected=True, text="default", value="default"))
        )
        up = catalogue.UP.exposed
        here = f'{up}{{namespace=~"$namespace"}}'
        namespace = _chosen("namespace", "Namespace", f"label_values({up}, namespace)")
        repository = _chosen("repository", "Repository", f"label_values({here}, repository)", False)
        variables = [source, namespace, repository]
        if self.scope.sites:
            chosen = 'repository="$repository", namespace=~"$namespace"'
            queues = f"{catalogue.QUEUE_LENGTH.exposed}{{{chosen}}}"
            variables.append(_chosen("site", "Site", f"label_values({queues}, site)"))
        return variables


def _chosen(name: str, label: str, query: str, everything: bool = True) -> Any:
    """A variable whose values Prometheus knows.

    What has no such label, as what belongs to no site, is in everything: ``.*`` matches it too.
    """
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(everything)
        .include_all(everything)
    )
    if everything:
        variable.all_value(".*").current(
            models.VariableOption(selected=True, text=["All"], value=["$__all"])
        )
    return variable


def _others() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("ColD Fusion Queue").type(models.DashboardLinkType.DASHBOARDS)
    return link.tags([TAG]).as_dropdown(False).include_vars(True).keep_time(True)


def _versions(scope: Scope) -> dict[str, Any]:
    newest = scope.select(catalogue.BASE_VERSION)
    # An hour back, so that one that was there before the exporter was away is not new after it.
    known = f"last_over_time({newest}[1h] offset $__interval)"
    before = f'count_values("version", max({known}))'
    new = f'count_values("version", max({newest})) unless on (version) {before}'
    return _mark("New base versions", new, "Base version {{version}}", "blue")


def _rollbacks(scope: Scope) -> dict[str, Any]:
    grown = scope.decided(catalogue.ROLLBACKS)
    return _mark("Rollbacks", f"{grown} > 0", "Rolled back", "red")


def _mark(name: str, expression: str, title: str, color: str) -> dict[str, Any]:
    """A query of annotations; the SDK does not know those of Prometheus."""
    return {
        "name": name,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "hide": False,
        "iconColor": color,
        "expr": expression,
        "step": "1m",
        "titleFormat": title,
    }
