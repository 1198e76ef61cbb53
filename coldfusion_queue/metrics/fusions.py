"""What fusions cost: time by phase, bytes, and how they end; and what garbage collection frees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.registry import REGISTRY

from coldfusion_queue.errors import LedgerConflictError
from coldfusion_queue.metrics import catalogue
from coldfusion_queue.repository.meter import FusionMeter, Phase

__all__ = ["FusionMetrics", "MeasuredFusion", "fusion_metrics"]

Outcome = Literal["committed", "candidate", "lost", "failed"]


@dataclass
class MeasuredFusion:
    """A fusion that runs."""

    meter: FusionMeter
    outcome: Outcome = "failed"


class FusionMetrics:
    """What the fusions of one worker process count.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._fusions = catalogue.FUSIONS.counter(registry)
        self._duration = catalogue.FUSION_DURATION.histogram(registry)
        self._phases = catalogue.FUSION_PHASE.histogram(registry)
        self._read = catalogue.FUSION_READ.counter(registry)
        self._written = catalogue.FUSION_WRITTEN.counter(registry)
        self._collected = catalogue.COLLECTED_BYTES.counter(registry)

    def meter(self, repository: str) -> FusionMeter:
        """Counts the bytes of a fusion, or of what a helper does of one, as they go."""
        return FusionMeter(self._read.labels(repository).inc, self._written.labels(repository).inc)

    @contextmanager
    def measure(self, repository: str) -> Iterator[MeasuredFusion]:
        """Count what happens in the context as a fusion, if it begins; its outcome is set there.

        What ends with an error before that has failed, or lost to another fuser.
        """
        self._begin(repository)
        fusion = MeasuredFusion(self.meter(repository))
        try:
            yield fusion
        except LedgerConflictError:
            fusion.outcome = "lost"
            raise
        finally:
            if fusion.meter.has_begun:
                self._ended(repository, fusion)

    def collected(self, repository: str, num_bytes: int) -> None:
        """Count garbage that was collected."""
        self._collected.labels(repository).inc(num_bytes)

    def _begin(self, repository: str) -> None:
        """Show as 0 what may be counted: the first would not be seen to increase anything else."""
        for outcome in get_args(Outcome):
            self._fusions.labels(repository, outcome)
        self._duration.labels(repository)
        for phase in Phase:
            self._phases.labels(repository, phase)
        self._collected.labels(repository)

    def _ended(self, repository: str, fusion: MeasuredFusion) -> None:
        self._fusions.labels(repository, fusion.outcome).inc()
        if fusion.outcome in ("committed", "candidate"):
            phases = fusion.meter.seconds()
            self._duration.labels(repository).observe(sum(phases.values()))
            for phase, seconds in phases.items():
                self._phases.labels(repository, phase).observe(seconds)


@cache
def fusion_metrics() -> FusionMetrics:
    """Those of this process."""
    return FusionMetrics()
