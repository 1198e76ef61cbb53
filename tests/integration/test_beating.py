"""Beat's scheduler on the real broker: what it sends, and what it passes over."""

from __future__ import annotations

import json
import logging
import time

import pytest
import redis
from celery.beat import ScheduleEntry
from prometheus_client import CollectorRegistry

from coldfusion_queue.metrics.beat import BeatMetrics
from coldfusion_queue.queue import beating
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.beating import BoundedScheduler
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.settings import Settings


@pytest.fixture
def client(settings: Settings) -> redis.Redis:
    return connect_redis(settings)


@pytest.fixture
def scheduler(settings: Settings) -> BoundedScheduler:
    return BoundedScheduler(make_app(settings))


def entry(scheduler: BoundedScheduler, name: str = "reconcile") -> ScheduleEntry:
    return scheduler.schedule[name]


def test_what_is_due_is_sent_for_the_repository_of_the_settings(
    scheduler: BoundedScheduler, client: redis.Redis, settings: Settings
) -> None:
    for name in ("fuse", "reconcile", "collect_garbage"):
        scheduler.apply_entry(entry(scheduler, name))

    sent = [json.loads(item)["headers"] for item in client.lrange("fusion", 0, -1)]
    assert all(time.time() - 60 < item["sent_at"] <= time.time() for item in sent)
    assert {(item["task"], item["argsrepr"], item["expires"]) for item in sent} == {
        (f"coldfusion.{name}", f"[{settings.repository!r}]", None)
        for name in ("fuse", "reconcile", "collect_garbage")
    }


def test_no_more_is_sent_than_is_worth_while_nobody_takes_it_up(
    scheduler: BoundedScheduler, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(25):
        scheduler.apply_entry(entry(scheduler))
    waiting = client.llen("fusion")
    client.rpop("fusion")
    scheduler.apply_entry(entry(scheduler))

    assert (waiting, client.llen("fusion")) == (20, 20)
    events = [getattr(record, "event", None) for record in caplog.records]
    assert events.count("tick_passed_over") == 5


def test_what_is_sent_and_what_is_passed_over_is_counted(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = CollectorRegistry()
    monkeypatch.setattr(beating, "beat_metrics", lambda: BeatMetrics(registry))
    scheduler = BoundedScheduler(make_app(settings))

    def counted(task: str, outcome: str) -> float | None:
        labels = {"repository": settings.repository, "task": task, "outcome": outcome}
        return registry.get_sample_value("coldfusion_beat_messages_total", labels)

    for _ in range(23):
        scheduler.apply_entry(entry(scheduler))
    # What could not be sent is neither.
    client.delete("fusion")
    scheduler.app.conf.update(broker_url="redis://127.0.0.1:1/0", task_publish_retry=False)
    scheduler.apply_entry(entry(scheduler), scheduler.app.amqp.Producer(scheduler.app.connection()))

    assert (counted("reconcile", "sent"), counted("reconcile", "passed_over")) == (20, 3)
    for task in ("fuse", "collect_garbage"):
        assert (counted(task, "sent"), counted(task, "passed_over")) == (0, 0)


def test_a_broker_that_is_away_is_told_of_by_the_sending_and_ends_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("COLDFUSION_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("COLDFUSION_BROKER_CONNECT_TIMEOUT_SECONDS", "0.2")
    app = make_app(Settings())
    app.conf.task_publish_retry = False
    scheduler = BoundedScheduler(app)

    scheduler.apply_entry(entry(scheduler))

    (told,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "Connection refused" in told.getMessage()
