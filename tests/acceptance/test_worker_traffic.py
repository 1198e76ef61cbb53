"""What real workers say of their requests, and a fusion worker of its fusions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.local.ports import free_port
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.repository.policy import change_policy
from tests.acceptance.conftest import MakeWorld
from tests.acceptance.test_worker_metrics import Scraper
from tests.acceptance.world import World, eventually
from tests.rows import rows, write_rows


@pytest.fixture(scope="module")
def world(make_world: MakeWorld) -> Iterator[World]:
    with make_world() as opened:
        yield opened


@pytest.fixture(scope="module")
def workers(world: World) -> dict[str, Scraper]:
    """A finetune worker and a fusion worker that have made one base version."""
    found = {}
    for kind in ("finetune_worker", "fusion_worker"):
        found[kind] = Scraper(kind, free_port())
        world.start_warm(kind, COLDFUSION_METRICS_PORT=str(found[kind].port))
    change_policy(world.repository, {"min_contributions": 1})
    world.submit(write_rows(world.data / "notes.jsonl", rows("single")))
    eventually(lambda: world.repository.inbox.count() == 1)
    make_app(world.settings).send_task("coldfusion.fuse", args=(world.repository.name,))
    eventually(lambda: world.repository.ledger.base_version().version == 1)
    # What a child counts is there as soon as it has done it.
    eventually(lambda: found["fusion_worker"].scrape().get(COMMITTED, outcome="committed"))
    found["finetune_worker"].scrape()
    return found


COMMITTED = "coldfusion_fusions_total"
REQUESTS = "coldfusion_store_request_duration_seconds_count"


@pytest.mark.parametrize("kind", ["finetune_worker", "fusion_worker"])
def test_requests_of_parent_and_children_are_counted(
    kind: str, workers: dict[str, Scraper], world: World
) -> None:
    worker, labels = workers[kind], {"repository": world.repository.name}

    # The parent tried two writes, and eight at once, before it began.
    assert (worker.get(REQUESTS, operation="create", **labels) or 0) >= 10
    assert (worker.get(REQUESTS, operation="read", **labels) or 0) > 0
    assert worker.get("coldfusion_store_errors_total", operation="read", reason="failed") == 0
    assert worker.get("coldfusion_store_retries_total", operation="read", **labels) == 0
    assert (worker.get("coldfusion_broker_request_duration_seconds_count", **labels) or 0) > 0
    assert worker.get("coldfusion_broker_errors_total", reason="unreachable", **labels) == 0


def test_a_model_that_a_turn_reads_and_one_that_it_writes_are_counted(
    workers: dict[str, Scraper], world: World
) -> None:
    worker = workers["finetune_worker"]
    model = world.repository.ledger.base_version(0).model_files[0].num_bytes

    assert (worker.get("coldfusion_store_read_bytes_total", operation="read") or 0) > model
    assert (worker.get("coldfusion_store_written_bytes_total", operation="write") or 0) > model / 2


def test_a_fusion_is_counted_by_the_worker_that_did_it(
    workers: dict[str, Scraper], world: World
) -> None:
    worker, labels = workers["fusion_worker"], {"repository": world.repository.name}
    phase = "coldfusion_fusion_phase_seconds"
    names = ("admit", "read", "compute", "write", "publish")

    assert worker.get(COMMITTED, outcome="committed", **labels) == 1
    assert worker.get(COMMITTED, outcome="failed", **labels) == 0
    assert [worker.get(f"{phase}_count", phase=name) for name in names] == [1] * 5
    assert sum(worker.get(f"{phase}_sum", phase=name) or 0 for name in names) == pytest.approx(
        worker.get("coldfusion_fusion_duration_seconds_sum", **labels)
    )
    written = world.repository.ledger.base_version().model_files[0].num_bytes
    assert worker.get("coldfusion_fusion_written_bytes_total", **labels) == written


def test_what_is_stored_is_left_for_the_exporter_when_garbage_is_collected(
    workers: dict[str, Scraper], world: World
) -> None:
    key = RedisKeys(world.repository.name).stored
    make_app(world.settings).send_task("coldfusion.collect_garbage", args=(world.repository.name,))
    eventually(lambda: world.redis.exists(key))

    stored = json.loads(str(world.redis.get(key)))
    sizes: Counter[str] = Counter()
    for item in world.store.list(f"{world.repository.name}/"):
        _, room, *rest = item.key.split("/")
        sizes[room if rest else "other"] += item.num_bytes
    assert {room: size for room, (size, _) in stored.items()} == dict(sizes)
    assert workers["fusion_worker"].scrape().get("coldfusion_collected_bytes_total") == 0
