"""One delivery of a finetune task: take the lease, run the turn, and end it in order.

However a turn ends, one of these is true when its message is acknowledged: the contribution is
committed; the failure is recorded; the turn is queued again; another worker holds its lease; or
it is left to ``reconcile``, which finds it in the bucket's records.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass

from celery.exceptions import SoftTimeLimitExceeded

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import (
    BrokerUnavailableError,
    ColdFusionError,
    DeviceLostError,
    RetryableError,
    TrainingFailedError,
)
from coldfusion_queue.metrics import RequeueReason
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue.leases import Lease
from coldfusion_queue.queue.process import Process
from coldfusion_queue.queue.reporting import LeaseLostError, TurnCancelledError, TurnReporter
from coldfusion_queue.queue.retrying import RETRIED, backoff_seconds
from coldfusion_queue.queue.stopping import is_closing, is_stopping, stop_this_worker
from coldfusion_queue.records import Submission
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.residuals import Residuals
from coldfusion_queue.sites.labels import SiteLabels
from coldfusion_queue.tracing import span
from coldfusion_queue.turn import DeviceBusy, TurnInterrupted, run_turn

__all__ = ["TurnDelivery"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TurnDelivery:
    """A message that asks for one turn."""

    process: Process
    worker: str
    """Name of this worker: who holds the lease."""
    repository: str
    submission_id: str
    turn: int

    def handle(self) -> None:
        """Run the turn unless it is over or somebody else's, then send the next."""
        slot = self.process.slot
        name = contribution_id(self.submission_id, self.turn)
        device = self.process.metrics.device(self.repository)
        with slot.turn(f"{self.repository}.{name}", device) as is_ours:
            if not is_ours:
                self._log("turn_held", "this worker has this turn already")
                return
            self._handle()
            if slot.is_held:  # it ended in another way than by a contribution
                from coldfusion_queue.finetune.device import free_memory, pick_device

                with suppress(DeviceLostError, RuntimeError):  # the device may be broken
                    free_memory(pick_device(self.process.settings.device))

    def _handle(self) -> None:
        leases = self.process.leases(self.repository, self.worker)
        try:
            with leases.hold(contribution_id(self.submission_id, self.turn)) as lease:
                if not lease.is_held:
                    self._log("turn_held", "another worker has this turn")
                    return
                if lease.starts > 1:
                    self._count("worker_lost")
                reach(CrashPoint.TURN_LEASED)
                opened = Repository.open(self.process.settings, name=self.repository)
                submission = opened.submissions.find(self.submission_id)
                if submission is None:
                    self._log("turn_dropped", "submission unknown", level=logging.WARNING)
                    return
                if submission.site != self.process.settings.site:
                    # The lease ends, and reconcile sends it to where it belongs.
                    self._log("turn_misrouted", "turn of another site", level=logging.WARNING)
                    return
                if self._is_next(opened, submission):
                    self._run(opened, submission, lease)
            reach(CrashPoint.TURN_RELEASED)
            self._send_next(opened, submission)
        except TurnInterrupted as interruption:
            self._hand_back(interruption)
        except LeaseLostError:
            self._log("turn_superseded", "another worker took this turn over")
        except RETRIED as error:
            self._retry(error)
            if isinstance(error, DeviceLostError):
                self._log("device_lost", f"this worker ends: {error}", level=logging.ERROR)
                stop_this_worker()

    def _run(self, repository: Repository, submission: Submission, lease: Lease) -> None:
        """Run a turn; errors that may pass are raised, any other ends the submission."""
        self._log("turn_started", "turn started", starts=lease.starts)
        started = time.monotonic()
        ending = "killed"  # unless one of the other endings is reached
        try:
            self._refuse_deadly(lease)
            ending = self._finetune(repository, submission, lease)
        except TurnCancelledError:
            ending = "cancelled"
            self._log("turn_cancelled", "turn cancelled")
        except TurnInterrupted:
            ending = "interrupted"
            raise
        except LeaseLostError:
            ending = "superseded"
            raise
        except Exception as error:
            if self._is_superseded(lease):
                ending = "superseded"
                raise LeaseLostError from error
            if isinstance(error, RETRIED):
                ending = "retried"
                raise
            ending = "failed"
            self._fail(repository, submission, error)
        finally:
            seconds = time.monotonic() - started
            self.process.metrics.finetune_ended(self.repository, ending, seconds)

    def _finetune(self, repository: Repository, submission: Submission, lease: Lease) -> str:
        reporter = TurnReporter(
            self.process.client,
            repository,
            submission,
            self.turn,
            lease,
            self.worker,
            self.process.metrics,
        )
        settings, slot = self.process.settings, self.process.slot

        def should_stop() -> bool:
            return is_stopping() or (is_closing() and not slot.is_held)

        outcome = run_turn(
            *(repository, settings, submission, self.turn, reporter, should_stop), slot
        )
        ending = "committed" if outcome.committed else "duplicate"
        self._log(f"turn_{ending}", f"turn {ending}", base_version=outcome.base_version)
        return ending

    def _is_next(self, repository: Repository, submission: Submission) -> bool:
        return repository.submissions.status(submission).next_turn == self.turn

    def _is_superseded(self, lease: Lease) -> bool:
        """Whether another worker has this turn by now: our failure is not its end then.

        Asked anew, because a worker that slept for hours finds its time limit over when it wakes,
        before its next heartbeat.
        """
        leases = self.process.leases(self.repository, self.worker)
        leases.renew(contribution_id(self.submission_id, self.turn), lease)
        return not lease.is_held

    def _refuse_deadly(self, lease: Lease) -> None:
        losses, limit = lease.starts - 1, self.process.settings.task_max_worker_losses
        if losses > limit:
            raise TrainingFailedError(
                "this finetune",
                f"its worker died {losses} times in it, expected at most {limit}",
                "give the workers more memory, or ask for a smaller batch_size or max_length",
            )

    def _hand_back(self, interruption: TurnInterrupted) -> None:
        """Queue the turn again for any worker; without a broker ``reconcile`` does it."""
        is_passed_on = isinstance(interruption, DeviceBusy)
        with suppress(BrokerUnavailableError):
            # What ran here is of this worker's site.
            site, sender = self.process.settings.site, self.process.sender(self.repository)
            if sender.send_again(self.submission_id, self.turn, site):
                self._count("passed_on" if is_passed_on else "interrupted")
        reach(CrashPoint.TURN_HANDED_BACK)
        steps = {"step": interruption.step, "num_steps": interruption.num_steps}
        if is_passed_on:
            self._log("turn_passed_on", "turn passed on, the device is not free yet", **steps)
        else:
            self._log("turn_interrupted", "turn interrupted, its worker is told to stop", **steps)

    def _retry(self, error: ColdFusionError) -> None:
        """Put the turn off, longer each time; after the last retry give it up.

        Not by Celery's own retry: its message names a time, which is compared with the clock of
        whichever worker gets it.
        """
        sender = self.process.sender(self.repository)
        retry = 1
        with suppress(BrokerUnavailableError):
            retry = sender.count_retry(self.submission_id, self.turn)
        if retry > self.process.settings.task_max_retries:
            self._give_up(error)
            return
        with suppress(BrokerUnavailableError):
            sender.put_off(self.submission_id, self.turn, backoff_seconds(retry))
            self._count("retried")
        message = f"turn will be retried: {error}"
        self._log("turn_retried", message, level=logging.WARNING, retry=retry)

    def _give_up(self, error: ColdFusionError) -> None:
        """Record a failure, if the store lets us and the turn is not done meanwhile.

        If the store does not, the turn is simply forgotten: ``reconcile`` finds it in the bucket's
        records and sends it again when the store is back.
        """
        with suppress(BrokerUnavailableError):
            self.process.sender(self.repository).forget_retries(self.submission_id, self.turn)
        try:
            opened = Repository.open(self.process.settings, name=self.repository)
            if self._is_next(opened, opened.submissions.get(self.submission_id)):
                opened.submissions.fail(self.submission_id, self.turn, error)
                self._forget()
                self._log("turn_failed", f"turn failed: {error}", level=logging.ERROR)
        except RetryableError:
            self._log("turn_given_up", f"turn given up for now: {error}", level=logging.ERROR)

    def _fail(self, repository: Repository, submission: Submission, error: Exception) -> None:
        """Record a failure, unless another worker has ended the turn meanwhile."""
        if isinstance(error, SoftTimeLimitExceeded):
            limit = self.process.settings.finetune_time_limit_seconds
            error = TrainingFailedError(
                "this finetune",
                f"it took longer than {limit} s",
                "ask for fewer epochs or max_examples, or raise "
                "COLDFUSION_FINETUNE_TIME_LIMIT_SECONDS",
            )
        # The traceback stays in this worker's log; at a site it is an outline even there.
        extra = {"event": "turn_failed", "submission": self.submission_id, "turn": self.turn}
        log.error("turn failed", exc_info=error, extra=extra)
        if self._is_next(repository, submission):
            repository.submissions.fail(self.submission_id, self.turn, error)

    def _send_next(self, repository: Repository, submission: Submission) -> None:
        """Send the next turn, or close a submission that has none left.

        This turn is over, so what goes wrong here is not its failure: ``reconcile`` makes it good.
        """
        try:
            status = repository.submissions.status(submission)
            if status.next_turn is not None:
                sender = self.process.sender(self.repository)
                # Of its own: a contributor that goes on for ever would be one trace without end.
                with span("next turn", is_root=True):
                    sender.send(self.submission_id, status.next_turn, submission.site)
                return
            repository.submissions.close(self.submission_id)
            self._forget()
            reach(CrashPoint.SUBMISSION_CLOSED)
        except RetryableError as error:
            self._log("next_turn_put_off", f"left to reconcile: {error}", level=logging.WARNING)

    def _forget(self) -> None:
        """Delete what this machine remembers of a submission that is over."""
        Residuals(self.process.settings.residuals_dir).forget(self.submission_id)
        SiteLabels(self.process.settings.site_labels_dir).forget(self.submission_id)

    def _count(self, reason: RequeueReason) -> None:
        self.process.metrics.requeued(self.repository, "finetune", reason)

    def _log(
        self, event: str, message: str, *, level: int = logging.INFO, **numbers: object
    ) -> None:
        ids = {"submission": self.submission_id, "turn": self.turn}
        log.log(level, "%s", message, extra={"event": event, **ids, **numbers})
