"""Every expression of dashboards and rules, as Prometheus is asked for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["DASHBOARDS", "RULES", "alerts", "filled", "marks", "panels", "read_dashboards"]

_FILES = Path(__file__).parents[2] / "helm" / "coldfusion" / "files"
DASHBOARDS = _FILES / "dashboards"
RULES = _FILES / "rules.yaml"

_VARIABLE = re.compile(r"\$\{(\w+)(?::\w+)?\}|\$([A-Za-z_]\w*)|\[\[(\w+)\]\]")


def read_dashboards(directory: Path = DASHBOARDS) -> dict[str, dict[str, Any]]:
    """Dashboards as Grafana loads them, by the name of the file."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(directory.glob("*.json"))
    }


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Panels in order; those of a collapsed row after it."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels") or ()


def marks(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is marked in its graphs (annotations), each as a panel with one query."""
    return [
        {
            "title": item["name"],
            "interval": item.get("step"),
            "targets": [{"refId": "A", "expr": item["expr"]}],
            "color": item["iconColor"],
            "enable": item["enable"],
        }
        for item in dashboard["annotations"]["list"]
        if "expr" in item
    ]


def alerts(rules: str) -> dict[str, str]:
    """Expressions of alerts by their names."""
    groups = yaml.safe_load(rules)["groups"]
    return {
        rule["alert"]: rule["expr"]
        for group in groups
        for rule in group["rules"]
        if "alert" in rule
    }


def filled(expr: str, values: Mapping[str, str]) -> str:
    """An expression with its variables filled as Grafana does it.

    Args:
        expr: with ``$name``, ``${name}`` or ``${name:format}`` in it.
        values: what stands for each.

    Raises:
        KeyError: a variable that has no value, which Grafana would leave as it is.
    """
    return _VARIABLE.sub(lambda match: values[match[1] or match[2] or match[3]], expr)
