"""A site's worker says that it is there: a key in Redis that its event loop renews.

Other workers answer Celery's remote control. A site's does not, and publishes no events: then
nobody outside can command it, and its credentials need no channel on which others are commanded.
"""

from __future__ import annotations

import logging
from typing import Any

import redis
from celery import bootsteps
from kombu.asynchronous.timer import Entry

from coldfusion_queue.keys import site_presence
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.settings import Settings

__all__ = ["announcing_step", "is_present"]

log = logging.getLogger(__name__)


def is_present(client: redis.Redis, site: str) -> bool:
    """Whether a worker of a site said within ``lease_seconds`` that it is there."""
    return bool(client.exists(site_presence(site)))


def announcing_step(settings: Settings, site: str) -> type[bootsteps.StartStopStep]:
    """A step of Celery's consumer that renews the site's key at a sixth of the lease."""
    client = connect_redis(settings)

    def announce() -> None:
        try:
            client.set(site_presence(site), "", ex=settings.lease_seconds)
        except redis.RedisError as error:  # for people only: the worker goes on without it
            log.warning("presence not renewed: %s", error, extra={"event": "renewal_failed"})

    class AnnounceSite(bootsteps.StartStopStep):  # type: ignore[misc]
        """Announces when the worker is ready, and from then on."""

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

    return AnnounceSite
