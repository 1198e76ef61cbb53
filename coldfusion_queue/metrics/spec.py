"""What a metric is: its name, labels and meaning, and how ``prometheus_client`` is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

__all__ = ["Question", "Source", "Spec"]

#: What an operator wants to know; a heading of ``docs/metrics.md`` each.
Question = Literal[
    "Is the base getting better?",
    "Is anything stuck?",
    "Who is slow?",
    "What is refused, and why?",
    "Are the GPUs busy?",
    "What does an iteration cost?",
    "Do store and broker answer?",
]

#: Which process serves it.
Source = Literal[
    "exporter", "finetune worker", "evaluation worker", "fusion worker", "beat", "workers", "all"
]


@dataclass(frozen=True)
class Spec:
    """One metric; it is registered when ``counter``, ``gauge`` or ``histogram`` is called."""

    name: str
    """As ``/metrics`` has it, but for ``_total`` of a counter and the suffixes of a histogram."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    """One sentence; units are in the name."""
    labels: tuple[str, ...]
    source: Source
    question: Question
    values: str = ""
    """What its labels may be, for the docs."""
    buckets: tuple[float, ...] = ()
    mode: Literal["livemostrecent", "livesum", "max"] = "livemostrecent"
    """How a gauge of several processes of one worker becomes one number."""
    not_shown: str = ""
    """Why no dashboard has it; empty if one does."""

    @property
    def exposed(self) -> str:
        """Its name in ``/metrics``; of a histogram, without suffixes."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    # --- in the processes that count ----------------------------------------------------------

    def counter(self, registry: CollectorRegistry) -> Counter:
        """Make and register it."""
        return Counter(self.name, self.help, self.labels, registry=registry)

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        """Make and register it."""
        return Gauge(
            self.name, self.help, self.labels, registry=registry, multiprocess_mode=self.mode
        )

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        """Make and register it."""
        return Histogram(self.name, self.help, self.labels, registry=registry, buckets=self.buckets)

    # --- in collectors, which make it anew at each scrape ---------------------------------------

    def family(self) -> Any:
        """An empty ``GaugeMetricFamily``, ``CounterMetricFamily`` or ``HistogramMetricFamily``."""
        families: dict[str, Any] = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
        }
        return families[self.kind](self.name, self.help, labels=self.labels)
