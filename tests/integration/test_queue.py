"""Redis state and tasks against the real broker; workers are run in test_recovery."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import redis

from coldfusion_queue.errors import AccessDeniedError, BrokerUnavailableError
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.queue import tasks
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.connection import broker_errors, connect_redis
from coldfusion_queue.queue.lock import single_flight
from coldfusion_queue.queue.progress import ProgressReport, read_progress, write_progress
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import Phase
from tests.integration.deliveries import messages

WaitUntil = Callable[..., object]


def test_a_turn_is_sent_once_however_often_it_is_asked_for(
    sender: TurnSender, client: redis.Redis
) -> None:
    assert [sender.send("s", 1) for _ in range(3)] == [True, False, False]
    assert len(messages(client, "finetune")) == 1


def test_a_message_reaches_its_own_queue_alone_and_holds_json(
    sender: TurnSender, client: redis.Redis, settings: Settings
) -> None:
    app = make_app(settings)
    sender.send("s", 1)
    app.send_task("coldfusion.fuse", args=(settings.repository,))

    sent = {queue: messages(client, queue) for queue in ("finetune", "fusion")}

    assert {queue: len(items) for queue, items in sent.items()} == {"finetune": 1, "fusion": 1}
    assert sent["finetune"][0]["content-type"] == "application/json"
    assert sent["finetune"][0]["headers"]["task"] == "coldfusion.finetune"  # type: ignore[index]


def test_a_message_says_when_it_was_sent_and_still_does_when_it_is_put_back(
    sender: TurnSender, client: redis.Redis, settings: Settings
) -> None:
    sender.send("s", 1)
    (message,) = messages(client, "finetune")
    sent_at = message["headers"]["sent_at"]  # type: ignore[index]
    with make_app(settings).connection_for_read() as connection:
        channel = connection.channel()
        taken = channel.basic_get("finetune")
        taken.requeue()

    assert sent_at == pytest.approx(time.time(), abs=60)
    assert taken.headers["sent_at"] == sent_at
    (again,) = messages(client, "finetune")
    assert again["headers"]["sent_at"] == sent_at  # type: ignore[index]


def test_no_process_gives_up_a_broker_that_is_away(settings: Settings) -> None:
    # Celery's default ends a worker after 47 minutes, and beat as well.
    assert make_app(settings).conf.broker_connection_max_retries is None


def test_senders_at_once_send_one_message(settings: Settings, client: redis.Redis) -> None:
    barrier = threading.Barrier(4, timeout=10)

    def send() -> None:
        own = TurnSender(make_app(settings), connect_redis(settings), settings, "r")
        barrier.wait()
        own.send("s", 1)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(messages(client, "finetune")) == 1


def test_a_lost_redis_loses_hint_and_message_together(
    sender: TurnSender, client: redis.Redis
) -> None:
    sender.send("s", 1)
    client.flushdb()

    assert sender.send("s", 1)
    assert len(messages(client, "finetune")) == 1


@pytest.mark.parametrize("task", ["fuse", "reconcile", "collect_garbage"])
def test_a_task_of_beat_passes_over_a_repository_that_is_not_there_yet(
    task: str, own_process: None
) -> None:
    getattr(tasks, task)("nowhere")


def test_an_error_without_a_text_is_told_by_its_name(settings: Settings) -> None:
    expected = pytest.raises(BrokerUnavailableError, match="ConnectionResetError")
    with expected, broker_errors(settings):
        raise ConnectionResetError


def test_only_one_holds_the_fusion_lock_and_a_dead_holders_lease_ends(
    client: redis.Redis, wait_until: WaitUntil
) -> None:
    with single_flight(client, "lock", 30) as first, single_flight(client, "lock", 30) as second:
        assert (first, second) == (True, False)
    client.set("lock", "a dead holder's", px=300)

    def taken() -> bool:
        with single_flight(client, "lock", 30) as is_free:
            return is_free

    assert not taken()
    wait_until(taken, 5)


def test_the_lease_of_a_long_fusion_is_renewed(client: redis.Redis) -> None:
    pause = threading.Event()
    with single_flight(client, "lock", 0.6) as is_free:
        assert is_free
        pause.wait(1.5)
        assert client.exists("lock")

    assert not client.exists("lock")


def test_progress_is_read_back(client: redis.Redis, settings: Settings) -> None:
    keys = RedisKeys(settings.repository)
    report = ProgressReport(
        submission_id="s",
        turn=2,
        base_version=3,
        phase=Phase.TRAINING,
        step=4,
        num_steps=5,
        loss=0.5,
        examples_per_second=99.5,
        tokens_per_second=1234.5,
        memory_bytes=2**31,
        worker="w",
    )

    write_progress(client, keys, report)

    assert read_progress(client, keys, "s") == report
    assert read_progress(client, keys, "another") is None
    assert client.ttl(keys.progress("s")) > 0


def test_a_wrong_password_is_told_from_a_broker_that_is_away(
    servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from coldfusion_queue.settings import load_settings

    right = servers["COLDFUSION_BROKER_URL"]
    for url, error in (
        (f"redis://:wrong-secret@{right.rpartition('@')[2]}", AccessDeniedError),
        ("redis://:a-secret@127.0.0.1:1/0", BrokerUnavailableError),
    ):
        monkeypatch.setenv("COLDFUSION_BROKER_URL", url)
        settings = load_settings()
        with pytest.raises(error) as caught, broker_errors(settings):
            connect_redis(settings).ping()
        assert "COLDFUSION_BROKER_URL" in str(caught.value)
        assert "secret" not in str(caught.value)
