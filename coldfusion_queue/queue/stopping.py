"""How a worker that is told to stop lets its running task end in order.

The parent process gets the signal, the pool's child runs the task: one byte of shared memory
tells it. The child saves a checkpoint, queues its turn again and returns; the parent then
acknowledges and ends at once. A child that does not make it in time is killed, and its message
goes back on the queue.

A worker that drains lets what runs go on for a while before it says so; it takes nothing new then,
and what waits for the device goes back on the queue at once.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

__all__ = [
    "is_closing",
    "is_stopping",
    "log_what_celery_says",
    "remember_this_worker",
    "stop_gently_on_signals",
    "stop_this_worker",
]

log = logging.getLogger(__name__)

#: Anonymous shared memory, made before the pool forks; a lock is not needed for one byte.
_flag = mmap.mmap(-1, 1)
_CLOSING, _STOPPING = 1, 2

#: The parent of the pool; its children inherit the number.
_worker: int | None = None


def is_closing() -> bool:
    """Whether this worker was told to stop, and begins nothing new."""
    return _flag[0] != 0


def is_stopping() -> bool:
    """Whether what runs is to end now, with a checkpoint; asked in the pool's child."""
    return _flag[0] == _STOPPING


def stop_gently_on_signals(grace_seconds: float, drain_seconds: float = 0) -> None:
    """Go before Celery's handlers of SIGTERM and SIGINT; call it when they are installed.

    Celery's soft shutdown is of no use here: it tells the child nothing, and it sleeps the whole
    grace period even if the task ends at once.

    Args:
        grace_seconds: after which the running task is killed and put back on the queue, once it
            was told to end.
        drain_seconds: after which it is told so.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        _wrap(number, grace_seconds, drain_seconds)


def remember_this_worker() -> None:
    """Say that this process is a worker's parent; call it before the pool forks."""
    global _worker
    _worker = os.getpid()


def log_what_celery_says() -> None:
    """Make log records of the sentences that Celery writes to standard output when it ends."""
    from celery.apps import worker

    def say(sentence: str, *_: object) -> None:
        # In a thread, because a signal may have come in the middle of another record.
        extra = {"event": "worker_stopping"}
        threading.Thread(
            target=log.info, args=("%s", sentence), kwargs={"extra": extra}, daemon=True
        ).start()

    worker.safe_say = say


def stop_this_worker() -> None:
    """End the worker whose pool this process is in, as a SIGTERM does; else do nothing.

    For a worker that cannot do its work any more; whoever runs it starts it again.
    """
    if _worker is not None:
        os.kill(_worker, signal.SIGTERM)


def _wrap(number: int, grace_seconds: float, drain_seconds: float) -> None:
    celerys = signal.getsignal(number)

    def handle(signum: int, frame: FrameType | None) -> None:
        if not is_closing():
            _flag[0] = _CLOSING
            if drain_seconds > 0:
                _after(drain_seconds, _stop)
            else:
                _stop()
            # SIGQUIT is Celery's cold shutdown: it kills the child and requeues the message.
            _after(drain_seconds + grace_seconds, os.kill, os.getpid(), signal.SIGQUIT)
        if callable(celerys):
            celerys(signum, frame)

    signal.signal(number, handle)


def _stop() -> None:
    _flag[0] = _STOPPING


def _after(seconds: float, function: Callable[..., None], *arguments: object) -> None:
    timer = threading.Timer(seconds, function, arguments)
    timer.daemon = True
    timer.start()
