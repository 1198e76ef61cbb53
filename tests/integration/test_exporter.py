"""What the exporter says of queues and pools, and that the chart's HPA asks for just that."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis
import yaml

from coldfusion_queue.keys import POOLS, RedisKeys
from coldfusion_queue.queue.app import finetune_queue, make_app, unacked_key
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.queue.sites import note_site
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from tests.chart.rendering import render_values
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
