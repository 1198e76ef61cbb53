"""What the tasks of one worker process count, of turns and of evaluations."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.registry import REGISTRY

from coldfusion_queue.metrics import catalogue
from coldfusion_queue.records.evaluations import EvaluationKind

if TYPE_CHECKING:
    from coldfusion_queue.finetune.progress import Progress

__all__ = [
    "DeviceMetrics",
    "RequeueReason",
    "TaskMetrics",
    "TaskName",
]

TaskName = Literal["finetune", "evaluate"]
RequeueReason = Literal["interrupted", "passed_on", "retried", "worker_lost", "missing"]

#: What workers of a queue count, a site's as everybody's.
_REQUEUES: Mapping[str, Sequence[tuple[TaskName, RequeueReason]]] = {
    "finetune": [
        ("finetune", "interrupted"),
        ("finetune", "passed_on"),
        ("finetune", "retried"),
        ("finetune", "worker_lost"),
    ],
    "evaluate": [
        ("evaluate", "interrupted"),
        ("evaluate", "retried"),
        ("evaluate", "worker_lost"),
    ],
    "fusion": [("finetune", "missing"), ("evaluate", "missing")],
}
_FINETUNE_OUTCOMES = (
    "committed",
    "duplicate",
    "retried",
    "failed",
    "cancelled",
    "interrupted",
    "superseded",
    "killed",
)
_EVALUATION_OUTCOMES = ("recorded", "duplicate", "failed", "interrupted", "retried", "dropped")


class DeviceMetrics:
    """What the turns of one repository do with the device; see ``queue.slots.DeviceWatch``.

    Series begin with the first turn that trains: a message may name a repository that is none.
    """

    def __init__(self, turn_started: Gauge, device_busy: Counter, labels: tuple[str, str]) -> None:
        self._turn_started = turn_started
        self._device_busy = device_busy
        self._labels = labels

    def taken(self) -> None:
        """Note that a turn trains from now on."""
        self._turn_started.labels(*self._labels).set(time.time())
        self._device_busy.labels(*self._labels)  # 0, of which an increase is seen

    def was_busy(self, seconds: float) -> None:
        """Count time for which a turn had the device."""
        self._device_busy.labels(*self._labels).inc(seconds)

    def left(self) -> None:
        """Note that no turn trains."""
        self._turn_started.labels(*self._labels).set(0)


class TaskMetrics:
    """Counts by the repository that a task is for, which is its argument.

    Args:
        registry: where it is registered; once in a process.
        site: of this worker.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, site: str | None = None) -> None:
        self._site = site or ""
        self._finetunes = catalogue.FINETUNES.counter(registry)
        self._finetune_duration = catalogue.FINETUNE_DURATION.histogram(registry)
        self._examples = catalogue.TRAINED_EXAMPLES.counter(registry)
        self._tokens = catalogue.TRAINED_TOKENS.counter(registry)
        self._loss = catalogue.LOSS.gauge(registry)
        self._memory = catalogue.MEMORY.gauge(registry)
        self._turn_started = catalogue.TURN_STARTED.gauge(registry)
        self._turn_reported = catalogue.TURN_REPORTED.gauge(registry)
        self._turn_progress = catalogue.TURN_PROGRESS.gauge(registry)
        self._device_busy = catalogue.DEVICE_BUSY.counter(registry)
        self._resumes = catalogue.RESUMES.counter(registry)
        self._requeues = catalogue.REQUEUES.counter(registry)
        self._evaluations = catalogue.EVALUATIONS.counter(registry)
        self._evaluation_duration = catalogue.EVALUATION_DURATION.histogram(registry)

    def finetune_ended(self, repository: str, outcome: str, seconds: float) -> None:
        """Count one finetune: outcome is how it ended, as in the log's events."""
        self._finetunes.labels(repository, self._site, outcome).inc()
        self._finetune_duration.labels(repository, self._site).observe(seconds)

    def trained(self, repository: str, progress: Progress) -> None:
        """Count what a finetune did since its last report."""
        labels = (repository, self._site)
        self._examples.labels(*labels).inc(progress.new_examples)
        self._tokens.labels(*labels).inc(progress.new_tokens)
        self._loss.labels(*labels).set(progress.loss)
        self._memory.labels(*labels).set(progress.memory_bytes)
        self._turn_reported.labels(*labels).set(time.time())
        self._turn_progress.labels(*labels).set(progress.step / max(1, progress.num_steps))

    def resumed(self, repository: str) -> None:
        """Count a turn that goes on from a checkpoint."""
        self._resumes.labels(repository, self._site).inc()

    def requeued(self, repository: str, task: TaskName, reason: RequeueReason) -> None:
        """Count a task that is put on its queue once more."""
        self._requeues.labels(repository, self._site, task, reason).inc()

    def device(self, repository: str) -> DeviceMetrics:
        """What a turn of a repository does with the device is counted there."""
        return DeviceMetrics(self._turn_started, self._device_busy, (repository, self._site))

    def begin(self, repository: str, queue: str) -> None:
        """Show as 0 what workers of a queue count: who asks for an increase sees no first 1 else.

        Idempotent.
        """
        kind = queue.partition(".")[0]  # without the site
        for task, reason in _REQUEUES[kind]:
            self._requeues.labels(repository, self._site, task, reason)
        if kind == "finetune":
            for outcome in _FINETUNE_OUTCOMES:
                self._finetunes.labels(repository, self._site, outcome)
            self._finetune_duration.labels(repository, self._site)
            for metric in (self._device_busy, self._resumes, self._examples, self._tokens):
                metric.labels(repository, self._site)
        elif kind == "evaluate":
            for outcome in _EVALUATION_OUTCOMES:
                self._evaluations.labels(repository, outcome)
            for evaluation in get_args(EvaluationKind):
                self._evaluation_duration.labels(repository, evaluation)

    def evaluation_ended(self, repository: str, outcome: str, kind: str, seconds: float) -> None:
        """Count one evaluation: outcome is how it ended, as in the log's events."""
        self._evaluations.labels(repository, outcome).inc()
        self._evaluation_duration.labels(repository, kind).observe(seconds)
