"""What the broker says of queues and workers now: four requests, however much waits."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from coldfusion_queue.keys import RedisKeys, presence
from coldfusion_queue.names import contribution_id
from coldfusion_queue.overview.overview import (
    BrokerOverview,
    Lease,
    LostWorker,
    PoolOverview,
    QueueOverview,
    StoredRoom,
)
from coldfusion_queue.queue.app import (
    EVALUATION_QUEUE,
    FINETUNE_QUEUE,
    FUSION_QUEUE,
    SENT_AT,
    unacked_key,
)
from coldfusion_queue.queue.connection import broker_errors, connect_redis
from coldfusion_queue.queue.presence import LOST_SECONDS
from coldfusion_queue.queue.sites import Consumers, finetune_consumers
from coldfusion_queue.settings import Settings

__all__ = ["BrokerReader"]

_OTHER_QUEUES = (EVALUATION_QUEUE, FUSION_QUEUE)
#: Names of the tasks whose hint is the lease of the worker that runs them, as people call them.
_LEASED = {"coldfusion.finetune": "finetune", "coldfusion.evaluate": "evaluate"}


class BrokerReader:
    """Reads queues and workers again and again, over a connection that stays open."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = RedisKeys(settings.repository)
        self._client: redis.Redis = connect_redis(settings)

    def read(self) -> BrokerOverview:
        """What waits and who works; there is one pool for each site and pool that there ever was.

        Raises:
            BrokerUnavailableError: the broker does not answer.
            AccessDeniedError: it refuses the credentials, or these lack a right.
        """
        with broker_errors(self._settings):
            finetuners = finetune_consumers(self._client, self._keys)
            others = [Consumers(name, "", unacked_key(name)) for name in _OTHER_QUEUES]
            raw = self._look([*finetuners, *others])
            leases = tuple(self._leases(raw))
        return BrokerOverview(
            queues=tuple(_queue(name, *raw.waiting[name]) for name in raw.waiting),
            pools=tuple(self._pool(item, raw, item in finetuners) for item in raw.taken),
            leases=leases,
            stored=_stored(raw.stored),
        )

    def _look(self, everybody: Sequence[Consumers]) -> _Raw:
        queues = list(dict.fromkeys(item.queue for item in everybody))
        # Not in a transaction: the exporter's rights do not go that far. What moves meanwhile
        # counts twice, because what waits is read first.
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.get(self._keys.stored)
            for queue in queues:
                pipeline.llen(queue)
                pipeline.lindex(queue, -1)
                pipeline.zrange(presence(queue), 0, -1, withscores=True)
            for item in everybody:
                pipeline.hvals(item.unacked)
            (seconds, microseconds), stored, *found = pipeline.execute()
        by_queue, taken = found[: 3 * len(queues)], found[3 * len(queues) :]
        return _Raw(
            now=seconds + microseconds / 1e6,
            stored=stored,
            waiting=dict(zip(queues, zip(by_queue[::3], by_queue[1::3], strict=True), strict=True)),
            announced=dict(zip(queues, by_queue[2::3], strict=True)),
            taken=dict(zip(everybody, taken, strict=True)),
        )

    def _pool(self, item: Consumers, raw: _Raw, is_scaled: bool) -> PoolOverview:
        present, lost = [], []
        for member, since in raw.announced[item.queue]:
            pool, _, name = member.partition("/")
            silent_seconds = raw.now - since
            if pool == item.pool and silent_seconds <= self._settings.lease_seconds:
                present.append(name)
            elif pool == item.pool and silent_seconds <= LOST_SECONDS:
                lost.append(LostWorker(name, silent_seconds))
        num_taken = len(raw.taken[item])
        return PoolOverview(
            queue=item.queue,
            site=_site(item.queue),
            pool=item.pool,
            taken=num_taken,
            work=raw.waiting[item.queue][0] + num_taken if is_scaled else None,
            workers=tuple(sorted(present)),
            lost_workers=tuple(sorted(lost, key=lambda worker: worker.name)),
        )

    def _leases(self, raw: _Raw) -> Iterator[Lease]:
        """Those on what workers took: what is taken and has no lease is prepared, or was lost."""
        messages = (text for texts in raw.taken.values() for text in texts)
        names = dict(filter(None, (self._leased(text) for text in messages)))
        if not names:
            return
        hints = cast(
            "list[str | None]", self._client.mget([self._keys.turn(item) for item in names])
        )
        for (name, task), hint in zip(names.items(), hints, strict=True):
            if hint is not None and hint.startswith("running:"):
                yield Lease(task, name, hint.removeprefix("running:"))

    def _leased(self, text: str) -> tuple[str, str] | None:
        """Id and task of what a message of this repository asks for, if that has leases."""
        try:
            message = json.loads(text)[0]
            task = _LEASED.get(message["headers"]["task"])
            repository, *about = json.loads(base64.b64decode(message["body"]))[0]
            if task is None or repository != self._settings.repository:
                return None
            return (contribution_id(*about) if task == "finetune" else str(about[0])), task
        except (ValueError, LookupError, TypeError):  # of another program; no reason to be blind
            return None


@dataclass(frozen=True)
class _Raw:
    """Answers of the broker, in order."""

    now: float
    """By its clock."""
    stored: str | None
    waiting: Mapping[str, tuple[int, str | None]]
    """Length and oldest message, by queue."""
    announced: Mapping[str, list[tuple[str, float]]]
    """Who said when to be there, by queue."""
    taken: Mapping[Consumers, list[str]]
    """Messages that are not acknowledged."""


def _queue(name: str, length: int, oldest: str | None) -> QueueOverview:
    age_seconds = 0.0 if oldest is None else _age_seconds(oldest)
    return QueueOverview(name, _site(name), length, age_seconds)


def _age_seconds(message: str) -> float:
    try:
        return max(0.0, time.time() - float(json.loads(message)["headers"][SENT_AT]))
    except (ValueError, LookupError, TypeError):  # sent by an older version, or another program
        return 0.0


def _site(queue: str) -> str:
    return queue.removeprefix(f"{FINETUNE_QUEUE}.") if "." in queue else ""


def _stored(text: str | None) -> tuple[StoredRoom, ...] | None:
    if text is None:
        return None
    rooms: dict[str, Any] = json.loads(text)
    return tuple(StoredRoom(name, *numbers) for name, numbers in sorted(rooms.items()))
