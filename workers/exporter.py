"""Exporter: the state of repository and queues as Prometheus metrics.

``python -m workers.exporter``. Everything is read from store and broker, most of it anew at each
scrape, so it is right after any restart and needs no state.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable

from prometheus_client import REGISTRY
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from coldfusion_queue.metrics.catalogue import CATALOGUE
from coldfusion_queue.metrics.repository import BOUNDS, overview_metrics
from coldfusion_queue.overview import OverviewReader, WholeHistory
from coldfusion_queue.settings import Settings
from workers.health import PULSE_SECONDS, Health, broker_check, store_check
from workers.serving import serve
from workers.starting import prepare

__all__ = ["RepositoryCollector", "main"]

log = logging.getLogger(__name__)

#: Within which the store has to answer a request, because Prometheus itself waits for ten seconds.
_TIMEOUT_SECONDS = 5.0


class RepositoryCollector(Collector):
    """Reads store and broker when Prometheus asks; of two that ask at once, one waits."""

    def __init__(self, settings: Settings) -> None:
        seconds = min(settings.s3_read_timeout_seconds, _TIMEOUT_SECONDS)
        own = settings.model_copy(update={"s3_read_timeout_seconds": seconds})
        self._reader = OverviewReader(own, WholeHistory(BOUNDS))
        self._lock = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        """What it may collect, without asking anybody."""
        return [spec.family() for spec in CATALOGUE if spec.source == "exporter"]

    def collect(self) -> Iterable[Metric]:
        """What could be read; ``coldfusion_up`` is 0 if store or broker did not answer."""
        with self._lock:
            overview = self._reader.read()
        for error in (overview.store_error, overview.broker_error):
            if error is not None:
                log.warning("scrape failed: %s", error, extra={"event": "scrape_failed"})
        return overview_metrics(overview)


def main() -> None:
    """Serve ``/metrics`` until told to stop."""
    settings = prepare()
    if settings.metrics_port == 0:
        raise SystemExit("the exporter serves nothing else: COLDFUSION_METRICS_PORT cannot be 0")
    REGISTRY.register(RepositoryCollector(settings))
    broker, stop = broker_check(settings), threading.Event()
    checks = [("broker", broker), ("store", store_check(settings))]
    health = Health(broker, checks, stop.is_set)
    health.pulse()
    # With them are its own requests to store and broker, which count there like anybody's.
    serve(settings, REGISTRY, health)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(PULSE_SECONDS):
        health.pulse()


if __name__ == "__main__":
    main()
