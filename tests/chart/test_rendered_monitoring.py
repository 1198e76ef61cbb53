"""Dashboards and alerts as the chart brings them: whole, where they are looked for, with links."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.objects import of_kind
from tests.chart.rendering import CHART, Object, install, render, render_values

FILES = CHART / "files"
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
FILE = "docs/runbook.md"
ADDRESS = "https://wiki.example.org/coldfusion/runbook"

#: What an API server takes at most, and what `kubectl apply` adds to it once more as an annotation.
MOST_BYTES = 262_144


def dashboards(objects: tuple[Object, ...]) -> dict[str, Object]:
    """The ConfigMaps that have one, by the name of its file."""
    return {
        name: found
        for found in of_kind(objects, "ConfigMap")
        for name in found["data"]
        if name.endswith(".json") and "dashboard" in found["metadata"]["name"]
    }


def monitoring(**values: Any) -> tuple[Object, ...]:
    return render_values({"monitoring": values})


def test_there_are_none_unless_they_are_asked_for() -> None:
    assert dashboards(monitoring()) == {}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_each_dashboard_is_in_a_configmap_of_its_own_as_it_is_in_the_file(path: Path) -> None:
    rendered = dashboards(monitoring(dashboards={"enabled": True}))

    assert rendered.keys() == {f"coldfusion-{each.name}" for each in DASHBOARDS}
    found = rendered[f"coldfusion-{path.name}"]
    assert found["data"] == {f"coldfusion-{path.name}": path.read_text("utf-8")}
    assert len(json.dumps(found)) < MOST_BYTES


def test_the_sidecar_finds_them_by_its_label_and_puts_them_where_it_is_told() -> None:
    values = {
        "enabled": True,
        "labels": {"grafana_dashboard": None, "dashboards.example.org/grafana": "main"},
        "annotations": {"grafana_folder": "ColD Fusion"},
        "namespace": "monitoring",
    }
    default = dashboards(monitoring(dashboards={"enabled": True}))
    own = dashboards(monitoring(dashboards=values))

    for found in default.values():
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert "annotations" not in found["metadata"]
        assert "namespace" not in found["metadata"]
    for found in own.values():
        labels = found["metadata"]["labels"]
        assert labels["dashboards.example.org/grafana"] == "main"
        assert "grafana_dashboard" not in labels
        assert found["metadata"]["annotations"] == {"grafana_folder": "ColD Fusion"}
        assert found["metadata"]["namespace"] == "monitoring"


def test_descriptions_and_alerts_link_to_where_the_runbook_is() -> None:
    values = {"dashboards": {"enabled": True}, "prometheusRule": {"enabled": True}}
    plain = monitoring(**values)
    linked = monitoring(**values, runbookUrl=ADDRESS)

    for objects, there, not_there in ((plain, FILE, ADDRESS), (linked, ADDRESS, FILE)):
        (rules,) = of_kind(objects, "PrometheusRule")
        urls = [
            rule["annotations"]["runbook_url"]
            for group in rules["spec"]["groups"]
            for rule in group["rules"]
            if "alert" in rule
        ]
        assert all(url.startswith(f"{there}#") for url in urls)
        for name, found in dashboards(objects).items():
            assert f"{there}#" in found["data"][name]
            assert not_there not in found["data"][name]
            json.loads(found["data"][name])


def test_rules_are_those_of_the_file() -> None:
    (rendered,) = of_kind(monitoring(prometheusRule={"enabled": True}), "PrometheusRule")

    assert rendered["spec"] == yaml.safe_load((FILES / "rules.yaml").read_text("utf-8"))


def test_notes_say_what_is_needed_to_see_anything() -> None:
    """A dashboard without scrapes is empty, and nobody knows why."""
    alone = CHART / "ci" / "minimal-values.yaml"
    whole = CHART / "ci" / "monitoring-values.yaml"

    assert "monitoring.dashboards.enabled" in install(alone)[0]
    assert "monitoring.dashboards.enabled" not in install(whole)[0]
    assert len(dashboards(render(whole))) == len(DASHBOARDS)
