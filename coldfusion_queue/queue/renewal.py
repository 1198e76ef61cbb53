"""Unacknowledged messages are renewed for as long as the worker that has them lives.

The broker library stamps a message once, when it is delivered, and hands it to another worker
when the stamp is older than the visibility timeout: a long task is then run a second time while
it still runs. Here the worker's parent process, which lives beside the task, stamps its messages
anew several times within that timeout. So the timeout can be as short as a lease: it says how
soon the messages of a dead worker come back, not how long a task may take.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps
from kombu.asynchronous.timer import Entry
from redis.exceptions import RedisError

from coldfusion_queue.queue.stopping import is_closing
from coldfusion_queue.settings import Settings

__all__ = ["renew", "renewing_step"]

log = logging.getLogger(__name__)

#: XX: a message that was acknowledged or given away meanwhile does not come back. The server's
#: clock, because workers' clocks may differ.
_RENEW = """
local now = redis.call('TIME')
local stamp = now[1] + now[2] / 1000000
for _, tag in ipairs(ARGV) do
  redis.call('ZADD', KEYS[1], 'XX', stamp, tag)
end
return #ARGV
"""


def renewing_step(settings: Settings) -> type[bootsteps.StartStopStep]:
    """A step of Celery's consumer that renews at a sixth of the lease."""

    class RenewDeliveries(bootsteps.StartStopStep):  # type: ignore[misc]
        """Renews from the worker's own event loop, so a parent that hangs renews nothing."""

        requires = ("celery.worker.consumer.tasks:Tasks",)
        _timer: Entry | None = None

        def start(self, consumer: Any) -> None:
            self.stop(consumer)
            self._timer = consumer.timer.call_repeatedly(
                settings.lease_seconds / 6, renew, (consumer,)
            )

        def stop(self, consumer: Any) -> None:
            # The pool fires timers while it waits for its last tasks: these are still ours.
            if self._timer is not None and not is_closing():
                self._timer.cancel()
                self._timer = None

    return RenewDeliveries


def renew(consumer: Any) -> int:
    """Stamp every message that a Celery consumer has and has not acknowledged.

    A broker that is away is left to the consumer, which reconnects.

    Returns:
        How many messages were renewed.
    """
    if consumer.task_consumer is None:
        return 0
    channel = consumer.task_consumer.channel
    tags = [tag for tag in list(channel.qos._delivered) if tag not in channel.qos._dirty]
    if not tags:
        return 0
    try:
        with channel.conn_or_acquire() as client:
            client.eval(_RENEW, 1, channel.unacked_index_key, *tags)
    except (RedisError, OSError) as error:
        log.warning("messages not renewed: %s", error, extra={"event": "renewal_failed"})
        return 0
    return len(tags)
