"""Alert rules: they fire and stay silent, ask for what there is, and lead to the runbook."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from coldfusion_queue.cli.main import cli
from coldfusion_queue.metrics.catalogue import CATALOGUE
from coldfusion_queue.metrics.spec import Spec
from coldfusion_queue.records import Policy
from tests.monitoring.prometheus import program

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm" / "coldfusion" / "files" / "rules.yaml"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
CASES = sorted((ROOT / "tests" / "alerts").glob("*.yaml"))

_ALL = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in _ALL if "alert" in rule}
RECORDED: dict[str, str] = {rule["record"]: rule["expr"] for rule in _ALL if "record" in rule}
#: Labels that Prometheus or its operator adds to what it scrapes.
TARGET_LABELS = {"namespace", "instance"}

_SELECTOR = re.compile(r"\b(coldfusion[\w:]*)(?:\{([^}]*)\})?(?=[\s)\[]|$)")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!=|!~|=)\s*"([^"]*)"')


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def snake(alert: str) -> str:
    """Name of the file with its cases."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", alert.removeprefix("ColdFusion")).lower()


def spec_of(name: str) -> Spec:
    """The metric that a series is of."""
    found = [
        spec
        for spec in CATALOGUE
        if name == spec.exposed
        or (spec.kind == "histogram" and re.fullmatch(f"{spec.name}_(count|sum|bucket)", name))
    ]
    assert len(found) == 1, name
    return found[0]


def labels_of(name: str) -> set[str]:
    """Labels that a series may have."""
    if name in RECORDED:
        grouped = re.match(r"\s*sum by \(([^)]*)\)", RECORDED[name])
        assert grouped is not None
        return set(grouped[1].replace(" ", "").split(","))
    return {*spec_of(name).labels, *TARGET_LABELS}


def selectors(expr: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Series that an expression asks for, each with its matchers."""
    for name, matchers in _SELECTOR.findall(expr):
        yield name, dict(_MATCHER.findall(matchers))


def cases(path: Path) -> list[dict[str, Any]]:
    """What ``promtool test rules`` is given in one file."""
    return list(yaml.safe_load(path.read_text(encoding="utf-8"))["tests"])


def fired(case: Mapping[str, Any]) -> set[str]:
    """Alerts that it wants to fire."""
    text = json.dumps([item.get("exp_samples") for item in case["promql_expr_test"]])
    return set(re.findall(r'alertname=\\"(\w+)\\"', text))


# --- they fire and stay silent --------------------------------------------------------------------


def test_promtool_takes_the_rules() -> None:
    done = promtool("check", "rules", "--lint-fatal", RULES)

    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_compose_files_configuration(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "compose" / "prometheus.yaml").read_text(encoding="utf-8")
    assert "/etc/prometheus/rules.yaml" in text
    config = tmp_path / "prometheus.yaml"
    config.write_text(text.replace("/etc/prometheus/rules.yaml", str(RULES)))

    done = promtool("check", "config", "--lint-fatal", config)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_each_alert_does_what_its_cases_say(path: Path) -> None:
    done = promtool("test", "rules", path)

    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_cases_in_which_it_fires_and_in_which_it_stays_silent() -> None:
    assert {path.stem for path in CASES} == {snake(alert) for alert in ALERTS}
    for alert, rule in ALERTS.items():
        found = cases(ROOT / "tests" / "alerts" / f"{snake(alert)}.yaml")
        firing = [case for case in found if case["name"].startswith("fires")]
        silent = [case for case in found if case["name"].startswith("stays silent")]
        assert firing, alert
        assert silent, alert
        assert [*firing, *silent] == found
        assert [fired(case) for case in firing] == [{alert}] * len(firing)
        assert [fired(case) for case in silent] == [set()] * len(silent)
        # Silent for want of any data would say nothing
        wanted = {name for name, _ in inputs(rule["expr"])}
        for case in silent:
            given = {item["series"].partition("{")[0] for item in case["input_series"]}
            assert given & wanted, case["name"]


def inputs(expr: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Selectors of an expression, and of those that it is recorded by."""
    for name, matchers in selectors(expr):
        yield from selectors(RECORDED[name]) if name in RECORDED else [(name, matchers)]


def test_what_a_case_is_given_could_be_scraped() -> None:
    for path in CASES:
        for case in cases(path):
            for item in case["input_series"]:
                for name, labels in selectors(item["series"]):
                    assert labels.keys() <= labels_of(name), item
                    assert {*spec_of(name).labels} <= labels.keys(), item


# --- they ask for what there is -------------------------------------------------------------------


@pytest.mark.parametrize("rule", _ALL, ids=lambda rule: rule.get("alert") or rule["record"])
def test_each_rule_asks_for_metrics_labels_and_values_of_the_catalogue(
    rule: Mapping[str, Any],
) -> None:
    found = list(selectors(rule["expr"]))
    assert found
    for name, matchers in found:
        assert matchers.keys() <= labels_of(name)
        (metric, _), *_ = inputs(name)
        told = set(re.findall(r"\w+", spec_of(metric).values))
        for values in matchers.values():
            assert {value for value in values.split("|") if "*" not in value} <= told, values


@pytest.mark.parametrize("rule", _ALL, ids=lambda rule: rule.get("alert") or rule["record"])
def test_each_rule_groups_by_labels_that_its_metrics_have(rule: Mapping[str, Any]) -> None:
    known = [labels_of(name) for name, _ in selectors(rule["expr"])]
    groups = re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"])
    for group in groups:
        labels = set(group.replace(" ", "").split(","))
        assert {"namespace", "repository"} <= labels  # two of one name are two
        assert any(labels <= item for item in known), group


# --- they lead to what is to be done --------------------------------------------------------------


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_how_bad_it_is_what_to_do_and_where_more_is(alert: str) -> None:
    rule = ALERTS[alert]

    assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    assert re.fullmatch(r"\d+[mh]", rule["for"])
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook_url"}
    assert notes["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    assert "keep_firing_for" not in rule  # Prometheus has it from 2.42 on


def test_each_alert_has_its_part_of_the_runbook_in_the_same_order() -> None:
    headings = re.findall(r"^## (ColdFusion\w+)$", RUNBOOK, re.MULTILINE)

    assert headings == list(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_part_of_the_runbook_answers_the_same_questions(alert: str) -> None:
    part = RUNBOOK.partition(f"\n## {alert}\n")[2].partition("\n## ")[0]

    assert re.findall(r"^\*\*([^*]+)\.\*\*", part, re.MULTILINE) == [
        "What it means",
        "What is not lost",
        "See it",
        "Causes",
        "What to do",
        "Escalate",
    ]


def told(path: Path, tmp_path: Path) -> str:
    """The summary of an alert when it fires first."""
    case = next(case for case in cases(path) if case["name"].startswith("fires"))
    last = next(item for item in case.pop("promql_expr_test") if "exp_samples" in item)
    (alert,) = [alert for alert in ALERTS if snake(alert) == path.stem]
    case["alert_rule_test"] = [{"eval_time": last["eval_time"], "alertname": alert}]
    step = yaml.safe_load(path.read_text())["evaluation_interval"]
    asked = {"rule_files": [str(RULES)], "evaluation_interval": step, "tests": [case]}
    (tmp_path / path.name).write_text(json.dumps(asked))
    # Nothing is expected, so that it shows what it got
    done = promtool("test", "rules", tmp_path / path.name)
    found = re.search(r'Annotations:\{description=".*", summary="(.*)"\}', done.stderr)
    assert found is not None, done.stdout + done.stderr
    return found[1]


def test_what_an_alert_says_is_rendered(tmp_path: Path) -> None:
    for path in CASES:
        summary = told(path, tmp_path)
        assert not re.search(r"error|no value|\{\{|  |%!", summary), summary


def test_the_alert_on_quality_says_by_how_much_which_dataset_is_worse(tmp_path: Path) -> None:
    (path,) = [path for path in CASES if path.stem == "quality_drop"]

    assert "is 6% worse on dataset notes (frozen)" in told(path, tmp_path)


def commands(text: str) -> Iterable[str]:
    """Our commands in a text, without prompts and what is around them."""
    inline = re.findall(r"`(coldfusion(?:-submit)? [^`]+)`", text)
    blocks = re.findall(r"^\s*\$ (coldfusion(?:-submit)? [^#\n]+)", text, re.MULTILINE)
    return [*inline, *blocks]


def test_every_command_in_rules_and_runbook_is_one_that_there_is() -> None:
    notes = "\n".join(rule["annotations"]["description"] for rule in ALERTS.values())
    found = sorted({*commands(notes), *commands(RUNBOOK)})
    assert len(found) > 15
    for line in found:
        program_name, *words = line.split()
        name = "submit" if program_name == "coldfusion-submit" else words.pop(0)
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, line
        options = {option for item in command.params for option in item.opts}
        assert {word for word in words if word.startswith("-")} <= options, line
        if name in ("policy", "fuse") and "--set" in words:
            field = words[words.index("--set") + 1].partition("=")[0]
            assert field in Policy.model_fields, line
