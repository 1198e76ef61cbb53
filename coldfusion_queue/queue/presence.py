"""A worker says that it is there: its event loop renews its time in a sorted set of Redis.

There is one set for each queue, so that a site's credentials reach its own alone. Who falls silent
without having said that it stops is lost, and seen to be for an hour. Nobody has to be asked: a
site's worker takes no commands and publishes nothing, so its credentials need no channel on which
others are commanded.

A pool's name stays when its workers are gone, because messages that they had may be left.
"""

from __future__ import annotations

import logging
from typing import Any

import redis
from celery import bootsteps
from kombu.asynchronous.timer import Entry

from coldfusion_queue.keys import POOLS, presence
from coldfusion_queue.queue.app import FINETUNE_QUEUE, finetune_queue
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.settings import Settings

__all__ = ["LOST_SECONDS", "announcing_step", "is_present"]

log = logging.getLogger(__name__)

#: For which a worker that fell silent is told of as lost, and is then forgotten.
LOST_SECONDS = 3600

#: The server's clock, because workers' clocks may differ. The set goes with its last worker.
_ANNOUNCE = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""


def is_present(client: redis.Redis, settings: Settings, site: str) -> bool:
    """Whether a worker of a site said within ``lease_seconds`` that it is there."""
    seconds, microseconds = client.time()
    since = seconds + microseconds / 1e6 - settings.lease_seconds
    return bool(client.zcount(presence(str(finetune_queue(site).name)), since, "+inf"))


def announcing_step(settings: Settings, queue: str) -> type[bootsteps.StartStopStep]:
    """A step of Celery's consumer that says where this worker belongs, at a sixth of the lease.

    Args:
        settings: of this worker.
        queue: the one that it consumes.
    """

    class Announce(bootsteps.StartStopStep):  # type: ignore[misc]
        """Announces when the worker is ready, before its loop takes anything, and from then on."""

        requires = ("celery.worker.consumer.tasks:Tasks",)
        _timer: Entry | None = None

        def start(self, consumer: Any) -> None:
            self._cancel()
            announcer = _Announcer(settings, queue, consumer.hostname)
            announcer.announce()
            self._timer = consumer.timer.call_repeatedly(
                settings.lease_seconds / 6, announcer.announce
            )

        def stop(self, consumer: Any) -> None:
            self._cancel()
            # A consumer that lost its broker stops too, and starts again when it is back.
            if consumer.blueprint.state == bootsteps.CLOSE:
                _Announcer(settings, queue, consumer.hostname).leave()

        def _cancel(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Announce


class _Announcer:
    """Says that one worker is there, and that it stops."""

    def __init__(self, settings: Settings, queue: str, hostname: str) -> None:
        # Only these are counted by their pool; a site's have one key, whatever their pool.
        self._pool = settings.pool if queue == FINETUNE_QUEUE else None
        self._client = connect_redis(settings)
        self._key = presence(queue)
        self._member = f"{self._pool or ''}/{hostname}"
        self._announce = self._client.register_script(_ANNOUNCE)

    def announce(self) -> None:
        """Renew this worker's time, and forget who fell silent long ago; idempotent."""
        try:
            self._announce(keys=[self._key], args=[self._member, LOST_SECONDS])
            if self._pool is not None:
                self._client.sadd(POOLS, self._pool)
        except redis.RedisError as error:  # the consumer finds out too, and reconnects
            log.warning("presence not renewed: %s", error, extra={"event": "renewal_failed"})

    def leave(self) -> None:
        """Say that this worker takes nothing more; what it has it still ends, or gives back."""
        try:
            self._client.zrem(self._key, self._member)
        except redis.RedisError as error:
            log.warning("leave not said: %s", error, extra={"event": "renewal_failed"})
