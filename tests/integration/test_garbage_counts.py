"""What the collection of garbage tells of the bucket."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry

from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.metrics import TaskMetrics
from coldfusion_queue.metrics.fusions import FusionMetrics
from coldfusion_queue.queue import tasks
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.process import Process
from coldfusion_queue.records import Policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from tests.integration import leftovers
from tests.integration.conftest import Contribute
from tests.integration.leftovers import ATTEMPT, publish, put

Volumes = dict[str, tuple[int, int]]


@pytest.fixture
def policy() -> Policy:
    return Policy(min_contributions=1, retain_base_versions=1)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def collect(
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], Volumes]:
    """Run the task; returns what it left for the exporter."""
    own = settings.model_copy(update={"gc_grace_seconds": 0})
    metrics = TaskMetrics(CollectorRegistry())
    process = Process(own, client, metrics, fusions=FusionMetrics(registry))
    monkeypatch.setattr(tasks, "this_process", lambda: process)
    make_app(own).set_current()

    def run() -> Volumes:
        tasks.collect_garbage(repository.name)
        stored = json.loads(str(client.get(RedisKeys(repository.name).stored)))
        return {room: tuple(numbers) for room, numbers in stored.items()}

    return run


def listed(repository: Repository) -> Volumes:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for item in repository.store.list(f"{repository.name}/"):
        _, room, *rest = item.key.split("/")
        found[room if rest else "other"].append(item.num_bytes)
    return {room: (sum(sizes), len(sizes)) for room, sizes in found.items()}


def test_it_tells_what_is_left_in_each_room_and_counts_what_went(
    repository: Repository,
    collect: Callable[[], Volumes],
    contribute: Contribute,
    registry: CollectorRegistry,
) -> None:
    contribute("pending")
    leftovers.dataset(repository, "unnamed")
    put(repository, f"contributions/x.t00001/{ATTEMPT}/shared.safetensors", "inbox/y.t00001")
    before = listed(repository)
    left = collect()
    after = listed(repository)

    assert left == after
    assert {room for room in before if before[room] != after.get(room)} == {
        *("contributions", "datasets", "inbox")
    }
    went = sum(size for size, _ in before.values()) - sum(size for size, _ in after.values())
    labels = {"repository": repository.name}
    assert registry.get_sample_value("coldfusion_collected_bytes_total", labels) == went
    assert collect() == after
    assert registry.get_sample_value("coldfusion_collected_bytes_total", labels) == went


def test_records_of_what_went_are_seen_by_the_next_collection(
    repository: Repository,
    settings: Settings,
    collect: Callable[[], Volumes],
    contribute: Contribute,
) -> None:
    publish(repository, settings, contribute, 3)
    size = repository.ledger.base_version().model_files[0].num_bytes
    before = listed(repository)["base"]
    left = collect()
    after = listed(repository)["base"]

    # Versions 1 and 2 went; a record of each came.
    assert left["base"][0] <= before[0] - 2 * size
    assert after[1] == left["base"][1] + 2
    assert collect()["base"] == after


def test_without_a_broker_at_the_end_it_is_collected_all_the_same(
    repository: Repository,
    collect: Callable[[], Volumes],
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marker = f"{repository.name}/inbox/y.t00001"
    repository.store.put(marker, b"")

    write = client.set

    def only_locks(name: str, *arguments: Any, **options: Any) -> Any:
        if not name.endswith("-lock"):
            raise redis.ConnectionError("away")
        return write(name, *arguments, **options)

    monkeypatch.setattr(client, "set", only_locks)
    tasks.collect_garbage(repository.name)

    assert repository.store.stat(marker) is None
    assert client.get(RedisKeys(repository.name).stored) is None
