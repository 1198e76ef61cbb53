"""Dashboards ask for what exists, show all of it, and say what to do in words that hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from coldfusion_queue.cli.main import cli
from coldfusion_queue.metrics.catalogue import CATALOGUE
from coldfusion_queue.metrics.spec import Spec
from coldfusion_queue.records import Policy
from coldfusion_queue.settings import Settings
from deploy.dashboards.__main__ import DIRECTORY, main, make_dashboards

ROOT = Path(__file__).parents[2]
BOARDS: Mapping[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted(DIRECTORY.glob("*.json"))
}
ALERTS = {
    rule["alert"]
    for group in yaml.safe_load((DIRECTORY.parent / "rules.yaml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
SPECS = {spec.exposed: spec for spec in CATALOGUE}

#: What Prometheus adds to series, or to those of a histogram, and what expressions make.
ADDED = {"namespace", "instance", "pod", "le", "worker", "version"}

#: What Grafana replaces by itself.
BUILT_IN = {"__rate_interval", "__interval", "__range", "datasource"}

SERIES = re.compile(r"\b(coldfusion_\w+)(?:\{([^}]*)\})?")


def panels(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions(board: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Titles and what is asked for; marks are asked for too."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for mark in board["annotations"]["list"]:
        yield mark["name"], mark["expr"]


def series(expression: str) -> Iterator[tuple[Spec, str, dict[str, str]]]:
    """The metrics of an expression, with the suffix of a histogram's series and the filters."""
    for name, filters in SERIES.findall(expression):
        base = name if name in SPECS else re.sub("_(bucket|sum|count)$", "", name)
        assert base in SPECS, f"{name} is no metric of the catalogue"
        suffix = name.removeprefix(base)
        assert bool(suffix) == (SPECS[base].kind == "histogram"), name
        yield SPECS[base], suffix, dict(re.findall(r'(\w+)=~?"([^"]*)"', filters))


@pytest.fixture(params=BOARDS)
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    name: str = request.param
    return BOARDS[name]


def test_what_is_committed_is_what_the_code_makes(tmp_path: Path) -> None:
    assert set(make_dashboards()) == {"repository.json", "workers.json", "queue-and-store.json"}
    assert main(["--check"]) == 0


def test_a_dashboard_that_was_changed_by_hand_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = ["--directory", str(tmp_path)]

    assert main([*directory, "--check"]) == 1
    assert main(directory) == 0
    assert main([*directory, "--check"]) == 0
    (tmp_path / "workers.json").write_text("{}")
    (tmp_path / "old.json").write_text("{}")
    capsys.readouterr()
    assert main([*directory, "--check"]) == 1
    assert "old.json, workers.json" in capsys.readouterr().err


def test_every_label_that_is_filtered_or_grouped_by_is_one_of_the_metric(
    board: dict[str, Any],
) -> None:
    wrong = []
    for title, expression in expressions(board):
        known = set(ADDED)
        for spec, _, filters in series(expression):
            known |= {*spec.labels}
            wrong += [f"{title}: {name}" for name in {*filters} - {*spec.labels} - ADDED]
        grouped = re.findall(r"\bby \(([^)]*)\)", expression)
        named = {name.strip() for labels in grouped for name in labels.split(",")}
        wrong += [f"{title}: by {name}" for name in named - known]

    assert wrong == []


def test_every_value_that_is_filtered_by_is_one_of_the_label(board: dict[str, Any]) -> None:
    wrong = [
        f"{title}: {name}={value}"
        for title, expression in expressions(board)
        for spec, _, filters in series(expression)
        for name, values in filters.items()
        if not values.startswith("$")
        for value in values.split("|")
        if not re.search(rf"\b{value}\b", spec.values)
    ]

    assert wrong == []


def test_every_name_in_a_legend_is_a_label_of_the_series(board: dict[str, Any]) -> None:
    wrong = [
        f"{panel['title']}: {name}"
        for panel in panels(board)
        for target in panel["targets"]
        for name in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))
        if not re.search(rf'by \([^)]*\b{name}\b[^)]*\)|"{name}", "', target["expr"])
    ]

    assert wrong == []


def test_every_metric_is_on_a_dashboard_or_has_a_reason_why_not() -> None:
    shown = {
        spec.name
        for board in BOARDS.values()
        for _, expression in expressions(board)
        for spec, _, _ in series(expression)
    }

    assert [spec.name for spec in CATALOGUE if spec.name not in shown and not spec.not_shown] == []
    assert [spec.name for spec in CATALOGUE if spec.name in shown and spec.not_shown] == []


def test_every_series_is_of_the_repository_and_site_that_were_chosen(board: dict[str, Any]) -> None:
    names = {variable["name"] for variable in board["templating"]["list"]}
    wanted = {"repository": "$repository", "namespace": "$namespace", "site": "$site"}
    for title, expression in expressions(board):
        for spec, _, filters in series(expression):
            asked = wanted.keys() & names & {*spec.labels, "namespace"}
            assert {name: filters.get(name) for name in asked} == {
                name: wanted[name] for name in asked
            }, title


def test_a_second_exporter_doubles_nothing(board: dict[str, Any]) -> None:
    """Two of them say the same, and each worker something of its own."""
    wrong = [
        f"{title}: {before.strip()[-30:]}{name}"
        for title, expression in expressions(board)
        for before, name, _ in _in_context(expression)
        for spec, _, _ in series(name)
        if spec.source == "exporter"
        if not re.search(r"(max|min|count)( by \([\w, ]+\) )?\(((min|last)_over_time\()?$", before)
    ]

    assert wrong == []


def test_counts_of_workers_are_asked_for_by_their_growth(board: dict[str, Any]) -> None:
    wrong = [
        f"{title}: {before.strip()[-30:]}{name}"
        for title, expression in expressions(board)
        for before, name, after in _in_context(expression)
        for spec, _, _ in series(name)
        if spec.source != "exporter" and spec.kind != "gauge"
        if not (re.search(r"(rate|increase)\($", before) and after.startswith("["))
    ]

    assert wrong == []


def _in_context(expression: str) -> Iterator[tuple[str, str, str]]:
    for found in SERIES.finditer(expression):
        yield expression[: found.start()], found[0], expression[found.end() :]


def test_variables_are_there_and_used(board: dict[str, Any]) -> None:
    names = [variable["name"] for variable in board["templating"]["list"]]
    queries = [variable["query"] for variable in board["templating"]["list"]]
    asked = " ".join([*queries, *(expression for _, expression in expressions(board))])
    used = set(re.findall(r"\$\{?([a-z_]\w*)", asked)) - BUILT_IN

    assert used | {"datasource"} == {*names}
    assert names[:3] == ["datasource", "namespace", "repository"]
    for panel in panels(board):
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(
            source == {"type": "prometheus", "uid": "${datasource}"} for source in sources
        ), panel["title"]


def test_everything_has_its_place(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for name in ("id", "title"):
        found = [panel[name] for panel in board["panels"]]
        assert len({*found}) == len(found), name
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    # No holes: each line of the grid is full.
    assert len(taken) == 24 * (1 + max(y for _, y in taken))


def test_every_panel_says_what_it_is_in_and_what_to_do(board: dict[str, Any]) -> None:
    for panel in panels(board):
        assert len(panel["title"]) > 3
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert len(panel["description"]) > 60, panel["title"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]


def test_boards_are_found_from_one_another() -> None:
    assert {board["uid"] for board in BOARDS.values()} == {
        "coldfusion-repository",
        "coldfusion-workers",
        "coldfusion-queue-store",
    }
    for board in BOARDS.values():
        (link,) = board["links"]
        assert {*link["tags"]} <= {*board["tags"]}
        assert (link["includeVars"], link["keepTime"]) == (True, True)


# --- what descriptions say ------------------------------------------------------------------------


def texts() -> Iterator[str]:
    for board in BOARDS.values():
        for panel in panels(board):
            yield panel["description"]


def test_every_alert_is_explained_on_a_dashboard_and_no_other() -> None:
    linked = set(re.findall(r"docs/runbook\.md#(\w+)", " ".join(texts())))

    assert linked == {name.lower() for name in ALERTS}


def test_every_command_and_option_exists() -> None:
    wrong = []
    for words in re.findall(r"`coldfusion ([^`]+)`", " ".join(texts())):
        name, *arguments = words.split()
        command = cli.commands.get(name)
        if command is None:
            wrong.append(words)
            continue
        options = {
            flag
            for parameter in command.params
            if isinstance(parameter, click.Option)
            for flag in parameter.opts
        }
        wrong += [words for part in arguments if part.startswith("-") and part not in options]
        if name == "policy":
            fields = [part.partition("=")[0] for part in arguments if "=" in part]
            wrong += [words for field in fields if field not in Policy.model_fields]

    assert wrong == []


def test_every_setting_field_and_page_exists() -> None:
    text = " ".join(texts())
    settings = {f"COLDFUSION_{name.upper()}" for name in Settings.model_fields}
    known = {
        *Policy.model_fields,
        *(word for spec in CATALOGUE for word in re.findall(r"\w+", spec.values)),
    }
    pages = set(re.findall(r"docs/\w+\.md", text)) - {"docs/runbook.md"}
    rules = set(
        re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "fusion.md").read_text("utf-8"), re.M)
    )

    assert set(re.findall(r"`(COLDFUSION_\w+)`", text)) <= settings
    assert [page for page in pages if not (ROOT / page).exists()] == []
    assert set(re.findall(r"`([a-z_]+)`", text)) - known - rules == set()
