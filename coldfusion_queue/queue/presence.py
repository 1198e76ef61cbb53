"""A worker says to which site or pool it belongs: a key in Redis that its event loop renews.

A pool's name stays when its workers are gone, because messages that they had may be left. Other
workers answer Celery's remote control. A site's does not, and publishes no events: then
nobody outside can command it, and its credentials need no channel on which others are commanded.
"""

from __future__ import annotations

import logging
from typing import Any

import redis
from celery import bootsteps
from kombu.asynchronous.timer import Entry

from coldfusion_queue.keys import POOLS, site_presence
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.settings import Settings

__all__ = ["announcing_step", "is_present"]

log = logging.getLogger(__name__)


def is_present(client: redis.Redis, site: str) -> bool:
    """Whether a worker of a site said within ``lease_seconds`` that it is there."""
    return bool(client.exists(site_presence(site)))


def announcing_step(settings: Settings) -> type[bootsteps.StartStopStep] | None:
    """A step of Celery's consumer that says where this worker belongs, at a sixth of the lease.

    Returns:
        None if it belongs to no site and no pool.
    """
    client = connect_redis(settings)
    site, pool = settings.site, settings.pool
    if site is None and pool is None:
        return None

    def announce() -> None:
        try:
            if site is not None:
                client.set(site_presence(site), "", ex=settings.lease_seconds)
            elif pool is not None:
                client.sadd(POOLS, pool)
        except redis.RedisError as error:  # the consumer finds out too, and reconnects
            log.warning("presence not renewed: %s", error, extra={"event": "renewal_failed"})

    class Announce(bootsteps.StartStopStep):  # type: ignore[misc]
        """Announces when the worker is ready, before its loop takes anything, and from then on."""

        requires = ("celery.worker.consumer.tasks:Tasks",)
        _timer: Entry | None = None

        def start(self, consumer: Any) -> None:
            self.stop(consumer)
            announce()
            self._timer = consumer.timer.call_repeatedly(settings.lease_seconds / 6, announce)

        def stop(self, consumer: Any) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Announce
