"""What the exporter serves, and that the chart's HPA asks for just that of queues and pools."""

from __future__ import annotations

import os
import re
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families

from coldfusion_queue.keys import POOLS, RedisKeys
from coldfusion_queue.local.ports import free_port
from coldfusion_queue.local.processes import last_lines, start, stop
from coldfusion_queue.metrics.catalogue import CATALOGUE
from coldfusion_queue.queue.app import finetune_queue, make_app, unacked_key
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.queue.sites import note_site
from coldfusion_queue.records import Policy
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.rolling_back import roll_back
from coldfusion_queue.settings import Settings
from tests.chart.rendering import render_values
from tests.integration.conftest import Contribute, Tensors
from workers.exporter import RepositoryCollector

Samples = dict[tuple[str, str], float]

#: Scaled by an HPA, one in a pool of everybody's and one at a site.
VALUES = {
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}]},
    "pools": {
        "gpu": {
            "autoscaling": {"kind": "hpa", "minReplicas": 1, "scaleIn": "requeue"},
        },
        "clinic": {
            "site": "hospital-a",
            "siteData": {"existingClaim": "notes"},
            "autoscaling": {"kind": "hpa", "minReplicas": 1, "scaleIn": "requeue"},
        },
    },
}


@pytest.fixture(autouse=True)
def _there(repository: Repository) -> None:
    """There is a repository to tell of."""


def samples(settings: Settings, name: str) -> Samples:
    """Values of a metric by queue and pool."""
    families = {item.name: item for item in RepositoryCollector(settings).collect()}
    assert families["coldfusion_up"].samples[0].value == 1
    found = families[name].samples
    assert all(set(item.labels) == {"repository", "queue", "site", "pool"} for item in found)
    assert {item.labels["repository"] for item in found} <= {settings.repository}
    return {(item.labels["queue"], item.labels["pool"]): item.value for item in found}


def take(settings: Settings, site: str | None = None) -> None:
    """Take a turn, as a worker with these settings does that is killed then."""
    with make_app(settings).connection_for_read() as connection:
        channel = connection.default_channel
        channel.qos.restore_at_shutdown = False
        assert finetune_queue(site)(channel).get() is not None


def test_the_work_of_a_pool_is_what_waits_and_what_its_own_workers_have(
    settings: Settings, client: redis.Redis, sender: TurnSender
) -> None:
    pools = {pool: settings.model_copy(update={"pool": pool}) for pool in ("a100", "t4")}
    client.sadd(POOLS, *pools)
    for turn in range(1, 8):
        sender.send("s", turn)
    take(settings)
    take(pools["a100"])
    take(pools["a100"])
    for number in range(3):
        client.hset(unacked_key("fusion"), str(number), "a message")

    assert samples(settings, "coldfusion_taken_tasks") == {
        ("finetune", ""): 1,
        ("finetune", "a100"): 2,
        ("finetune", "t4"): 0,
        ("evaluate", ""): 0,
        ("fusion", ""): 3,
    }
    assert samples(settings, "coldfusion_pool_work") == {
        ("finetune", ""): 4 + 1,
        ("finetune", "a100"): 4 + 2,
        ("finetune", "t4"): 4,
    }


def test_a_site_is_counted_from_its_first_turn_on_and_apart_from_everybody(
    settings: Settings, sender: TurnSender
) -> None:
    assert samples(settings, "coldfusion_pool_work") == {("finetune", ""): 0}

    for turn in (1, 2, 3):
        sender.send("private", turn, "hospital-a")
    sender.send("s", 1)
    take(settings.model_copy(update={"site": "hospital-a", "pool": "clinic"}), "hospital-a")

    assert samples(settings, "coldfusion_pool_work") == {
        ("finetune", ""): 1,
        ("finetune.hospital-a", ""): 2 + 1,
    }
    assert samples(settings, "coldfusion_taken_tasks")["finetune.hospital-a", ""] == 1


def test_an_hpa_of_the_chart_selects_the_one_series_of_its_pool(
    settings: Settings, client: redis.Redis
) -> None:
    client.sadd(POOLS, "gpu", "t4")
    for site in ("hospital-a", "hospital-b"):
        note_site(client, RedisKeys(settings.repository), site)
    scalers = [item for item in render_values(VALUES) if item["kind"] == "HorizontalPodAutoscaler"]
    asked = [metric["external"] for item in scalers for metric in item["spec"]["metrics"]]

    assert {item["metric"]["name"] for item in asked} == {"coldfusion_pool_work"}
    selectors = [item["metric"]["selector"]["matchLabels"] for item in asked]
    assert all(set(labels) == {"queue", "pool"} for labels in selectors)
    wanted = {(labels["queue"], labels["pool"]) for labels in selectors}
    assert wanted == {("finetune", "gpu"), ("finetune.hospital-a", "")}
    assert wanted <= set(samples(settings, "coldfusion_pool_work"))


def test_the_rules_for_a_metrics_adapter_in_the_docs_ask_for_what_there_is(
    settings: Settings, client: redis.Redis
) -> None:
    client.sadd(POOLS, "gpu")
    page = (Path(__file__).parents[2] / "docs" / "autoscaling.md").read_text(encoding="utf-8")
    rules = yaml.safe_load(page.split("```yaml")[1].split("```")[0])["externalRules"]
    families = {item.name: item for item in RepositoryCollector(settings).collect()}

    assert len(rules) == 2
    for rule in rules:
        asked = set(re.findall(r"coldfusion_\w+", rule["seriesQuery"] + rule["metricsQuery"]))
        assert asked <= set(families)
        for name in asked - {"coldfusion_queue_length"}:
            labels = {"repository", "queue", "site", "pool"}
            assert labels == set(families[name].samples[0].labels)
    labels = {"repository", "queue", "site"}
    assert families["coldfusion_queue_length"].samples[0].labels.keys() == labels


# --- what the ledger says -------------------------------------------------------------------------

#: Of each sample of a metric its name and labels but for the repository, and its value.
Told = dict[tuple[str, ...], float]


@pytest.fixture
def policy() -> Policy:
    return Policy(min_contributions=1, max_relative_norm=1, max_copy_cosine=None)


def told(collector: RepositoryCollector, *names: str) -> Told:
    families = {family.name: family for family in collector.collect()}
    return {
        (item.name, *(value for label, value in item.labels.items() if label != "repository")): (
            item.value
        )
        for name in names
        for item in families[name].samples
    }


def a_thousand_fold(tensors: Tensors) -> Tensors:
    return {name: 1000 * values for name, values in tensors.items()}


def test_what_the_ledger_decided_is_counted_and_once_more_by_the_exporter_that_comes_after(
    settings: Settings, repository: Repository, contribute: Contribute
) -> None:
    names = [spec.name for spec in CATALOGUE if "counted from the ledger" in spec.help]
    collector = RepositoryCollector(settings)
    before = told(collector, *names)
    assert set(before.values()) == {0}
    old = repository.ledger.base_version()
    contribute("anna", seed=1)
    contribute("ben", seed=2)
    contribute("huge", seed=3, change=a_thousand_fold)
    fuse_once(repository, settings)
    contribute("anna-again", seed=4, base=old)
    fuse_once(repository, settings)
    roll_back(repository, 1, "worse")

    after = told(collector, *names)

    grown = {key: value for key, value in after.items() if value != before[key]}
    staleness = "coldfusion_fused_staleness_versions"
    assert {key: value for key, value in grown.items() if key[0] != f"{staleness}_bucket"} == {
        ("coldfusion_contributions_total", "fused", ""): 3,
        ("coldfusion_contributions_total", "refused", "relative_norm"): 1,
        ("coldfusion_rollbacks_total",): 1,
        (f"{staleness}_count",): 3,
        (f"{staleness}_sum",): 1,
    }
    assert (after[f"{staleness}_bucket", "0.0"], after[f"{staleness}_bucket", "1.0"]) == (2, 3)
    norms = told(collector, "coldfusion_update_relative_norm")
    assert norms["coldfusion_update_relative_norm_count", "fused"] == 3
    assert norms["coldfusion_update_relative_norm_bucket", "refused", "1.0"] == 0
    assert norms["coldfusion_update_relative_norm_count", "refused"] == 1
    assert told(RepositoryCollector(settings), *names) == after
    assert sum(told(collector, "coldfusion_contributor_share").values()) == pytest.approx(1)


def test_prometheus_may_ask_many_times_at_once(
    settings: Settings, repository: Repository, contribute: Contribute
) -> None:
    contribute("anna")
    fuse_once(repository, settings)
    collector = RepositoryCollector(settings)

    with ThreadPoolExecutor(8) as threads:
        asked = [
            threads.submit(told, collector, "coldfusion_up", "coldfusion_contributions")
            for _ in range(24)
        ]
    found = [item.result() for item in asked]

    assert all(item == found[0] for item in found)
    assert found[0]["coldfusion_up",] == 1
    assert found[0]["coldfusion_contributions_total", "fused", ""] == 1


# --- the process itself ---------------------------------------------------------------------------


@contextmanager
def exporter(directory: Path, **variables: str) -> Iterator[Callable[[], Mapping[str, Told]]]:
    """An exporter with the environment of this process, and what it serves by metric."""
    port, log = free_port(), directory / "exporter.log"
    environment = {**os.environ, **variables, "COLDFUSION_METRICS_PORT": str(port)}
    command = [sys.executable, "-m", "workers.exporter"]
    process = start("exporter", command, environment, directory, log, die_with_parent=True)

    def ask() -> Mapping[str, Told]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        return {
            family.name: {(item.name, *item.labels.values()): item.value for item in family.samples}
            for family in text_string_to_metric_families(text)
        }

    try:
        yield ask
    finally:
        stop([process], 5)
        assert "Traceback" not in last_lines(log), last_lines(log)


def test_the_exporter_counts_its_own_requests_too_and_serves_nothing_without_a_name(
    settings: Settings, tmp_path: Path, wait_until: Callable[..., object]
) -> None:
    with exporter(tmp_path) as ask:
        wait_until(ask)
        first, second = ask(), ask()

    served = {name for name in second if name.startswith("coldfusion_")}
    specs = {spec.name: spec for spec in CATALOGUE}
    assert served <= set(specs)
    assert {specs[name].source for name in served} == {"exporter", "all"}
    always = {name for name, spec in specs.items() if spec.source == "all"}
    assert always <= served
    for name, labels in {
        "coldfusion_store_request_duration_seconds": ("list", settings.repository),
        "coldfusion_broker_request_duration_seconds": (settings.repository,),
    }.items():
        key = next(
            key for key in second[name] if key[0] == f"{name}_count" and set(labels) == {*key[1:]}
        )
        assert second[name][key] > first[name][key] > 0


def test_an_exporter_without_its_broker_still_tells_of_the_store(
    tmp_path: Path, wait_until: Callable[..., object], settings: Settings
) -> None:
    away = f"redis://127.0.0.1:{free_port()}/0"
    with exporter(tmp_path, COLDFUSION_BROKER_URL=away) as ask:
        wait_until(ask)
        found = ask()

    assert found["coldfusion_up"] == {("coldfusion_up", settings.repository): 0}
    assert found["coldfusion_base_version"] == {("coldfusion_base_version", settings.repository): 0}
    assert "coldfusion_queue_length" not in found
