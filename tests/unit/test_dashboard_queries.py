"""What expressions of dashboards answer when exporters and workers come and go."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from coldfusion_queue.metrics import catalogue
from deploy.dashboards.__main__ import make_dashboards
from deploy.dashboards.queries import Scope, by_worker, named_site
from tests.monitoring.prometheus import program

HERE = Scope(sites=True)
VALUES = {
    "__rate_interval": "6m",
    "__interval": "5m",
    "__range": "1h",
    "repository": "default",
    "namespace": ".*",
    "site": ".*",
}


def filled(expression: str) -> str:
    return re.sub(r"\$([a-z_]+)", lambda found: VALUES[found[1]], expression)


def promtool(tmp_path: Path, *arguments: str, document: Any) -> None:
    path = tmp_path / "asked.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    answer = subprocess.run(
        [program("promtool"), *arguments, str(path)], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def answers(
    tmp_path: Path, series: dict[str, str], expression: str, expected: dict[str, float], at: str
) -> None:
    """An expression has these values, by labels, with one scrape each minute."""
    samples = [{"labels": labels, "value": value} for labels, value in expected.items()]
    asked = {"expr": filled(expression), "eval_time": at, "exp_samples": samples}
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": [asked]}
    promtool(tmp_path, "test", "rules", document={"rule_files": [], "tests": [test]})


def test_every_expression_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    rules = []
    for text in make_dashboards().values():
        board = json.loads(text)
        asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
        asked += [mark["expr"] for mark in board["annotations"]["list"]]
        rules += [
            {"record": f"asked:{len(rules) + number}", "expr": filled(expression)}
            for number, expression in enumerate(asked)
        ]

    assert len(rules) > 60
    promtool(tmp_path, "check", "rules", document={"groups": [{"name": "asked", "rules": rules}]})


def test_messages_that_two_exporters_see_are_counted_once(tmp_path: Path) -> None:
    waiting = 'coldfusion_queue_length{repository="default", queue="%s", instance="%s"}'
    series = {
        waiting % (queue, instance): values
        for queue, values in {"finetune": "5x9", "evaluate": "2x9"}.items()
        for instance in ("old", "new")
    }
    total = HERE.total(catalogue.QUEUE_LENGTH)

    answers(tmp_path, series, total, {"{}": 7}, at="5m")


def test_a_restarted_exporter_neither_hides_nor_doubles_what_was_decided(tmp_path: Path) -> None:
    """The new one begins with all that the ledger holds."""
    decided = (
        'coldfusion_contributions_total{repository="default", outcome="refused", rule="%s", '
        'instance="%s"}'
    )
    series = {
        decided % ("finite", "old"): "40 40 41 41 stale",
        decided % ("finite", "new"): "_ _ _ _ 42x9",
        decided % ("copy", "old"): "0 0 0 0 stale",
        decided % ("copy", "new"): "_ _ _ _ 0 1x9",
    }
    grown = HERE.decided_in_range(catalogue.CONTRIBUTIONS, "rule")

    expected = {'{rule="finite"}': 2.0, '{rule="copy"}': 1.0}
    answers(tmp_path, series, grown, expected, at="8m")


def test_steps_of_a_panel_add_up_to_what_was_decided(tmp_path: Path) -> None:
    """Nothing is between two steps or in both of them, and an exporter's absence hides nothing."""
    overrides = 'coldfusion_overrides_total{repository="default", instance="%s"}'
    series = {
        overrides % "old": "3 3 3 4 4 5 6 6 6 stale",
        overrides % "new": "_ _ _ _ _ _ _ _ _ _ _ _ 7 7 7 9 9",
    }
    grown = HERE.decided(catalogue.OVERRIDES)

    answers(tmp_path, series, grown, {"{}": 2.0}, at="5m")
    answers(tmp_path, series, grown, {}, at="10m")
    answers(tmp_path, series, grown, {"{}": 3.0}, at="15m")


def test_a_version_is_marked_once_and_not_again_after_an_absence_of_the_exporter(
    tmp_path: Path,
) -> None:
    board = json.loads(make_dashboards()["repository.json"])
    (mark,) = (one for one in board["annotations"]["list"] if one["name"] == "New base versions")
    version = 'coldfusion_base_version{repository="default", instance="%s"}'
    series = {version % "old": "3x4 stale", version % "new": "_x15 3 3 3 4x9"}

    answers(tmp_path, series, mark["expr"], {}, at="16m")
    answers(tmp_path, series, mark["expr"], {'{version="4"}': 1.0}, at="19m")
    answers(tmp_path, series, mark["expr"], {}, at="25m")


def test_a_worker_that_is_gone_leaves_what_it_did(tmp_path: Path) -> None:
    ended = 'coldfusion_finetunes_total{repository="default", outcome="committed", instance="%s"}'
    series = {ended % "gone": "0 0 0 0 1 2 3 3 3 3 3 stale", ended % "there": "0 0 0 0 0 0 1x9"}
    grown = f"round({HERE.grown(catalogue.FINETUNES, 'outcome', window='$__range')})"

    answers(tmp_path, series, grown, {'{outcome="committed"}': 4.0}, at="15m")


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        pytest.param('instance="10.0.0.7:9464", pod="pool-gpu-7x"', "pool-gpu-7x", id="pod"),
        pytest.param('instance="10.0.0.7:9464"', "10.0.0.7:9464", id="no pod"),
    ],
)
def test_workers_are_called_by_their_pod_where_there_is_one(
    tmp_path: Path, labels: str, name: str
) -> None:
    series = {f'coldfusion_finetune_loss{{repository="default", {labels}}}': "0.5x9"}
    loss = f"max by (worker) ({by_worker(HERE.select(catalogue.LOSS))})"

    answers(tmp_path, series, loss, {f'{{worker="{name}"}}': 0.5}, at="5m")


def test_what_belongs_to_no_site_has_a_name_too(tmp_path: Path) -> None:
    trained = 'coldfusion_trained_examples_total{repository="default", %sinstance="a"}'
    series = {trained % "": "0+60x9", trained % 'site="clinic", ': "0+120x9"}
    rate = named_site(HERE.rate(catalogue.TRAINED_EXAMPLES, "site"))

    answers(tmp_path, series, rate, {'{site="no site"}': 1.0, '{site="clinic"}': 2.0}, at="8m")


def turn(name: str, values: str, worker: str = "a") -> dict[str, str]:
    return {f'coldfusion_turn_{name}{{repository="default", instance="{worker}"}}': values}


def asked_of(board: str, title: str, ref: str) -> str:
    """An expression of a panel."""
    panels = json.loads(make_dashboards()[f"{board}.json"])["panels"]
    (panel,) = (one for one in panels if one["title"] == title)
    (target,) = (one for one in panel["targets"] if one["refId"] == ref)
    return str(target["expr"])


@pytest.fixture
def left() -> str:
    return asked_of("workers", "Turns that train now", "C")


def test_a_straggler_has_much_time_left(tmp_path: Path, left: str) -> None:
    """It began at minute 4, with a quarter done at minute 10: 18 minutes are left."""
    series = {
        **turn("started_timestamp_seconds", "240x20"),
        **turn("reported_timestamp_seconds", "590x20"),
        **turn("progress_ratio", "0.25x20"),
    }

    answers(tmp_path, series, left, {'{worker="a"}': 1080.0}, at="10m")


def test_what_the_turn_before_reported_says_nothing_of_this_one(tmp_path: Path, left: str) -> None:
    series = {
        **turn("started_timestamp_seconds", "300x20"),
        **turn("reported_timestamp_seconds", "290x20"),
        **turn("progress_ratio", "1x20"),
    }

    answers(tmp_path, series, left, {}, at="10m")


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        pytest.param("A", {"1": 1800.0, "2": 1500.0, "3": 840.0}, id="published ago"),
        pytest.param("B", {"1": 240.0, "2": 480.0, "3": 840.0}, id="newest for"),
        pytest.param("C", {"1": 0.0, "2": 4.0, "3": 3.0}, id="fused"),
        pytest.param("D", {"1": 0.0, "2": 1.0, "3": 0.0}, id="refused"),
        pytest.param("E", {"2": 0.5, "3": 2.0}, id="mean staleness"),
    ],
)
def test_the_lineage_tells_versions_apart_though_the_exporter_restarts(
    tmp_path: Path, ref: str, expected: dict[str, float]
) -> None:
    """The third version is published while no exporter is there, and first seen at minute 16."""
    labels = 'repository="default", instance="%s"'
    decided = f'coldfusion_contributions_total{{{labels}, outcome="%s", rule=""}}'
    staleness = f"coldfusion_fused_staleness_versions_%s{{{labels}}}"
    metrics = {
        f"coldfusion_base_version{{{labels}}}": (1, 2, 3),
        decided % ("%s", "fused"): (10, 14, 17),
        decided % ("%s", "refused"): (2, 3, 3),
        staleness % ("sum", "%s"): (20, 22, 28),
        staleness % ("count", "%s"): (10, 14, 17),
    }
    series = {}
    for name, (first, second, third) in metrics.items():
        series[name % "old"] = f"{first}x4 {second}x8 stale"
        series[name % "new"] = f"{'_ ' * 16}{third}x20"

    samples = {f'{{version="{version}"}}': value for version, value in expected.items()}
    asked = asked_of("repository", "Lineage of the last versions", ref)
    answers(tmp_path, series, asked, samples, at="30m")
