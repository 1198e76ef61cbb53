"""What finds turns that are queued nowhere, on the real broker and the real store."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime

import pytest
import redis

from coldfusion_queue.keys import POOLS, RedisKeys
from coldfusion_queue.queue import tasks
from coldfusion_queue.queue.app import (
    finetune_queue,
    make_app,
    unacked_index_key,
    unacked_key,
)
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.queue.hints import TurnHints
from coldfusion_queue.queue.sending import Look, TurnSender
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from tests.integration.deliveries import messages

UNACKED = unacked_key("finetune")


def missing_for(client: redis.Redis, settings: Settings, name: str, seconds: float) -> None:
    """As if a turn had been found missing that long ago."""
    key = RedisKeys(settings.repository).missing(name)
    since = client.get(key)
    assert since is not None
    client.set(key, int(since) - int(1000 * seconds))


def test_a_turn_is_sent_again_when_it_was_missing_at_two_looks(
    sender: TurnSender, client: redis.Redis, settings: Settings
) -> None:
    looks = [sender.send_missing("s", 1) for _ in range(2)]
    missing_for(client, settings, "s.t00001", settings.lease_seconds / 6)
    looks += [sender.send_missing("s", 1) for _ in range(2)]

    assert looks == ["noted", "waiting", "sent", "about"]
    assert len(messages(client, "finetune")) == 1


def test_a_turn_that_turns_up_between_two_looks_is_not_missing(
    sender: TurnSender, client: redis.Redis, settings: Settings
) -> None:
    sender.send_missing("s", 1)
    missing_for(client, settings, "s.t00001", 3600)
    client.set(RedisKeys(settings.repository).turn("s.t00001"), "running:w", px=100)
    sender.send_missing("s", 1)
    client.delete(RedisKeys(settings.repository).turn("s.t00001"))

    assert sender.send_missing("s", 1) is Look.NOTED
    assert messages(client, "finetune") == []


def test_a_turn_that_is_about_was_not_missing_however_long_ago_it_was_noted(
    sender: TurnSender, hints: TurnHints, client: redis.Redis, settings: Settings
) -> None:
    sender.send_missing("s", 1)
    missing_for(client, settings, "s.t00001", 600)
    client.set(RedisKeys(settings.repository).turn("s.t00001"), "running:w", px=100)

    assert hints.submissions() == {"s"}

    client.delete(RedisKeys(settings.repository).turn("s.t00001"))
    assert sender.send_missing("s", 1) is Look.NOTED


@pytest.mark.parametrize("pool", [None, "a100"])
def test_a_message_that_is_lost_is_told_from_one_that_waits_or_is_taken(
    pool: str | None,
    sender: TurnSender,
    hints: TurnHints,
    client: redis.Redis,
    settings: Settings,
) -> None:
    if pool is not None:
        client.sadd(POOLS, pool)
    for turn in (1, 2, 3, 4):
        sender.send("s", turn)
    newest = client.lpop("finetune")  # LPUSH puts the newest first: turn 4
    taken = json.dumps([json.loads(str(newest)), "finetune", "finetune"])
    client.hset(unacked_key("finetune", pool=pool), "tag", taken)
    client.zadd(unacked_index_key(unacked_key("finetune", pool=pool)), {"tag": time.time()})
    client.rpop("finetune")  # as a worker does that dies before it notes what it took
    assert hints.forget_lost() == []  # it may be on its way

    for turn in (1, 2, 3, 4):  # as if they had been sent a minute ago
        hint = RedisKeys(settings.repository).turn(f"s.t{turn:05d}")
        client.pexpire(hint, client.pttl(hint) - 60_000)  # type: ignore[operator]

    assert hints.forget_lost() == ["s.t00001"]
    assert hints.submissions() == {"s"}
    assert sender.send("s", 1)


@pytest.mark.parametrize("kind", ["gone", "alive"])
def test_a_message_left_with_a_pool_that_is_gone_keeps_no_turn_from_being_sent_again(
    kind: str, settings: Settings, hints: TurnHints, client: redis.Redis
) -> None:
    own = settings.model_copy(update={"pool": "a100"})
    client.sadd(POOLS, "a100")
    app, unacked = make_app(own), unacked_key("finetune", pool="a100")
    sender = TurnSender(app, client, own, own.repository)
    sender.send("s", 1)
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        channel.qos.restore_at_shutdown = False  # its worker is killed before the turn has begun
        assert finetune_queue(None)(channel).get() is not None
    hint = RedisKeys(settings.repository).turn("s.t00001")
    client.pexpire(hint, client.pttl(hint) - 3600_000)  # type: ignore[operator]
    assert hints.forget_lost() == []

    if kind == "gone":  # nobody renewed it, and nobody put it back
        (tag,) = client.hkeys(unacked)
        client.zincrby(unacked_index_key(unacked), -settings.lease_seconds - 1, tag)

    assert hints.forget_lost() == (["s.t00001"] if kind == "gone" else [])
    assert client.hlen(unacked) == 1  # a worker of a pool that comes back puts it back, no harm
    assert sender.send("s", 1) is (kind == "gone")


def test_a_message_that_moves_to_and_fro_is_never_lost(
    sender: TurnSender, hints: TurnHints, client: redis.Redis, settings: Settings
) -> None:
    sender.send("s", 1)
    hint = RedisKeys(settings.repository).turn("s.t00001")
    client.pexpire(hint, client.pttl(hint) - 60_000)  # type: ignore[operator]
    message = json.loads(str(client.lindex("finetune", 0)))
    stop = threading.Event()

    def move() -> None:  # each way at one moment, as when a message is put back
        own = connect_redis(settings)
        while not stop.is_set():
            with own.pipeline() as taking, own.pipeline() as putting_back:
                taking.rpop("finetune").hset(UNACKED, "tag", json.dumps([message, "", ""]))
                taking.zadd(unacked_index_key(UNACKED), {"tag": time.time()}).execute()
                putting_back.hdel(UNACKED, "tag").lpush("finetune", json.dumps(message))
                putting_back.execute()

    mover = threading.Thread(target=move)
    mover.start()
    try:
        assert [hints.forget_lost() for _ in range(300)] == [[]] * 300
    finally:
        stop.set()
        mover.join()


def test_reconcile_sends_what_is_queued_nowhere_and_tidies_markers(
    repository: Repository, settings: Settings, client: redis.Redis, own_process: None
) -> None:
    for name, turns in (("open", 1), ("cancelled", None), ("forever", None)):
        repository.submissions.create(name, dataset_id="d", turns=turns, submission_id=name)
    repository.submissions.cancel("cancelled")

    for _ in range(3):
        tasks.reconcile(settings.repository)
        for name in ("open.t00001", "forever.t00001"):
            if client.exists(RedisKeys(settings.repository).missing(name)):
                missing_for(client, settings, name, settings.lease_seconds)

    sent = [
        json.loads(
            item["headers"]["argsrepr"].replace("'", '"').replace("(", "[").replace(")", "]")
        )
        for item in messages(client, "finetune")
    ]  # type: ignore[index]
    assert sorted(arguments[1:] for arguments in sent) == [["forever", 1], ["open", 1]]
    assert {item.submission.submission_id for item in repository.submissions.open()} == {
        "open",
        "forever",
    }
    assert repository.submissions.count_open() == 2


def test_a_reconcile_that_finds_a_turn_missing_asks_for_the_second_look_once(
    repository: Repository, settings: Settings, client: redis.Redis, own_process: None
) -> None:
    repository.submissions.create("s", dataset_id="d", submission_id="s")

    tasks.reconcile(settings.repository)
    tasks.reconcile(settings.repository)

    (again,) = messages(client, "fusion")
    headers: dict[str, str] = again["headers"]  # type: ignore[assignment]
    assert headers["task"] == "coldfusion.reconcile"
    wait = datetime.fromisoformat(headers["eta"]) - datetime.now(UTC)
    assert settings.lease_seconds / 6 < wait.total_seconds() + 0.5 < settings.lease_seconds / 3
