"""What a running turn tells, and what ends it from outside: a cancellation, a lost lease."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import redis

from coldfusion_queue.errors import RetryableError
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.metrics import TaskMetrics
from coldfusion_queue.queue.leases import Lease
from coldfusion_queue.queue.progress import ProgressReport, write_progress
from coldfusion_queue.records import Submission
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.turn import Phase

if TYPE_CHECKING:
    from coldfusion_queue.finetune.progress import Progress

__all__ = ["LeaseLostError", "TurnCancelledError", "TurnReporter"]

_CANCEL_CHECK_SECONDS = 5.0


class TurnCancelledError(Exception):
    """The submission was cancelled while its turn ran."""


class LeaseLostError(Exception):
    """Another worker took the turn over, because this one seemed to be dead."""


class TurnReporter:
    """Passes progress on to Redis; called by the training loop, which it ends by raising.

    Args:
        client: where progress is written.
        repository: where a cancellation is looked for, every five seconds at most.
        submission: whose turn it is.
        turn: its number.
        lease: of this turn.
        worker: name of this worker, for people.
        metrics: count what was trained on.
    """

    def __init__(
        self,
        client: redis.Redis,
        repository: Repository,
        submission: Submission,
        turn: int,
        lease: Lease,
        worker: str,
        metrics: TaskMetrics,
    ) -> None:
        self._client = client
        self._repository = repository
        self._submission_id = submission.submission_id
        self._turn = turn
        self._lease = lease
        self._worker = worker
        self._metrics = metrics
        self._started = self._checked = time.monotonic()

    def __call__(self, phase: Phase, base_version: int, progress: Progress | None) -> None:
        """Write a report.

        Raises:
            LeaseLostError: the turn is another worker's by now.
            TurnCancelledError: nobody wants it any more.
        """
        if phase is Phase.RESUMING:
            self._metrics.resumed(self._repository.name)
        if progress is not None:
            self._metrics.trained(self._repository.name, progress)
        with suppress(redis.RedisError):  # for people only: a finetune goes on without it
            report = self._report(phase, base_version, progress)
            write_progress(self._client, RedisKeys(self._repository.name), report)
        if not self._lease.is_held:
            raise LeaseLostError
        if time.monotonic() - self._checked >= _CANCEL_CHECK_SECONDS:
            self._checked = time.monotonic()
            if self._is_cancelled():
                raise TurnCancelledError

    def _is_cancelled(self) -> bool:
        try:
            return self._repository.submissions.is_cancelled(self._submission_id)
        except RetryableError:  # a store that is away for a while stops no training
            return False

    def _report(self, phase: Phase, base_version: int, progress: Progress | None) -> ProgressReport:
        return ProgressReport(
            submission_id=self._submission_id,
            turn=self._turn,
            base_version=base_version,
            phase=phase,
            step=progress.step if progress else 0,
            num_steps=progress.num_steps if progress else 0,
            loss=progress.loss if progress else None,
            examples_per_second=progress.examples_per_second if progress else None,
            tokens_per_second=progress.tokens_per_second if progress else None,
            memory_bytes=progress.memory_bytes if progress else None,
            seconds=round(time.monotonic() - self._started, 1),
            worker=self._worker,
        )
