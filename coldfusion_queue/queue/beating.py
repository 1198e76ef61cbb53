"""Beat's scheduler: it sends no more than the fusion workers take up."""

from __future__ import annotations

import logging
from typing import Any

import redis
from celery.beat import ScheduleEntry, Scheduler

from coldfusion_queue.metrics.beat import beat_metrics
from coldfusion_queue.queue.app import FUSION_QUEUE
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.settings import load_settings

__all__ = ["BoundedScheduler"]

log = logging.getLogger(__name__)

#: Messages on the fusion queue beyond which another would only repeat what waits.
_MAX_WAITING = 20


class BoundedScheduler(Scheduler):  # type: ignore[misc]
    """Passes a due task over while too many wait, as when no fusion worker runs for a day.

    Celery's own means is a time of expiry, which is compared with the worker's clock: with clocks
    an hour apart every task would have expired.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = load_settings()
        self._client = connect_redis(settings)
        self._metrics = beat_metrics()
        self._metrics.begin(settings.repository)

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        """Send a due task, unless too many wait."""
        try:
            waiting = int(self._client.llen(FUSION_QUEUE))
        except redis.RedisError:
            waiting = 0  # sending will say what is wrong
        if waiting >= _MAX_WAITING:
            log.warning("%s passed over", entry.task, extra={"event": "tick_passed_over"})
            self._metrics.told(entry.args[0], entry.task, "passed_over")
            return
        super().apply_entry(entry, producer)

    def apply_async(self, entry: ScheduleEntry, *args: Any, **kwargs: Any) -> Any:
        """Send a due task; what it raises is logged by who calls."""
        result = super().apply_async(entry, *args, **kwargs)
        self._metrics.told(entry.args[0], entry.task, "sent")
        return result
