"""What beat counts: the messages that it sent, and those that it passed over."""

from __future__ import annotations

import functools
from typing import Literal

from prometheus_client import CollectorRegistry
from prometheus_client.registry import REGISTRY

from coldfusion_queue.metrics import catalogue

__all__ = ["BeatMetrics", "beat_metrics"]

_TASKS = ("fuse", "reconcile", "collect_garbage")
_OUTCOMES = ("sent", "passed_over")


class BeatMetrics:
    """Counts by the repository that a task is for, its name without ``coldfusion.``."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._messages = catalogue.BEAT_MESSAGES.counter(registry)

    def begin(self, repository: str) -> None:
        """Show all as 0: who asks for an increase sees no first 1 else. Idempotent."""
        for task in _TASKS:
            for outcome in _OUTCOMES:
                self._messages.labels(repository, task, outcome)

    def told(self, repository: str, task: str, outcome: Literal["sent", "passed_over"]) -> None:
        """Count a task that was due."""
        self._messages.labels(repository, task.removeprefix("coldfusion."), outcome).inc()


@functools.cache
def beat_metrics() -> BeatMetrics:
    """Those of this process."""
    return BeatMetrics()
