"""Requests of this process to store and broker: how long, how they fail, how many bytes.

Imported with the first client that is made, and not before: by then a worker has said where its
metrics go, see ``workers.starting``.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import Literal, get_args

from prometheus_client.registry import REGISTRY

from coldfusion_queue.metrics import catalogue

__all__ = [
    "BrokerTraffic",
    "Operation",
    "Reason",
    "StoreTraffic",
    "broker_traffic",
    "store_traffic",
]

Operation = Literal["read", "look_up", "list", "create", "write", "upload", "delete"]
Reason = Literal["unreachable", "denied", "failed"]

_STORE_SECONDS = catalogue.STORE_DURATION.histogram(REGISTRY)
_STORE_ERRORS = catalogue.STORE_ERRORS.counter(REGISTRY)
_STORE_RETRIES = catalogue.STORE_RETRIES.counter(REGISTRY)
_STORE_READ = catalogue.STORE_READ.counter(REGISTRY)
_STORE_WRITTEN = catalogue.STORE_WRITTEN.counter(REGISTRY)
_BROKER_SECONDS = catalogue.BROKER_DURATION.histogram(REGISTRY)
_BROKER_ERRORS = catalogue.BROKER_ERRORS.counter(REGISTRY)

#: Held whenever something is counted, and by a worker's parent while it forks: the threads of its
#: probes make requests too, and a child would wait for ever for a lock of the library that one of
#: them held at that moment.
_lock = threading.Lock()
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)


class StoreTraffic:
    """The requests to the store; shared between threads, and with what is forked.

    All of them begin at 0, or the first error would not be seen to increase anything.

    Args:
        repository: of the process's settings.
    """

    def __init__(self, repository: str) -> None:
        names: tuple[Operation, ...] = get_args(Operation)
        reasons: tuple[Reason, ...] = get_args(Reason)
        # Looked up once: that takes longer than counting.
        self._seconds = {name: _STORE_SECONDS.labels(repository, name) for name in names}
        self._errors = {
            (name, reason): _STORE_ERRORS.labels(repository, name, reason)
            for name in names
            for reason in reasons
        }
        self._retries = {name: _STORE_RETRIES.labels(repository, name) for name in names}
        self._read = {name: _STORE_READ.labels(repository, name) for name in names}
        self._written = {name: _STORE_WRITTEN.labels(repository, name) for name in names}

    def answered(self, operation: Operation, seconds: float, num_bytes: int) -> None:
        """Count an answer.

        Args:
            operation: what was asked for.
            seconds: from the first try to the answer.
            num_bytes: size of the content that was sent, counted once however often it was tried.
        """
        with _lock:
            self._seconds[operation].observe(seconds)
            self._written[operation].inc(num_bytes)

    def received(self, operation: Operation, num_bytes: int) -> None:
        """Count the content of an answer, all of which arrived."""
        with _lock:
            self._read[operation].inc(num_bytes)

    def retried(self, operation: Operation, times: int = 1) -> None:
        """Count tries after the first."""
        if times:
            with _lock:
                self._retries[operation].inc(times)

    def failed(self, operation: Operation, reason: Reason) -> None:
        """Count a request that got no answer, or one that is none."""
        with _lock:
            self._errors[operation, reason].inc()


class BrokerTraffic:
    """The requests to the broker, Celery's own left out; shared as ``StoreTraffic`` is.

    Args:
        repository: of the process's settings.
    """

    def __init__(self, repository: str) -> None:
        reasons: tuple[Reason, ...] = get_args(Reason)
        self._seconds = _BROKER_SECONDS.labels(repository)
        self._errors = {reason: _BROKER_ERRORS.labels(repository, reason) for reason in reasons}

    def answered(self, seconds: float) -> None:
        """Count an answer."""
        with _lock:
            self._seconds.observe(seconds)

    def failed(self, reason: Reason) -> None:
        """Count a request that got no answer, or one that is none."""
        with _lock:
            self._errors[reason].inc()


@cache
def store_traffic(repository: str) -> StoreTraffic:
    """What all stores of this process count in."""
    return StoreTraffic(repository)


@cache
def broker_traffic(repository: str) -> BrokerTraffic:
    """What all Redis clients of this process count in."""
    return BrokerTraffic(repository)
