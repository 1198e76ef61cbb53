"""The Celery tasks: they read their arguments, call the library and map errors.

Arguments are a few names; everything else is looked up in the object store when the task runs, so
a message that waited for days still does the right thing.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis
from celery import Task, current_app, current_task, shared_task
from celery.exceptions import SoftTimeLimitExceeded

from coldfusion_queue.errors import (
    ColdFusionError,
    DiskFullError,
    LedgerConflictError,
    NotFoundError,
    RetryableError,
    TrainingFailedError,
)
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.metrics import TaskMetrics
from coldfusion_queue.queue.connection import broker_errors, connect_redis
from coldfusion_queue.queue.lock import single_flight
from coldfusion_queue.queue.progress import ProgressReport, write_progress
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.records import Submission
from coldfusion_queue.repository.fusing import FusionReport, fuse_once
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings, load_settings
from coldfusion_queue.turn import Phase, run_turn

if TYPE_CHECKING:
    from coldfusion_queue.finetune.training import Progress

__all__ = ["finetune", "fuse", "reconcile"]

log = logging.getLogger(__name__)

#: A full disk is this machine's; another worker may have room.
_RETRIED = (RetryableError, DiskFullError)

_CANCEL_CHECK_SECONDS = 5.0
_MAX_BACKOFF_SECONDS = 300.0


@dataclass(frozen=True)
class _Process:
    """What the tasks of one process share; made after the fork."""

    settings: Settings
    client: redis.Redis
    metrics: TaskMetrics

    def sender(self, repository: str) -> TurnSender:
        return TurnSender(current_app, self.client, self.settings, repository)


@functools.cache
def _process() -> _Process:
    settings = load_settings()
    return _Process(settings, connect_redis(settings), TaskMetrics())


@shared_task(name="coldfusion.finetune", bind=True)
def finetune(self: Task, repository: str, submission_id: str, turn: int) -> None:
    """Run one turn of a submission and send the next.

    Idempotent: a turn that is committed, cancelled or failed is not run again, but the next one
    is sent if it is due, so a delivery that died after its commit is made good.
    Timeout: ``finetune_time_limit_seconds``; the submission fails then.
    """
    process = _process()
    sender = process.sender(repository)
    try:
        with sender.running(submission_id, turn):
            opened = Repository.open(process.settings, name=repository)
            submission = opened.submissions.find(submission_id)
            if submission is None:
                ids = {"submission": submission_id, "turn": turn}
                log.warning("submission unknown", extra={"event": "turn_dropped", **ids})
                return
            if opened.submissions.status(submission).next_turn == turn:
                _run(process, opened, submission, turn)
        _send_next(sender, opened, submission)
    except _RETRIED as error:
        _retry(self, process, repository, submission_id, turn, error)


def _run(process: _Process, repository: Repository, submission: Submission, turn: int) -> None:
    """Run a turn; an error that may pass is raised, any other ends the submission."""
    ids: dict[str, object] = {"submission": submission.submission_id, "turn": turn}
    log.info("turn started", extra={"event": "turn_started", **ids})
    reporter = _Reporter(process, repository, submission, turn)
    started = time.monotonic()
    try:
        outcome = run_turn(repository, process.settings, submission, turn, reporter)
    except _CancelledError:
        log.info("turn cancelled", extra={"event": "turn_cancelled", **ids})
        process.metrics.finetune_ended("cancelled", time.monotonic() - started)
    except _RETRIED:
        process.metrics.finetune_ended("retried", time.monotonic() - started)
        raise
    except Exception as error:
        process.metrics.finetune_ended("failed", time.monotonic() - started)
        _fail(process, repository, submission, turn, error)
    else:
        ending = "committed" if outcome.committed else "duplicate"
        process.metrics.finetune_ended(ending, time.monotonic() - started)
        ids["base_version"] = outcome.base_version
        log.info("turn %s", ending, extra={"event": f"turn_{ending}", **ids})


def _retry(
    task: Task,
    process: _Process,
    repository: str,
    submission_id: str,
    turn: int,
    error: ColdFusionError,
) -> None:
    """Retry with backoff; after the last attempt record the failure, if the store lets us.

    If it does not, the turn is simply forgotten: ``reconcile`` finds it in the bucket's records
    and sends it again when the store is back.
    """
    ids = {"submission": submission_id, "turn": turn}
    attempt = task.request.retries
    if attempt < process.settings.task_max_retries:
        backoff = min(_MAX_BACKOFF_SECONDS, 2.0**attempt)
        countdown = backoff * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret
        log.warning("turn will be retried: %s", error, extra={"event": "turn_retried", **ids})
        with suppress(RetryableError):
            process.sender(repository).keep(submission_id, turn)
        raise task.retry(exc=error, countdown=countdown, max_retries=None)
    try:
        opened = Repository.open(process.settings, name=repository)
        opened.submissions.fail(submission_id, turn, error)
        log.error("turn failed: %s", error, extra={"event": "turn_failed", **ids})
    except RetryableError:
        log.error("turn given up for now: %s", error, extra={"event": "turn_given_up", **ids})


def _fail(
    process: _Process, repository: Repository, submission: Submission, turn: int, error: Exception
) -> None:
    if isinstance(error, SoftTimeLimitExceeded):
        limit = process.settings.finetune_time_limit_seconds
        error = TrainingFailedError(
            "this finetune",
            f"it took longer than {limit} s",
            "ask for fewer epochs or max_examples, or raise COLDFUSION_FINETUNE_TIME_LIMIT_SECONDS",
        )
    ids = {"submission": submission.submission_id, "turn": turn}
    # The traceback stays in this worker's log, which is on the side of the data.
    log.error("turn failed", exc_info=error, extra={"event": "turn_failed", **ids})
    repository.submissions.fail(submission.submission_id, turn, error)


def _send_next(sender: TurnSender, repository: Repository, submission: Submission) -> None:
    status = repository.submissions.status(submission)
    if status.next_turn is not None:
        sender.send(submission.submission_id, status.next_turn)
    else:
        repository.submissions.close(submission.submission_id)


class _CancelledError(Exception):
    """The submission was cancelled while its turn ran."""


class _Reporter:
    """Passes progress on to Redis and looks for a cancellation now and then."""

    def __init__(
        self, process: _Process, repository: Repository, submission: Submission, turn: int
    ) -> None:
        self._process = process
        self._repository = repository
        self._submission = submission
        self._turn = turn
        self._checked = time.monotonic()

    def __call__(self, phase: Phase, base_version: int, progress: Progress | None) -> None:
        name = self._submission.submission_id
        report = ProgressReport(
            submission_id=name,
            turn=self._turn,
            base_version=base_version,
            phase=phase,
            step=progress.step if progress else 0,
            num_steps=progress.num_steps if progress else 0,
            loss=progress.loss if progress else None,
            examples_per_second=progress.examples_per_second if progress else None,
            worker=current_task.request.hostname or "unknown",
        )
        with suppress(redis.RedisError):  # for people only: a finetune goes on without it
            write_progress(self._process.client, RedisKeys(self._repository.name), report)
        if time.monotonic() - self._checked >= _CANCEL_CHECK_SECONDS:
            self._checked = time.monotonic()
            if self._repository.submissions.is_cancelled(name):
                raise _CancelledError


@shared_task(name="coldfusion.fuse")
def fuse(repository: str) -> None:
    """Look at the inbox and fuse what is due; see ``repository.fusing``.

    Idempotent: see ``fuse_once``. An error that may pass is left to the next call of beat.
    Timeout: ``fusion_time_limit_seconds``.
    Writes: ``coldfusion:<repository>:fusion-lock``.
    """
    process = _process()
    settings = process.settings
    try:
        opened = Repository.open(settings, name=repository)
        with ExitStack() as stack:
            key = RedisKeys(repository).fusion_lock
            lock = single_flight(process.client, key, settings.fusion_lock_seconds)
            with broker_errors(settings):
                is_free = stack.enter_context(lock)
            if is_free:
                started = time.monotonic()
                report = fuse_once(opened, settings)
                _log_fusion(process, report, time.monotonic() - started)
    except NotFoundError as error:
        log.info("nothing to fuse: %s", error, extra={"event": "fusion_idle"})
    except LedgerConflictError as error:
        log.info("%s", error, extra={"event": "fusion_lost"})
    except RetryableError as error:
        log.warning("fusion postponed: %s", error, extra={"event": "fusion_postponed"})


def _log_fusion(process: _Process, report: FusionReport, seconds: float) -> None:
    if report.entry is None:
        log.debug("no fusion due", extra={"event": "fusion_idle", "pending": report.num_pending})
        return
    process.metrics.fusion_ended(report.decisions, seconds)
    log.info(
        "%s",
        report.entry.note,
        extra={
            "event": "fusion_committed",
            "sequence": report.entry.sequence,
            "base_version": report.entry.after.base.version,
            "seconds": round(seconds, 3),
        },
    )


@shared_task(name="coldfusion.reconcile")
def reconcile(repository: str) -> None:
    """Send the next turn of every open submission that is queued nowhere.

    Idempotent: see ``TurnSender.send``.
    """
    process = _process()
    try:
        opened = Repository.open(process.settings, name=repository)
        for status in opened.submissions.open(tidy=True):
            if status.next_turn is not None:
                name = status.submission.submission_id
                if process.sender(repository).send(name, status.next_turn):
                    log.info("turn sent again", extra={"event": "turn_resent", "submission": name})
    except NotFoundError as error:
        log.info("nothing to reconcile: %s", error, extra={"event": "reconcile_idle"})
    except RetryableError as error:
        log.warning("reconcile postponed: %s", error, extra={"event": "reconcile_postponed"})
