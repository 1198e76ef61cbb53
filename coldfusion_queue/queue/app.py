"""The Celery application, configured for tasks that take hours on Redis.

Late acknowledgement and messages that are renewed while their worker lives (``renewal``): a task
is handed to another worker when its worker is gone, and never while it still runs. There is no
result backend; the outcome of a task is a record in the object store.

The turns of a site are on a queue of their own. Workers note what they took under a key that only
workers of the same queue, pool and site have: they put back nothing that others took, and how many
tasks a pool is at is the length of one hash, by which it can be scaled.
"""

from __future__ import annotations

import time
from typing import Any

from celery import Celery
from celery.signals import before_task_publish
from kombu import Exchange, Queue

from coldfusion_queue.queue.broker import library_url, sentinel_options, ssl_options
from coldfusion_queue.settings import Settings

__all__ = [
    "EVALUATION_QUEUE",
    "FINETUNE_QUEUE",
    "FUSION_QUEUE",
    "SENT_AT",
    "finetune_queue",
    "make_app",
    "unacked_index_key",
    "unacked_key",
]

FINETUNE_QUEUE = "finetune"
FUSION_QUEUE = "fusion"
EVALUATION_QUEUE = "evaluate"

#: Header of each message: when it was sent first, by the sender's clock, in seconds of Unix time.
SENT_AT = "sent_at"


def finetune_queue(site: str | None) -> Queue:
    """The queue of the turns of a site's data, or of everybody else's."""
    return _queue(FINETUNE_QUEUE if site is None else f"{FINETUNE_QUEUE}.{site}")


def unacked_key(queue: str, *, pool: str | None = None, site: str | None = None) -> str:
    """Redis key of the messages that workers took and have not acknowledged.

    Args:
        queue: the queue that they consume.
        pool: of the finetune workers; None if they are in none.
        site: of the finetune workers; a site's workers share one key, whatever their pool.
    """
    if site is not None:
        return f"unacked.{site}"
    return f"unacked:{queue}" if pool is None else f"unacked:{queue}:{pool}"


def unacked_index_key(unacked: str) -> str:
    """Redis key of when each message under an ``unacked_key`` was taken or last renewed."""
    return f"{unacked}_index"


def make_app(settings: Settings, queue: str = FINETUNE_QUEUE) -> Celery:
    """Make the application that workers, beat and senders share; nothing is connected yet.

    Args:
        settings: of this process.
        queue: the one that it consumes, if it is a worker.
    """
    app = Celery("coldfusion", broker=library_url(settings))
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_default_queue=FINETUNE_QUEUE,
        task_queues=_queues(settings),
        task_routes={
            "coldfusion.finetune": {"queue": FINETUNE_QUEUE},
            "coldfusion.evaluate": {"queue": EVALUATION_QUEUE},
            "coldfusion.fuse": {"queue": FUSION_QUEUE},
            "coldfusion.help_fusion": {"queue": FUSION_QUEUE},
            "coldfusion.reconcile": {"queue": FUSION_QUEUE},
            "coldfusion.collect_garbage": {"queue": FUSION_QUEUE},
        },
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # A site's worker takes no commands and publishes nothing: see ``presence``.
        worker_enable_remote_control=settings.site is None,
        worker_send_task_events=settings.site is None,
        task_send_sent_event=settings.site is None,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        # By default a worker gives its broker up after three quarters of an hour, and ends.
        broker_connection_max_retries=None,
        broker_connection_timeout=settings.broker_connect_timeout_seconds,
        broker_transport_options=_transport_options(settings, queue),
        visibility_timeout=_visibility_timeout(settings),
        broker_use_ssl=ssl_options(settings),
        timezone="UTC",
        task_annotations=_time_limits(settings),
        imports=("coldfusion_queue.queue.tasks",),
        beat_schedule=_beat_schedule(settings),
    )
    return app


@before_task_publish.connect(dispatch_uid="coldfusion.sent_at")  # type: ignore[untyped-decorator]
def _stamp(headers: dict[str, Any], **_: object) -> None:
    headers[SENT_AT] = time.time()


def _queues(settings: Settings) -> tuple[Queue, ...]:
    common = (finetune_queue(None), _queue(FUSION_QUEUE), _queue(EVALUATION_QUEUE))
    return common if settings.site is None else (*common, finetune_queue(settings.site))


def _queue(name: str) -> Queue:
    # Without an exchange and key of its own a queue is bound to those of the default queue, and
    # every message would reach both.
    return Queue(name, Exchange(name), routing_key=name)


def _time_limits(settings: Settings) -> dict[str, Any]:
    # The soft limit lets a task record why it ended; the hard one is for a task that hangs.
    def limits(seconds: int) -> dict[str, int]:
        return {"soft_time_limit": seconds, "time_limit": seconds + 60}

    return {
        "coldfusion.finetune": limits(settings.finetune_time_limit_seconds),
        "coldfusion.evaluate": limits(settings.finetune_time_limit_seconds),
        "coldfusion.fuse": limits(settings.fusion_time_limit_seconds),
        "coldfusion.help_fusion": limits(settings.fusion_time_limit_seconds),
        "coldfusion.reconcile": limits(settings.fusion_time_limit_seconds),
        "coldfusion.collect_garbage": limits(settings.fusion_time_limit_seconds),
    }


def _visibility_timeout(settings: Settings) -> float:
    # With the time until somebody looks this is less than the lease.
    return settings.lease_seconds * 2 / 3


def _transport_options(settings: Settings, queue: str) -> dict[str, Any]:
    pool = settings.pool if queue == FINETUNE_QUEUE else None
    unacked = unacked_key(queue, pool=pool, site=settings.site)
    return {
        "visibility_timeout": _visibility_timeout(settings),
        # How often a worker looks for messages of dead ones, and how long it may take over it.
        "unacked_restore_interval": settings.lease_seconds / 6,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": settings.lease_seconds / 6,
        "unacked_key": unacked,
        "unacked_index_key": unacked_index_key(unacked),
        "unacked_mutex_key": f"{unacked}_mutex",
        "socket_keepalive": True,
        "socket_connect_timeout": settings.broker_connect_timeout_seconds,
        "health_check_interval": 25,
        **sentinel_options(settings),
    }


def _beat_schedule(settings: Settings) -> dict[str, Any]:
    def every(task: str, seconds: float) -> dict[str, Any]:
        # No "expires": it would compare beat's clock with the worker's. See ``beating``.
        return {"task": task, "schedule": seconds, "args": (settings.repository,)}

    return {
        "fuse": every("coldfusion.fuse", settings.fusion_interval_seconds),
        "reconcile": every("coldfusion.reconcile", settings.reconcile_interval_seconds),
        "collect_garbage": every("coldfusion.collect_garbage", settings.gc_interval_seconds),
    }
