"""Deliveries of turns: real messages and leases, run as a pool's child runs them.

Only ``run_turn`` is a stand-in, which does what the test says.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from celery import Celery
from celery.app.trace import build_tracer
from prometheus_client import CollectorRegistry

from coldfusion_queue.errors import StoreUnavailableError
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.metrics import TaskMetrics
from coldfusion_queue.queue import tasks, turns
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.queue.process import Process
from coldfusion_queue.records import SiteData
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.submissions import SubmissionState
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import TurnOutcome

__all__ = ["AWAY", "NAME", "Bench", "Message", "messages", "open_bench", "raises"]

Message = dict[str, Any]
NAME = "s.t00001"
AWAY = StoreUnavailableError("http://store", "read", "a key", "it was switched off")


@dataclass
class Bench:
    """A submission ``s``, one process that takes its messages, and what ``run_turn`` does."""

    repository: Repository
    process: Process
    app: Celery
    registry: CollectorRegistry
    calls: int = 0
    act: Callable[[], object] = lambda: None
    site_data: SiteData | None = None
    queue: str = "finetune"

    @property
    def client(self) -> redis.Redis:
        return self.process.client

    @property
    def keys(self) -> RedisKeys:
        return RedisKeys(self.repository.name)

    def submit(self, turns: int | None = 1) -> Bench:
        submission = self.repository.submissions.create(
            "s",
            dataset_id=None if self.site_data else "d",
            turns=turns,
            submission_id="s",
            site_data=self.site_data,
        )
        assert self.process.sender(self.repository.name).send("s", 1, submission.site)
        return self

    def run_turn(self, *_: object) -> TurnOutcome:
        """In the place of the real one: does what the test says, and commits then."""
        self.calls += 1
        self.act()
        return TurnOutcome(NAME, committed=True, base_version=0)

    def deliver(self, worker: str = "a", **changes: object) -> str:
        """Run the next message, in another state of its headers perhaps; the state of the task."""
        (message,) = self.take()
        headers = {**message["headers"], "hostname": worker, **changes}
        arguments = json.loads(base64.b64decode(message["body"]))[0]
        task = self.app.tasks["coldfusion.finetune"]
        trace = build_tracer(task.name, task, app=self.app)
        request = {**headers, "delivery_info": message["properties"]["delivery_info"]}
        info = trace(headers["id"], arguments, {}, request).info
        return "SUCCESS" if info is None else str(info.state)

    def take(self) -> list[Message]:
        """The messages on the queue, which is empty then."""
        found = []
        while (item := self.client.rpop(self.queue)) is not None:
            found.append(json.loads(str(item)))
        return found

    def hint(self) -> str | None:
        return self.client.get(self.keys.turn(NAME))  # type: ignore[return-value]

    def failure(self) -> str | None:
        failure = self.repository.submissions.failure("s")
        return None if failure is None else failure.reason

    def state(self) -> SubmissionState:
        submissions = self.repository.submissions
        return submissions.status(submissions.get("s")).state

    def num_ended(self, outcome: str) -> float | None:
        labels = {"repository": self.repository.name, "site": self.site, "outcome": outcome}
        return self.registry.get_sample_value("coldfusion_finetunes_total", labels)

    def num_requeued(self, reason: str) -> float:
        labels = {"repository": self.repository.name, "site": self.site, "task": "finetune"}
        found = self.registry.get_sample_value(
            "coldfusion_requeues_total", labels | {"reason": reason}
        )
        return found or 0

    @property
    def site(self) -> str:
        return self.process.settings.site or ""


def open_bench(
    repository: Repository, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    """Tasks of this process are the bench's for the time of the test."""
    app = make_app(settings)
    app.set_current()
    app.finalize()
    registry = CollectorRegistry()
    process = Process(settings, connect_redis(settings), TaskMetrics(registry, settings.site))
    bench = Bench(repository, process, app, registry)
    monkeypatch.setattr(tasks, "this_process", lambda: bench.process)
    monkeypatch.setattr(turns, "run_turn", bench.run_turn)
    return bench


def raises(error: BaseException) -> Callable[[], None]:
    """What raises it when it is called."""

    def act() -> None:
        raise error

    return act


def messages(client: redis.Redis, queue: str) -> list[Message]:
    """What waits on a queue, the newest first."""
    return [json.loads(item) for item in client.lrange(queue, 0, -1)]
