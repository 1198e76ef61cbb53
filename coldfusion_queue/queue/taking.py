"""When a finetune worker takes its next turn: when it is idle, or soon will be.

A worker whose pool has a free process would take a message at once, and let it wait for as long as
the device is busy, while other workers have nothing to do. This one leaves it on the queue until
its training is near its end (``slots``), and takes nothing then that an idle worker waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import bootsteps
from celery.worker import state
from redis.exceptions import RedisError

from coldfusion_queue.queue.slots import Slots

__all__ = ["taking_step"]


def taking_step(slots: Slots, queue: str) -> type[bootsteps.StartStopStep]:
    """A step of Celery's consumer that asks before it waits for a message.

    Args:
        slots: of this worker.
        queue: the one that it consumes.
    """

    class TakeInTime(bootsteps.StartStopStep):  # type: ignore[misc]
        """Goes where Celery itself asks whether a process is free (``worker_disable_prefetch``)."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            channel = consumer.task_consumer.channel
            celerys: Callable[[], bool] = channel.qos.can_consume

            def can_consume() -> bool:
                if not celerys():
                    return False
                if channel._in_poll:  # it waits already; an answer that is not read is a lost turn
                    return True
                num_reserved = len(state.reserved_requests)
                if not slots.wants_another(num_reserved):
                    return False
                return num_reserved == 0 or _is_left_over(channel, queue)

            channel.qos.can_consume = can_consume

    return TakeInTime


def _is_left_over(channel: Any, queue: str) -> bool:
    """Whether a message waits on a queue: none does while an idle worker waits for it.

    A worker that has a turn in hand thus never stands among those that Redis gives a message to.
    """
    try:
        return bool(channel._size(queue))
    except (RedisError, OSError):  # the consumer reconnects
        return False
