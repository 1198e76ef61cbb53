"""Every Prometheus metric, named in one place and built by a function, not at import."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import REGISTRY

from coldfusion_queue.records import GateReport, LedgerEntry

if TYPE_CHECKING:
    from coldfusion_queue.finetune.progress import Progress

__all__ = ["TaskMetrics", "repository_metrics", "up_metric"]

_FINETUNE_BUCKETS = (1, 5, 15, 60, 300, 900, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 24 * 3600)
_FUSION_BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600)


class TaskMetrics:
    """What the tasks of one worker process count."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._finetunes = Counter(
            "coldfusion_finetunes",
            "Finetunes that ended, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._finetune_seconds = Histogram(
            "coldfusion_finetune_duration_seconds",
            "Wall time of one finetune, downloads and upload included.",
            buckets=_FINETUNE_BUCKETS,
            registry=registry,
        )
        self._examples = Counter(
            "coldfusion_trained_examples",
            "Examples that finetunes trained on, all epochs counted.",
            registry=registry,
        )
        self._tokens = Counter(
            "coldfusion_trained_tokens",
            "Tokens that finetunes trained on, padding not counted.",
            registry=registry,
        )
        self._loss = Gauge(
            "coldfusion_finetune_loss",
            "Mean training loss of the last report.",
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self._memory = Gauge(
            "coldfusion_finetune_memory_bytes",
            "Peak memory of the last finetune: of the GPU, or on a CPU of the process.",
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self._device_seconds = Counter(
            "coldfusion_device_busy_seconds",
            "Seconds for which turns had the worker's device.",
            registry=registry,
        )
        self._evaluations = Counter(
            "coldfusion_evaluations",
            "Evaluations that ended, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._evaluation_seconds = Histogram(
            "coldfusion_evaluation_duration_seconds",
            "Wall time of one evaluation, downloads included, by kind.",
            ["kind"],
            buckets=_FINETUNE_BUCKETS,
            registry=registry,
        )
        self._decisions = Counter(
            "coldfusion_decisions",
            "Contributions that the ledger decided, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._refusals = Counter(
            "coldfusion_refusals",
            "Contributions that were refused, by the rule that they broke.",
            ["rule"],
            registry=registry,
        )
        self._overrides = Counter(
            "coldfusion_overrides",
            "Contributions that were fused although they exceed a limit, by an operator's word.",
            registry=registry,
        )
        self._staleness = Histogram(
            "coldfusion_fused_staleness_versions",
            "Staleness of fused contributions, in base versions.",
            buckets=(0, 1, 2, 3, 5, 8, 13, 21),
            registry=registry,
        )
        self._verdicts = Counter(
            "coldfusion_gate_verdicts",
            "Fused models that the gate judged, by verdict: published or withheld.",
            ["verdict"],
            registry=registry,
        )
        self._rollbacks = Counter(
            "coldfusion_automatic_rollbacks",
            "Base versions that were rolled back because the gate found them worse.",
            registry=registry,
        )
        self._fusion_seconds = Histogram(
            "coldfusion_fusion_duration_seconds",
            "Wall time of one fusion, from looking at the inbox to settling.",
            buckets=_FUSION_BUCKETS,
            registry=registry,
        )

    def finetune_ended(self, outcome: str, seconds: float) -> None:
        """Count one finetune: outcome is how it ended, as in the log's events."""
        self._finetunes.labels(outcome).inc()
        self._finetune_seconds.observe(seconds)

    def trained(self, progress: Progress) -> None:
        """Count what a finetune did since its last report."""
        self._examples.inc(progress.new_examples)
        self._tokens.inc(progress.new_tokens)
        self._loss.set(progress.loss)
        self._memory.set(progress.memory_bytes)

    def device_was_busy(self, seconds: float) -> None:
        """Count time for which a turn had the device."""
        self._device_seconds.inc(seconds)

    def evaluation_ended(self, outcome: str, kind: str, seconds: float) -> None:
        """Count one evaluation: outcome is how it ended, as in the log's events."""
        self._evaluations.labels(outcome).inc()
        self._evaluation_seconds.labels(kind).observe(seconds)

    def fusion_ended(self, entry: LedgerEntry, seconds: float) -> None:
        """Count one fusion that appended to the ledger."""
        decisions = entry.decisions
        self._fusion_seconds.observe(seconds)
        if entry.gate is not None:
            self._verdicts.labels("withheld" if entry.withheld else "published").inc()
        if entry.published is not None and entry.published.restores is not None:
            self._rollbacks.inc()
        for rule, number in Tally(item.rule for item in decisions if item.rule).items():
            self._refusals.labels(rule.value).inc(number)
        if entry.published is not None:
            self._overrides.inc(sum(line.override is not None for line in entry.published.fused))
        for outcome, number in Tally(item.outcome for item in decisions).items():
            self._decisions.labels(outcome.value).inc(number)
        for item in decisions:
            if item.version is not None:
                self._staleness.observe(item.numbers["staleness"])


def up_metric(is_up: bool) -> GaugeMetricFamily:
    """Whether the exporter's last scrape could read store and broker."""
    help_text = "Whether the exporter could read store and broker."
    return GaugeMetricFamily("coldfusion_up", help_text, value=float(is_up))


def repository_metrics(
    *,
    base_version: int,
    sequence: int,
    num_pending: int,
    num_open_submissions: int,
    num_wanted_evaluations: int,
    gate: GateReport | None,
    is_candidate_waiting: bool,
    queue_lengths: Mapping[str, int],
    taken_tasks: Mapping[tuple[str, str], int],
    pool_work: Mapping[tuple[str, str], int],
) -> Iterable[GaugeMetricFamily]:
    """Gauges of the exporter, made anew at each scrape from the store and the broker.

    Queues are named by their name, and workers by their queue and their pool.
    """
    yield GaugeMetricFamily(
        "coldfusion_base_version", "Newest published base version.", value=base_version
    )
    yield GaugeMetricFamily(
        "coldfusion_ledger_sequence", "Sequence number of the newest ledger entry.", value=sequence
    )
    yield GaugeMetricFamily(
        "coldfusion_pending_contributions", "Markers in the inbox.", value=num_pending
    )
    yield GaugeMetricFamily(
        "coldfusion_open_submissions", "Submissions with turns left.", value=num_open_submissions
    )
    yield GaugeMetricFamily(
        "coldfusion_wanted_evaluations",
        "Evaluations that are asked for and not done.",
        value=num_wanted_evaluations,
    )
    yield GaugeMetricFamily(
        "coldfusion_candidate_waiting",
        "1 while a fused model waits for the gate.",
        value=float(is_candidate_waiting),
    )
    scores = GaugeMetricFamily(
        "coldfusion_gate_score",
        "Score of the published base version by the gate, of each gate dataset.",
        labels=["dataset"],
    )
    for name, score in sorted(gate.scores.items() if gate else ()):
        scores.add_metric([name], score)
    yield scores
    queues = GaugeMetricFamily(
        "coldfusion_queue_length", "Messages waiting in a queue.", labels=["queue"]
    )
    for name, length in sorted(queue_lengths.items()):
        queues.add_metric([name], length)
    yield queues
    yield _of_pools(
        "coldfusion_taken_tasks",
        "Messages that workers took and have not acknowledged.",
        taken_tasks,
    )
    yield _of_pools(
        "coldfusion_pool_work",
        "Messages that wait in a pool's queue, and those that its workers have.",
        pool_work,
    )


def _of_pools(name: str, text: str, numbers: Mapping[tuple[str, str], int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=["queue", "pool"])
    for labels, number in sorted(numbers.items()):
        family.add_metric(labels, number)
    return family
