"""What an operator sees of a repository, read from the real store and the real broker."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis
from prometheus_client import REGISTRY

from coldfusion_queue.errors import BrokerUnavailableError, NotFoundError, StoreUnavailableError
from coldfusion_queue.keys import POOLS, RedisKeys, presence
from coldfusion_queue.local.ports import free_port
from coldfusion_queue.overview import (
    BrokerOverview,
    Lease,
    OverviewReader,
    PoolOverview,
    RecentHistory,
    StoredRoom,
    StoreOverview,
)
from coldfusion_queue.queue.app import EVALUATION_QUEUE, make_app, unacked_key
from coldfusion_queue.queue.leases import TurnLeases
from coldfusion_queue.queue.presence import LOST_SECONDS
from coldfusion_queue.queue.sending import EvaluationSender, TurnSender
from coldfusion_queue.records import EvaluationSpec
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store
from tests.integration.conftest import Contribute


def reader(settings: Settings) -> OverviewReader:
    return OverviewReader(settings, RecentHistory())


def store_overview(settings: Settings) -> StoreOverview:
    overview = reader(settings).read()
    assert overview.store is not None, overview.store_error
    return overview.store


def broker_overview(settings: Settings) -> BrokerOverview:
    overview = reader(settings).read()
    assert overview.broker is not None, overview.broker_error
    return overview.broker


def pool(found: BrokerOverview, queue: str, name: str = "") -> PoolOverview:
    (item,) = [item for item in found.pools if (item.queue, item.pool) == (queue, name)]
    return item


def made_at(repository: Repository, key: str) -> datetime:
    found = repository.store.stat(key)
    assert found is not None
    return found.last_modified


# --- store ----------------------------------------------------------------------------------------


def test_ages_are_counted_by_the_stores_clock_from_what_was_made_first(
    settings: Settings,
    repository: Repository,
    contribute: Contribute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contribute("fused")
    fuse_once(repository, settings)
    published_at = made_at(repository, repository.keys.ledger(1))
    time.sleep(1.1)  # so that the store, which counts seconds, tells apart what follows
    change_policy(repository, {"min_contributions": 9, "max_wait_seconds": 80})
    change_policy(repository, {"max_staleness": 3})
    first = contribute("first")
    time.sleep(1.1)
    contribute("second")
    arrived_at = made_at(repository, repository.keys.inbox_marker(first.contribution_id))
    now = arrived_at + timedelta(seconds=77)
    monkeypatch.setattr(Store, "now", lambda store: now)

    found = store_overview(settings)

    assert (found.base_version, found.newest.sequence) == (1, 3)
    assert found.base_version_age_seconds == (now - published_at).total_seconds() >= 78
    assert (found.num_pending, found.oldest_pending_age_seconds) == (2, 77)
    assert (found.policy.min_contributions, found.policy.max_wait_seconds) == (9, 80)


def test_a_repository_at_rest_has_nothing_old(settings: Settings, repository: Repository) -> None:
    found = store_overview(settings)

    assert (found.base_version, found.num_pending, found.oldest_pending_age_seconds) == (0, 0, 0)
    assert (found.num_open_submissions, found.num_wanted_evaluations) == (0, 0)
    assert not found.is_candidate_waiting
    assert found.gate is None
    assert 0 <= found.base_version_age_seconds < 60


def test_open_submissions_wanted_evaluations_and_a_candidate_are_seen(
    settings: Settings, repository: Repository
) -> None:
    for name in ("anna", "ben"):
        repository.submissions.create(name, dataset_id="d")
    specs = [EvaluationSpec(dataset_id=name, kind="frozen") for name in ("a", "b", "c")]
    repository.evaluations.want(repository.ledger.base_version(), specs)
    repository.store.put(repository.keys.candidate(1), b"{}")
    repository.store.put(repository.keys.candidate(0), b"{}")  # void, not collected yet

    found = store_overview(settings)

    assert (found.num_open_submissions, found.num_wanted_evaluations) == (2, 3)
    assert found.is_candidate_waiting
    repository.store.delete([repository.keys.candidate(1)])
    assert not store_overview(settings).is_candidate_waiting


def test_a_bucket_that_was_put_back_is_read_as_it_is(
    settings: Settings, repository: Repository, contribute: Contribute
) -> None:
    reading = reader(settings)
    contribute("fused")
    fuse_once(repository, settings)
    before = reading.read().store
    assert before is not None
    assert before.newest.sequence == 1
    repository.store.delete([repository.keys.ledger(1)])

    overview = reading.read()
    assert overview.store is None
    assert isinstance(overview.store_error, NotFoundError)

    after = reading.read().store
    assert after is not None
    assert (after.newest.sequence, after.base_version) == (0, 0)


def test_what_a_read_costs_does_not_follow_the_history(
    settings: Settings, repository: Repository
) -> None:
    reading = reader(settings)
    change_policy(repository, {"min_contributions": 2})
    reading.read()
    short = requests(reading.read, settings)
    for number in range(20):
        change_policy(repository, {"min_contributions": number + 1})
    reading.read()

    # The newest entry and whether there is a next, three listings, the clock, the candidate, and
    # the evaluations of the one version that there is.
    assert requests(reading.read, settings) == short == 8


def requests(ask: Callable[[], object], settings: Settings) -> float:
    """How many requests the store answers for this."""

    def total() -> float:
        name = "coldfusion_store_request_duration_seconds"
        (family,) = [family for family in REGISTRY.collect() if family.name == name]
        return sum(
            item.value
            for item in family.samples
            if item.name.endswith("_count") and item.labels["repository"] == settings.repository
        )

    before = total()
    ask()
    return total() - before


# --- broker ---------------------------------------------------------------------------------------

RAW = {"body": "", "headers": {}}


def message(**headers: Any) -> str:
    return json.dumps({**RAW, "headers": headers})


@pytest.mark.usefixtures("repository")
def test_the_oldest_message_of_a_queue_is_the_one_that_is_taken_next(
    settings: Settings, client: redis.Redis, sender: TurnSender
) -> None:
    for age in (100, 50):
        client.lpush("evaluate", message(sent_at=time.time() - age))
    sender.send("s", 1)
    sender.send("private", 1, "clinic")

    queues = {item.queue: item for item in broker_overview(settings).queues}

    assert {name: (item.site, item.length) for name, item in queues.items()} == {
        "finetune": ("", 1),
        "finetune.clinic": ("clinic", 1),
        "evaluate": ("", 2),
        "fusion": ("", 0),
    }
    assert 100 <= queues["evaluate"].oldest_age_seconds < 130
    assert 0 < queues["finetune"].oldest_age_seconds < 30
    assert 0 < queues["finetune.clinic"].oldest_age_seconds < 30
    assert queues["fusion"].oldest_age_seconds == 0
    client.rpop("evaluate")
    assert 50 <= broker_overview(settings).queues[-2].oldest_age_seconds < 80


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(message(), id="of an older version"),
        pytest.param(message(sent_at=None), id="without a time"),
        pytest.param(message(sent_at=time.time() + 1000), id="by a clock that is ahead"),
        pytest.param("[1]", id="of another program"),
        pytest.param("text", id="no JSON"),
    ],
)
def test_a_message_that_does_not_say_when_it_was_sent_has_no_age(
    text: str, settings: Settings, client: redis.Redis
) -> None:
    client.lpush("fusion", text)
    client.hset(unacked_key("fusion"), "tag", text)

    found = broker_overview(settings)

    assert (found.queues[-1].length, found.queues[-1].oldest_age_seconds) == (1, 0)
    assert pool(found, "fusion").taken == 1
    assert found.leases == ()


@pytest.mark.usefixtures("repository")
def test_a_worker_is_there_within_the_lease_lost_for_an_hour_and_then_forgotten(
    settings: Settings, client: redis.Redis
) -> None:
    seconds, microseconds = client.time()
    now, lease = seconds + microseconds / 1e6, settings.lease_seconds
    client.sadd(POOLS, "a100", "t4")
    client.zadd(
        presence("finetune"),
        {
            "a100/gpu-2": now,
            "a100/gpu-1": now - lease + 30,
            "a100/gpu-3": now - lease - 30,
            "a100/gpu-0": now - LOST_SECONDS - 30,
            "/cpu": now - LOST_SECONDS + 30,
        },
    )
    client.zadd(presence("fusion"), {"/host": now})

    found = broker_overview(settings)

    gpus, cpus = pool(found, "finetune", "a100"), pool(found, "finetune")
    assert gpus.workers == ("gpu-1", "gpu-2")
    assert [worker.name for worker in gpus.lost_workers] == ["gpu-3"]
    assert gpus.lost_workers[0].silent_seconds == pytest.approx(lease + 30, abs=20)
    assert (cpus.workers, [worker.name for worker in cpus.lost_workers]) == ((), ["cpu"])
    assert pool(found, "fusion").workers == ("host",)
    for silent in (pool(found, "finetune", "t4"), pool(found, "evaluate")):
        assert (silent.workers, silent.lost_workers) == ((), ())


@contextmanager
def taken(settings: Settings, *queues: str) -> Iterator[None]:
    """A message of each queue is with a worker of it while the block runs."""
    with ExitStack() as stack:
        for name in queues:
            connection = stack.enter_context(make_app(settings, name).connection_for_read())
            connection.default_channel.qos.restore_at_shutdown = False
            assert connection.default_channel.basic_get(name) is not None
        yield


@pytest.mark.usefixtures("repository")
def test_leases_are_told_of_what_a_worker_runs_and_not_of_what_it_prepares(
    settings: Settings, client: redis.Redis, sender: TurnSender
) -> None:
    evaluation = f"{'0' * 32}.d.frozen-0-abcdef01"
    another = settings.model_copy(update={"repository": "another"})
    with make_app(settings) as app:
        TurnSender(app, client, another, "another").send("namesake", 1)
        EvaluationSender(app, client, settings, settings.repository).send(evaluation)
    sender.send("s", 1)
    sender.send("s", 2)
    keys = RedisKeys(settings.repository)
    trainer = TurnLeases(client, keys, "gpu-1", 60).hold("s.t00001")
    evaluator = TurnLeases(client, keys, "cpu-1", 60).hold(evaluation)
    # Ours of that name is on nobody's hands: its worker died, and its lease will end.
    other = TurnLeases(client, keys, "gpu-2", 60).hold("namesake.t00001")
    queues = ("finetune", "finetune", "finetune", EVALUATION_QUEUE)

    with taken(settings, *queues), trainer, evaluator, other:
        found = broker_overview(settings)

    assert pool(found, "finetune").taken == 3
    assert set(found.leases) == {
        Lease("finetune", "s.t00001", "gpu-1"),
        Lease("evaluate", evaluation, "cpu-1"),
    }
    assert found.num_leases == {"finetune": 1, "evaluate": 1}


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("about", [["s", 1, "of a newer version"], ["s"], ["s", "one"], []])
def test_a_task_whose_arguments_are_others_is_taken_and_nobodys_lease(
    about: list[object], settings: Settings, client: redis.Redis
) -> None:
    arguments = json.dumps([[settings.repository, *about], {}, {}]).encode()
    text = {"headers": {"task": "coldfusion.finetune"}, "body": b64encode(arguments).decode()}
    client.hset(unacked_key("finetune"), "tag", json.dumps([text, "", "finetune"]))

    found = broker_overview(settings)

    assert pool(found, "finetune").taken == 1
    assert found.leases == ()


@pytest.mark.usefixtures("repository")
def test_what_lies_in_the_bucket_is_what_garbage_collection_left_word_of(
    settings: Settings, client: redis.Redis
) -> None:
    assert broker_overview(settings).stored is None
    rooms = {"contributions": [5000, 12], "base": [700, 3]}
    client.set(RedisKeys(settings.repository).stored, json.dumps(rooms))

    assert broker_overview(settings).stored == (
        StoredRoom("base", 700, 3),
        StoredRoom("contributions", 5000, 12),
    )


# --- one of the two is away -----------------------------------------------------------------------


@pytest.mark.usefixtures("repository")
def test_without_the_broker_the_store_is_read_and_why_not_is_told(settings: Settings) -> None:
    away = settings.model_copy(
        update={"broker_url": type(settings.broker_url)(f"redis://127.0.0.1:{free_port()}/0")}
    )
    began = time.monotonic()

    overview = reader(away).read()

    assert overview.store is not None
    assert overview.broker is None
    assert isinstance(overview.broker_error, BrokerUnavailableError)
    assert not overview.is_complete
    assert overview.history.recent
    assert time.monotonic() - began < 5  # Prometheus waits for ten


@pytest.mark.usefixtures("repository")
def test_without_the_store_the_broker_is_read_and_why_not_is_told(settings: Settings) -> None:
    away = settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{free_port()}"})
    began = time.monotonic()

    overview = reader(away).read()

    assert overview.broker is not None
    assert overview.store is None
    assert isinstance(overview.store_error, StoreUnavailableError)
    assert (overview.history.tally, overview.history.quality) == (None, ())
    assert time.monotonic() - began < 5
