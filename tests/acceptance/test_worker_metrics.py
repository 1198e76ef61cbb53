"""What real workers say of themselves: to Prometheus, and in the broker that they are there."""

from __future__ import annotations

import itertools
import math
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.local.ports import free_port
from tests.acceptance.conftest import MakeWorld
from tests.acceptance.world import World, eventually, slow_training, until_fired
from tests.injector import Injector
from tests.rows import rows, write_rows

pytestmark = pytest.mark.slow

LEASE_SECONDS = 3
REPORT_SECONDS = 0.1
#: Of ``slow_training``.
STEP_SECONDS = 0.15
QUICK = {
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_LEASE_SECONDS": str(LEASE_SECONDS),
    "COLDFUSION_PROGRESS_INTERVAL_SECONDS": str(REPORT_SECONDS),
    "COLDFUSION_CHECKPOINT_SECONDS": "0.000001",
    "COLDFUSION_POOL": "a100",
}
TURN_OF_24_STEPS = ("--set", "epochs=8", "--set", "batch_size=8", "--set", "max_length=16")
_numbers = itertools.count()
LONG_TURN = ("--set", "epochs=15", "--set", "batch_size=8", "--set", "max_length=16")


@dataclass
class Scraper:
    """Asks one worker as Prometheus does, and holds that no counter goes back."""

    name: str
    port: int
    last: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)

    def scrape(self) -> Scraper:
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = bytes(answer.read()).decode()
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                found[key] = sample.value
                if family.type in {"counter", "histogram"}:
                    assert sample.value >= self.last.get(key, 0), key
        gone = self.last.keys() - found.keys()
        assert not {name for name, _ in gone if name.endswith(("_total", "_count", "_sum"))}
        self.last = found
        return self

    def get(self, name: str, **labels: str) -> float | None:
        """The one series of this name with these labels."""
        wanted = labels.items()
        values = [value for (own, has), value in self.last.items() if own == name and wanted <= has]
        assert len(values) <= 1, (name, labels)
        return values[0] if values else None

    def silence(self, world: World) -> float:
        """For how many seconds it has not said that it is there."""
        ages = [age for name, age in members(world).items() if f"/{self.name}@" in name]
        return ages[0] if ages else math.inf


@pytest.fixture(scope="module")
def world(make_world: MakeWorld, injector: Injector) -> Iterator[World]:
    with make_world(**QUICK) as opened:
        yield opened


@pytest.fixture
def worker(world: World, injector: Injector) -> Iterator[Scraper]:
    """The one finetune worker; it is killed if it still runs at the end."""
    found = Scraper(f"worker{next(_numbers)}", free_port())
    own = {"INJECTOR_DIRECTORY": str(injector.directory)}
    world.start_warm("finetune_worker", found.name, COLDFUSION_METRICS_PORT=str(found.port), **own)
    eventually(lambda: found.silence(world) < LEASE_SECONDS)
    yield found
    if world.runs(found.name):
        world.kill(found.name)


def members(world: World, queue: str = "finetune") -> dict[str, float]:
    """Who said that it is there, and how many seconds ago."""
    found: list[tuple[str, float]] = world.redis.zrange(f"workers:{queue}", 0, -1, withscores=True)  # type: ignore[assignment]
    seconds, microseconds = world.redis.time()  # type: ignore[misc]
    return {name: seconds + microseconds / 1e6 - score for name, score in found}


def test_a_worker_whose_child_is_killed_loses_its_gauges_and_none_of_its_counts(
    worker: Scraper, world: World, injector: Injector
) -> None:
    assert worker.scrape().get("coldfusion_requeues_total", reason="worker_lost") == 0
    data = write_rows(world.data / "notes.jsonl", rows("single"))

    # Given a turn in the middle of its training
    with slow_training(injector, STEP_SECONDS):
        submission = world.submit(data, *LONG_TURN)
        eventually(lambda: (worker.scrape().get("coldfusion_trained_examples_total") or 0) >= 80)
        began = worker.get("coldfusion_turn_started_timestamp_seconds")
        assert began == pytest.approx(time.time(), abs=30)
        assert 0 < (worker.get("coldfusion_turn_progress_ratio") or 0) < 1
        assert worker.get("coldfusion_finetune_loss") is not None
        # When its process is killed, as the kernel does when memory runs out
        with until_fired(injector, CrashPoint.TURN_LEASED, "hold"):
            world.kill_pool_child(worker.name)
        worker.scrape()

    # Then the gauges of the dead are gone, and what it counted is not.
    for name in ("turn_started_timestamp_seconds", "turn_progress_ratio", "finetune_loss"):
        assert worker.get(f"coldfusion_{name}") is None
    assert (worker.get("coldfusion_trained_examples_total") or 0) >= 80
    injector.release(CrashPoint.TURN_LEASED)
    eventually(lambda: worker.scrape().get("coldfusion_finetunes_total", outcome="committed") == 1)
    labels = {"repository": world.repository.name, "site": ""}
    assert worker.get("coldfusion_requeues_total", reason="worker_lost", **labels) == 1
    assert worker.get("coldfusion_requeues_total", reason="passed_on", **labels) == 0
    assert worker.get("coldfusion_resumes_total", **labels) == 1
    assert worker.get("coldfusion_turn_started_timestamp_seconds", **labels) == 0
    assert world.starts(submission) == 2


def test_metrics_files_of_killed_children_do_not_pile_up(worker: Scraper, world: World) -> None:
    def num_files() -> int:
        worker.scrape()
        return sum(
            len(list(directory.glob("*.db")))
            for directory in world.temporary.glob("coldfusion-worker-*")
        )

    def is_there_again(children: set[int]) -> bool:
        now = world.pool_children(worker.name)
        return len(now) == len(children) and not now & children

    sizes = []
    for _ in range(3):
        eventually(lambda: worker.scrape().get("coldfusion_requeues_total", reason="retried") == 0)
        children = world.pool_children(worker.name)
        world.kill_pool_child(worker.name)
        eventually(lambda before=children: is_there_again(before))
        sizes.append(num_files())

    assert sizes[-1] <= sizes[0] + 2  # of a child that has begun to write


def test_a_device_is_busy_or_idle_and_both_add_up_to_the_time_that_passes(
    worker: Scraper, world: World, injector: Injector
) -> None:
    labels = {"repository": world.repository.name, "site": ""}

    def look() -> tuple[float, float, float]:
        worker.scrape()
        both = [
            worker.get(f"coldfusion_device_{what}_seconds_total", **labels) or 0
            for what in ("busy", "idle")
        ]
        return (time.monotonic(), *both)  # type: ignore[return-value]

    data = write_rows(world.data / "counted.jsonl", rows("single"))
    looks = [look()]
    with slow_training(injector, STEP_SECONDS):
        submission = world.submit(data, *TURN_OF_24_STEPS, "--name", "counted")
        eventually(lambda: world.progress(submission).get("phase") == "training")
        while world.progress(submission)["phase"] == "training":
            looks.append(look())
            time.sleep(0.2)
    eventually(lambda: worker.scrape().get("coldfusion_finetunes_total", outcome="committed") == 1)
    looks.append(look())

    began, busy, idle = looks[0]
    for now, busy_now, idle_now in looks:
        # A report comes after the step in which it is due; a second more for a busy machine.
        slack = REPORT_SECONDS + STEP_SECONDS + 1
        assert busy_now + idle_now - busy - idle == pytest.approx(now - began, abs=slack)
    assert looks[-1][1] - busy >= 24 * STEP_SECONDS
    assert looks[-3][2] == pytest.approx(looks[1][2], abs=0.01)  # not idle while it trains


# --- who is there -------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_seen_to_be_lost(worker: Scraper, world: World) -> None:
    (member,) = (name for name in members(world) if worker.name in name)
    assert member.startswith(f"a100/{worker.name}@")

    world.kill(worker.name)

    eventually(lambda: worker.silence(world) > LEASE_SECONDS)
    assert member in members(world)
    assert 0 < world.redis.ttl("workers:finetune") <= 3600  # type: ignore[operator]


def test_a_worker_that_stops_in_order_is_not_lost(worker: Scraper, world: World) -> None:
    world.terminate(worker.name)

    eventually(lambda: not world.runs(worker.name))
    assert worker.silence(world) == math.inf


def test_a_worker_that_loses_its_broker_is_there_again_as_soon_as_it_is_back(
    worker: Scraper, world: World
) -> None:
    began = time.monotonic()
    while time.monotonic() < began + 2 * LEASE_SECONDS:
        if time.monotonic() < began + 1:  # the libraries try once more by themselves
            disconnect_others(world.redis)
        assert worker.silence(world) < LEASE_SECONDS
        time.sleep(0.05)
    assert any("onnection" in item["message"] for item in world.events(worker.name))
    # Also after a broker that lost everything.
    world.redis.delete("workers:finetune")
    eventually(lambda: worker.silence(world) < LEASE_SECONDS, LEASE_SECONDS)


@pytest.mark.parametrize("kind", ["evaluation", "fusion"])
def test_workers_of_every_queue_say_that_they_are_there(
    kind: str, world: World, injector: Injector
) -> None:
    queue = {"evaluation": "evaluate"}.get(kind, kind)
    world.start_warm(f"{kind}_worker", kind, INJECTOR_DIRECTORY=str(injector.directory))

    eventually(lambda: [name for name in members(world, queue) if name.startswith(f"/{kind}@")])

    world.terminate(kind)
    eventually(lambda: not world.runs(kind))
    assert members(world, queue) == {}


def disconnect_others(client: redis.Redis) -> None:
    """Close every connection to this database but the client's own, as a broken network does."""
    mine, database = client.client_id(), client.connection_pool.connection_kwargs["db"]
    listed: list[dict[str, str]] = client.client_list()  # type: ignore[assignment]
    others = [item["id"] for item in listed if item["db"] == str(database)]
    others.remove(str(mine))
    for name in others:
        client.client_kill_filter(_id=name)
