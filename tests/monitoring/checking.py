"""What Prometheus makes of dashboards, rules and ``/metrics``: data, errors, complaints."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from typing import Any

import urllib3

from tests.monitoring.drawing.frames import Asked
from tests.monitoring.expressions import filled, marks, panels
from tests.monitoring.prometheus import Series, program

__all__ = ["answers", "choices", "complaints"]


def answers(dashboards: Mapping[str, Mapping[str, Any]], asked: Asked) -> dict[str, list[Series]]:
    """What each query of panels and marks gives, as Grafana asks it; but for series of NaN alone.

    Returns:
        Series by ``<dashboard>: <title of the panel> <query>``.

    Raises:
        AssertionError: Prometheus does not take an expression; has it and the reason.
    """
    found = {}
    for name, dashboard in dashboards.items():
        for panel in (*panels(dashboard), *marks(dashboard)):
            of_panel = asked.of_panel(panel)
            for target in panel.get("targets") or ():
                series = [item for item in of_panel.series(target) if item.is_finite]
                found[f"{name}: {panel['title']} {target['refId']}"] = series
    return found


def choices(dashboard: Mapping[str, Any], asked: Asked) -> dict[str, set[str]]:
    """What can be chosen for each variable of a dashboard that asks Prometheus."""
    found = {}
    for item in dashboard["templating"]["list"]:
        if item["type"] == "query":
            query = re.fullmatch(r"label_values\((.*), (\w+)\)", item["query"])
            assert query is not None, item["query"]
            series = asked.prometheus.query(filled(query[1], asked.variables))
            found[item["name"]] = {one.labels.get(query[2], "") for one in series} - {""}
    return found


def complaints(port: int) -> str:
    """What ``promtool check metrics`` says of a process of this machine; empty is good."""
    text = urllib3.request("GET", f"http://127.0.0.1:{port}/metrics", timeout=30).data
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False
    )
    return (done.stdout + done.stderr).decode()
