"""The exporter's metrics, made anew of an overview at each scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.utils import floatToGoString

from coldfusion_queue import __version__
from coldfusion_queue.metrics import catalogue
from coldfusion_queue.metrics.spec import Spec
from coldfusion_queue.overview import (
    Bounds,
    BrokerOverview,
    Distribution,
    History,
    LedgerTally,
    Overview,
    StoreOverview,
)

__all__ = ["BOUNDS", "overview_metrics"]

#: What numbers of the ledger's decisions are counted by.
BOUNDS = Bounds(
    staleness=catalogue.STALENESS.buckets,
    relative_norm=catalogue.RELATIVE_NORM.buckets,
    cosine=catalogue.COSINE.buckets,
)

#: Contributors that have a series of their own: there may be thousands of them.
_MAX_CONTRIBUTORS = 20
_OTHERS = "(others)"

#: Of a dataset's id, where nobody has contributed from it.
_ID_DIGITS = 8

#: Values of the labels after the repository, and the number.
_Sample = tuple[tuple[str, ...], float]
_Told = tuple[Spec, Iterable[_Sample]]


def overview_metrics(overview: Overview) -> Iterator[Metric]:
    """All that can be told: of what could not be read nothing, instead of what it was once."""
    repository = overview.repository
    for spec, samples in _numbers(overview):
        family = spec.family()
        for labels, number in samples:
            family.add_metric((repository, *labels), number)
        yield family
    if overview.history.tally is not None:
        for spec, distributions in _distributions(overview.history.tally):
            family = spec.family()
            for labels, found in distributions.items():
                family.add_metric((repository, *labels), _buckets(found), found.sum)
            yield family


def _numbers(overview: Overview) -> Iterator[_Told]:
    yield catalogue.UP, [((), float(overview.is_complete))]
    yield catalogue.BUILD, [((__version__,), 1.0)]
    if overview.store is not None:
        yield from _of_store(overview.store)
        if overview.history.tally is not None:
            yield from _of_quality(overview.store, overview.history, overview.history.tally)
    if overview.history.tally is not None:
        yield from _of_ledger(overview.history.tally)
    if overview.broker is not None:
        yield from _of_broker(overview.broker)


def _of_store(store: StoreOverview) -> Iterator[_Told]:
    yield catalogue.BASE_VERSION, [((), store.base_version)]
    yield catalogue.BASE_VERSION_AGE, [((), store.base_version_age_seconds)]
    yield catalogue.LEDGER_SEQUENCE, [((), store.newest.sequence)]
    yield catalogue.PENDING, [((), store.num_pending)]
    yield catalogue.PENDING_AGE, [((), store.oldest_pending_age_seconds)]
    yield catalogue.POLICY_MIN_CONTRIBUTIONS, [((), store.policy.min_contributions)]
    yield catalogue.POLICY_MAX_WAIT, [((), store.policy.max_wait_seconds)]
    yield catalogue.OPEN_SUBMISSIONS, [((), store.num_open_submissions)]
    yield catalogue.WANTED_EVALUATIONS, [((), store.num_wanted_evaluations)]
    yield catalogue.CANDIDATE_WAITING, [((), float(store.is_candidate_waiting))]


def _of_quality(store: StoreOverview, history: History, tally: LedgerTally) -> Iterator[_Told]:
    """Told with the tally, which knows the names: else all would have others after a restart."""

    def named(dataset_id: str) -> tuple[str, str]:
        return dataset_id, tally.names.get(dataset_id, dataset_id[:_ID_DIGITS])

    gate = store.gate.scores if store.gate is not None else {}
    quality = [((*named(item.dataset_id), item.kind), item) for item in history.quality]
    yield catalogue.GATE_SCORE, [(named(name), score) for name, score in sorted(gate.items())]
    yield catalogue.QUALITY, [(labels, item.score) for labels, item in quality]
    yield catalogue.QUALITY_VERSION, [(labels, item.base_version) for labels, item in quality]


def _of_ledger(tally: LedgerTally) -> Iterator[_Told]:
    yield catalogue.GATE_VERDICTS, [((name,), count) for name, count in tally.verdicts.items()]
    yield catalogue.ROLLBACKS, [((), tally.rollbacks)]
    yield catalogue.CONTRIBUTOR_SHARE, _shares(tally.shares)
    yield catalogue.CONTRIBUTIONS, list(tally.decisions.items())
    yield catalogue.OVERRIDES, [((), tally.overrides)]


def _distributions(
    tally: LedgerTally,
) -> Iterator[tuple[Spec, Mapping[tuple[str, ...], Distribution]]]:
    yield catalogue.STALENESS, {(): tally.staleness}
    yield catalogue.RELATIVE_NORM, {(name,): found for name, found in tally.relative_norm.items()}
    yield catalogue.COSINE, {(name,): found for name, found in tally.cosine.items()}


def _of_broker(broker: BrokerOverview) -> Iterator[_Told]:
    queues = [((item.queue, item.site), item) for item in broker.queues]
    yield catalogue.QUEUE_LENGTH, [(labels, item.length) for labels, item in queues]
    yield catalogue.QUEUE_AGE, [(labels, item.oldest_age_seconds) for labels, item in queues]
    pools = [((item.queue, item.site, item.pool), item) for item in broker.pools]
    yield catalogue.TAKEN_TASKS, [(labels, item.taken) for labels, item in pools]
    works = [(labels, item.work) for labels, item in pools]
    yield catalogue.POOL_WORK, [(labels, work) for labels, work in works if work is not None]
    yield catalogue.WORKERS, [(labels, len(item.workers)) for labels, item in pools]
    yield catalogue.LOST_WORKERS, [(labels, len(item.lost_workers)) for labels, item in pools]
    yield catalogue.LEASES, [((task,), count) for task, count in broker.num_leases.items()]
    if broker.stored is not None:
        rooms = [((item.room,), item) for item in broker.stored]
        yield catalogue.STORED_BYTES, [(labels, item.num_bytes) for labels, item in rooms]
        yield catalogue.STORED_OBJECTS, [(labels, item.num_objects) for labels, item in rooms]


def _buckets(found: Distribution) -> list[tuple[str, float]]:
    """Bounds as the client library writes those of its own histograms."""
    return [(str(floatToGoString(bound)), count) for bound, count in found.cumulative]  # type: ignore[no-untyped-call]


def _shares(shares: Mapping[str, float]) -> list[_Sample]:
    """The largest, and the rest together, so that their sum is what it was."""
    ordered = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    rest = [share for _, share in ordered[_MAX_CONTRIBUTORS:]]
    samples: list[_Sample] = [((name,), share) for name, share in ordered[:_MAX_CONTRIBUTORS]]
    return [*samples, ((_OTHERS,), sum(rest))] if rest else samples
