"""What panels of all kinds have: words, queries and colors from a value on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.models import dashboard as models

__all__ = [
    "SOURCE",
    "Panel",
    "Query",
    "Steps",
    "Text",
    "asked",
    "common_look",
    "letter",
    "target_of",
    "thresholds",
]

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

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


def common_look(panel: Panel, text: Text, unit: str, base: str, steps: Steps) -> Panel:
    """Words, source, unit and colors."""
    panel.title(text.title).description(text.description).datasource(SOURCE).unit(unit)
    return panel.thresholds(thresholds(base, steps))


def thresholds(base: str, steps: Steps) -> dashboard.ThresholdsConfig:
    """Colors from a value on."""
    first = models.Threshold(value=None, color=base)
    others = [models.Threshold(value=value, color=color) for value, color in steps]
    mode = models.ThresholdsMode.ABSOLUTE
    return dashboard.ThresholdsConfig().mode(mode).steps([first, *others])


def asked(panel: Panel, queries: Sequence[Query], instant: bool = False) -> Panel:
    """A panel with its queries; ``instant`` asks for what is now."""
    for index, query in enumerate(queries):
        target = target_of(index, query.expression, query.legend)
        panel.with_target(target.instant() if instant else target.range())
    return panel


def target_of(index: int, expression: str, legend: str) -> prometheus.Dataquery:
    """One query of a panel; the index is its place among them."""
    target = prometheus.Dataquery().expr(expression).ref_id(letter(index)).datasource(SOURCE)
    return target.legend_format(legend) if legend else target


def letter(index: int) -> str:
    """What Grafana calls a query."""
    return chr(ord("A") + index)
