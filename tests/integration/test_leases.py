"""Leases of turns, and messages that are renewed, on the real broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace

import pytest
import redis
from kombu import Connection

from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.leases import TurnLeases
from coldfusion_queue.queue.renewal import renew
from coldfusion_queue.settings import Settings

WaitUntil = Callable[..., object]
NAME = "s.t00001"


@pytest.fixture
def keys(settings: Settings) -> RedisKeys:
    return RedisKeys(settings.repository)


@pytest.fixture
def leases(client: redis.Redis, keys: RedisKeys) -> Callable[..., TurnLeases]:
    """``leases("worker")``: of a worker, three seconds, so each stands for one."""

    def make(worker: str, seconds: float = 3) -> TurnLeases:
        return TurnLeases(client, keys, worker, seconds)

    return make


def test_a_turn_is_one_workers_at_a_time(leases: Callable[..., TurnLeases]) -> None:
    with leases("a").hold(NAME) as first, leases("b").hold(NAME) as second:
        assert (first.is_held, second.is_held) == (True, False)

    with leases("b").hold(NAME) as later:
        assert later.is_held


def test_a_lease_outlives_its_time_while_its_worker_lives(
    leases: Callable[..., TurnLeases], client: redis.Redis, keys: RedisKeys
) -> None:
    with leases("a", 0.9).hold(NAME):
        threading.Event().wait(1)
        assert client.get(keys.turn(NAME)) == "running:a"
        assert 0 < client.pttl(keys.turn(NAME)) <= 300

    assert not client.exists(keys.turn(NAME))


def test_a_dead_workers_lease_ends_by_itself(
    leases: Callable[..., TurnLeases], client: redis.Redis, keys: RedisKeys, wait_until: WaitUntil
) -> None:
    client.set(keys.turn(NAME), "running:dead", px=1000)  # as one of 3 s that was not renewed

    def taken() -> bool:
        with leases("b").hold(NAME) as lease:
            return lease.is_held

    assert not taken()
    wait_until(taken, 1.5)


def test_a_lost_lease_is_taken_back_unless_another_worker_has_it(
    leases: Callable[..., TurnLeases], client: redis.Redis, keys: RedisKeys, wait_until: WaitUntil
) -> None:
    with leases("a", 0.6).hold(NAME) as lease:
        client.flushdb()
        wait_until(lambda: client.get(keys.turn(NAME)) == "running:a")
        client.set(keys.turn(NAME), "sent")  # reconcile was faster
        wait_until(lambda: client.get(keys.turn(NAME)) == "running:a")
        assert lease.is_held

        client.set(keys.turn(NAME), "running:b", px=60_000)
        wait_until(lambda: not lease.is_held)

    assert client.get(keys.turn(NAME)) == "running:b"


def test_a_lease_that_was_lost_stays_lost_when_the_other_worker_has_given_it_back(
    leases: Callable[..., TurnLeases], client: redis.Redis, keys: RedisKeys, wait_until: WaitUntil
) -> None:
    with leases("a", 0.3).hold(NAME) as lease:
        client.set(keys.turn(NAME), "running:b", px=60_000)
        wait_until(lambda: not lease.is_held)
        client.delete(keys.turn(NAME))
        threading.Event().wait(0.2)

        assert not lease.is_held
        assert not client.exists(keys.turn(NAME))


def test_starts_count_the_deaths_and_not_the_endings(
    leases: Callable[..., TurnLeases], client: redis.Redis
) -> None:
    starts = []
    for how in ("ends", "dies", "dies", "fails", "dies", "is told to stop", "ends"):
        if how == "dies":  # all that Redis sees of it
            starts.append(leases("a")._ask(NAME).starts)
            continue
        with suppress(ValueError, SystemExit), leases("a").hold(NAME) as lease:
            starts.append(lease.starts)
            if how != "ends":
                raise ValueError if how == "fails" else SystemExit

    assert starts == [1, 1, 2, 3, 1, 2, 1]


def test_a_process_that_is_torn_down_leaves_its_turn_queued(
    leases: Callable[..., TurnLeases], client: redis.Redis, keys: RedisKeys
) -> None:
    with pytest.raises(SystemExit), leases("a").hold(NAME):
        raise SystemExit

    assert client.get(keys.turn(NAME)) == "sent"


def test_without_redis_every_turn_counts_as_held(settings: Settings, keys: RedisKeys) -> None:
    nowhere = redis.Redis(port=1, socket_connect_timeout=0.2)

    with TurnLeases(nowhere, keys, "a", 3).hold(NAME) as lease:
        assert (lease.is_held, lease.starts) == (True, 1)


def test_only_messages_that_are_not_acknowledged_are_renewed(
    settings: Settings, client: redis.Redis
) -> None:
    app = make_app(settings)
    for _ in range(3):
        app.send_task("coldfusion.fuse", args=("r",))
    with Connection(
        settings.broker_url.get_secret_value(), transport_options={"visibility_timeout": 3}
    ) as connection:
        channel = connection.channel()
        messages = [channel.basic_get("fusion") for _ in range(3)]
        before = dict(client.zrange("unacked_index", 0, -1, withscores=True))
        messages[0].ack()
        client.zrem("unacked_index", messages[1].delivery_tag)  # given to another worker
        consumer = SimpleNamespace(task_consumer=SimpleNamespace(channel=channel))

        renewed = renew(consumer)

        after = dict(client.zrange("unacked_index", 0, -1, withscores=True))
    assert renewed == 2
    assert after.keys() == {messages[2].delivery_tag}
    assert after[messages[2].delivery_tag] > before[messages[2].delivery_tag]
    assert after[messages[2].delivery_tag] == pytest.approx(time.time(), abs=5)
