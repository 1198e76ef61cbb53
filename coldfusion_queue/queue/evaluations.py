"""One delivery of an evaluation task: take the lease, measure, and end it in order.

However it ends, one of these is true when its message is acknowledged: what was found, or why it
cannot be done, is recorded; it is queued again; another worker holds its lease; or it is left to
``reconcile``, which finds the request in the bucket.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass

from celery.exceptions import SoftTimeLimitExceeded

from coldfusion_queue.errors import (
    BrokerUnavailableError,
    ColdFusionError,
    DeviceLostError,
    IncompatibleModelError,
    InvalidDatasetError,
    InvalidRecordError,
    NotFoundError,
    TrainingFailedError,
    UnusableModelError,
    UsageError,
)
from coldfusion_queue.evaluating import (
    EvaluationInterrupted,
    EvaluationObsolete,
    record_failure,
    run_evaluation,
)
from coldfusion_queue.metrics import RequeueReason
from coldfusion_queue.queue.leases import Lease
from coldfusion_queue.queue.process import Process
from coldfusion_queue.queue.retrying import RETRIED, backoff_seconds
from coldfusion_queue.queue.stopping import is_stopping, stop_this_worker
from coldfusion_queue.records import EvaluationRequest
from coldfusion_queue.repository.repository import Repository

__all__ = ["EvaluationDelivery"]

log = logging.getLogger(__name__)

#: What follows from the model and the data, or was tried often enough; it is recorded at once.
_FINAL = (
    IncompatibleModelError,
    InvalidDatasetError,
    InvalidRecordError,
    NotFoundError,
    SoftTimeLimitExceeded,
    TrainingFailedError,
    UnusableModelError,
    UsageError,
)


class _PutOff(Exception):  # noqa: N818 - it is tried again
    """An evaluation is to be tried once more, for the time of this number."""

    def __init__(self, retry: int) -> None:
        super().__init__(retry)
        self.retry = retry


@dataclass(frozen=True)
class EvaluationDelivery:
    """A message that asks for one evaluation."""

    process: Process
    worker: str
    """Name of this worker: who holds the lease."""
    repository: str
    evaluation_id: str

    def handle(self) -> None:
        """Do the evaluation unless it is done or another worker's."""
        leases = self.process.leases(self.repository, self.worker)
        try:
            with leases.hold(self.evaluation_id) as lease:
                if not lease.is_held:
                    self._log("evaluation_held", "another worker has this evaluation")
                    return
                if lease.starts > 1:
                    self._count("worker_lost")
                self._evaluate(lease)
        except EvaluationInterrupted:
            self._log("evaluation_interrupted", "its worker is told to stop")
            with suppress(BrokerUnavailableError):
                sender = self.process.evaluation_sender(self.repository)
                if sender.send_again(self.evaluation_id):
                    self._count("interrupted")
        except _PutOff as put_off:  # only now: as long as the lease is held it cannot be
            self._put_off(put_off.retry)
        except RETRIED as error:
            self._retry(error)
            if isinstance(error, DeviceLostError):
                self._log("device_lost", f"this worker ends: {error}", level=logging.ERROR)
                stop_this_worker()

    def _evaluate(self, lease: Lease) -> None:
        opened = Repository.open(self.process.settings, name=self.repository)
        request = opened.evaluations.request(self.evaluation_id)
        if request is None:
            self._log("evaluation_dropped", "nobody wants this evaluation any more")
            return
        started, ending = time.monotonic(), "interrupted"
        try:
            self._refuse_deadly(lease)
            is_first = run_evaluation(opened, self.process.settings, request, is_stopping)
            ending = "recorded" if is_first else "duplicate"
        except EvaluationObsolete as error:
            ending = "dropped"
            self._log("evaluation_obsolete", f"nobody can do it any more: {error}")
        except EvaluationInterrupted:
            raise
        except RETRIED:
            ending = "retried"
            raise
        except Exception as error:
            retry = 0 if isinstance(error, _FINAL) else self._count_retry(error)
            if 0 < retry <= self.process.settings.task_max_retries:
                ending = "retried"
                raise _PutOff(retry) from error
            ending = "failed"
            self._fail(opened, request, error, time.monotonic() - started)
        finally:
            seconds = time.monotonic() - started
            kind = request.spec.kind
            self.process.metrics.evaluation_ended(self.repository, ending, kind, seconds)
            self._log(f"evaluation_{ending}", f"evaluation {ending}", seconds=round(seconds, 3))

    def _count_retry(self, error: Exception) -> int:
        """What may be this worker's fault is tried again, and is a failure after the last retry."""
        extra = {"event": "evaluation_retried", "evaluation": self.evaluation_id}
        log.warning("evaluation went wrong", exc_info=error, extra=extra)
        with suppress(BrokerUnavailableError):
            return self.process.evaluation_sender(self.repository).count_retry(self.evaluation_id)
        return 1

    def _refuse_deadly(self, lease: Lease) -> None:
        losses, limit = lease.starts - 1, self.process.settings.task_max_worker_losses
        if losses > limit:
            raise TrainingFailedError(
                "this evaluation",
                f"its worker died {losses} times in it, expected at most {limit}",
                "give the workers more memory, or ask for a smaller batch_size or max_length",
            )

    def _fail(
        self, repository: Repository, request: EvaluationRequest, error: Exception, seconds: float
    ) -> None:
        if isinstance(error, SoftTimeLimitExceeded):
            limit = self.process.settings.finetune_time_limit_seconds
            error = TrainingFailedError(
                "this evaluation",
                f"it took longer than {limit} s",
                "ask for fewer epochs or max_examples, or raise "
                "COLDFUSION_FINETUNE_TIME_LIMIT_SECONDS",
            )
        extra = {"event": "evaluation_failed", "evaluation": self.evaluation_id}
        log.error("evaluation failed", exc_info=error, extra=extra)
        record_failure(repository, request, error, seconds)
        with suppress(BrokerUnavailableError):
            self.process.evaluation_sender(self.repository).forget_retries(self.evaluation_id)

    def _put_off(self, retry: int) -> None:
        with suppress(BrokerUnavailableError):
            sender = self.process.evaluation_sender(self.repository)
            sender.put_off(self.evaluation_id, backoff_seconds(retry))
            self._count("retried")

    def _retry(self, error: ColdFusionError) -> None:
        """Put it off, longer each time; after the last retry it is left to ``reconcile``."""
        sender = self.process.evaluation_sender(self.repository)
        retry = 1
        with suppress(BrokerUnavailableError):
            retry = sender.count_retry(self.evaluation_id)
            if retry > self.process.settings.task_max_retries:
                sender.forget_retries(self.evaluation_id)
            else:
                self._put_off(retry)
        message = f"evaluation will be retried: {error}"
        self._log("evaluation_retried", message, level=logging.WARNING, retry=retry)

    def _count(self, reason: RequeueReason) -> None:
        self.process.metrics.requeued(self.repository, "evaluate", reason)

    def _log(
        self, event: str, message: str, *, level: int = logging.INFO, **numbers: object
    ) -> None:
        ids = {"event": event, "evaluation": self.evaluation_id}
        log.log(level, "%s", message, extra={**ids, **numbers})
