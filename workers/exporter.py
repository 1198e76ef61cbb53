"""Exporter: the state of repository and queues as Prometheus metrics.

``python -m workers.exporter``. Everything is read anew at each scrape, so it is right after any
restart and needs no state.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable

import redis
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from coldfusion_queue.errors import ColdFusionError
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.metrics import repository_metrics, up_metric
from coldfusion_queue.queue.app import EVALUATION_QUEUE, FUSION_QUEUE, unacked_key
from coldfusion_queue.queue.connection import broker_errors, connect_redis
from coldfusion_queue.queue.sites import Consumers, finetune_consumers
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from workers.health import PULSE_SECONDS, Health, broker_check, store_check
from workers.serving import serve
from workers.starting import prepare

__all__ = ["RepositoryCollector", "main"]

log = logging.getLogger(__name__)

_OTHER_QUEUES = (EVALUATION_QUEUE, FUSION_QUEUE)


class RepositoryCollector(Collector):
    """Reads store and broker when Prometheus asks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: redis.Redis = connect_redis(settings)

    def collect(self) -> Iterable[Metric]:
        """The gauges; ``coldfusion_up`` alone, as 0, when store or broker do not answer."""
        try:
            metrics = list(self._read())
        except ColdFusionError as error:
            log.warning("scrape failed: %s", error, extra={"event": "scrape_failed"})
            metrics = []
        yield up_metric(bool(metrics))
        yield from metrics

    def _read(self) -> Iterable[Metric]:
        repository = Repository.open(self._settings, attempts=1)
        newest = repository.ledger.newest()
        with broker_errors(self._settings):
            finetuners, waiting, taken = self._count()
        return repository_metrics(
            base_version=newest.after.base.version,
            sequence=newest.sequence,
            num_pending=repository.inbox.count(),
            num_open_submissions=repository.submissions.count_open(),
            num_wanted_evaluations=repository.evaluations.count_wanted(),
            gate=newest.after.gate,
            is_candidate_waiting=repository.candidates.is_waiting(newest.sequence + 1),
            queue_lengths=waiting,
            taken_tasks=taken,
            pool_work={
                (item.queue, item.pool): waiting[item.queue] + taken[item.queue, item.pool]
                for item in finetuners
            },
        )

    def _count(self) -> tuple[list[Consumers], dict[str, int], dict[tuple[str, str], int]]:
        """The finetune workers, how much waits in each queue, and what workers of each pool have.

        There is one series for each site and pool that there ever was.
        """
        finetuners = finetune_consumers(self._client, RedisKeys(self._settings.repository))
        others = [Consumers(name, "", unacked_key(name)) for name in _OTHER_QUEUES]
        everybody = [*finetuners, *others]
        queues = list(dict.fromkeys(item.queue for item in everybody))
        # Not in a transaction: its rights do not go that far. What moves meanwhile counts twice,
        # because what waits is read first.
        with self._client.pipeline(transaction=False) as pipeline:
            for queue in queues:
                pipeline.llen(queue)
            for item in everybody:
                pipeline.hlen(item.unacked)
            numbers = [int(number) for number in pipeline.execute()]
        waiting = dict(zip(queues, numbers[: len(queues)], strict=True))
        labels = [(item.queue, item.pool) for item in everybody]
        return finetuners, waiting, dict(zip(labels, numbers[len(queues) :], strict=True))


def main() -> None:
    """Serve ``/metrics`` until told to stop."""
    settings = prepare()
    if settings.metrics_port == 0:
        raise SystemExit("the exporter serves nothing else: COLDFUSION_METRICS_PORT cannot be 0")
    registry = CollectorRegistry()
    registry.register(RepositoryCollector(settings))
    broker, stop = broker_check(settings), threading.Event()
    checks = [("broker", broker), ("store", store_check(settings))]
    health = Health(broker, checks, stop.is_set)
    health.pulse()
    serve(settings, registry, health)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(PULSE_SECONDS):
        health.pulse()


if __name__ == "__main__":
    main()
