"""The Celery tasks: they read their arguments, call the library and map errors.

Arguments are a few names; everything else is looked up in the object store when the task runs, so
a message that waited for days still does the right thing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from celery import Task, shared_task

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import (
    BrokerUnavailableError,
    ColdFusionError,
    LedgerConflictError,
    NotFoundError,
    RetryableError,
    TrainingFailedError,
)
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.outlines import outline
from coldfusion_queue.queue.connection import broker_errors
from coldfusion_queue.queue.evaluations import EvaluationDelivery
from coldfusion_queue.queue.lock import single_flight
from coldfusion_queue.queue.process import Process, this_process
from coldfusion_queue.queue.sending import Look
from coldfusion_queue.queue.sharing import help_with
from coldfusion_queue.queue.turns import TurnDelivery
from coldfusion_queue.repository import collecting
from coldfusion_queue.repository.fusing import FusionReport, fuse_once
from coldfusion_queue.repository.fusion_job import ContributionFault, FusionJob
from coldfusion_queue.repository.repository import Repository

__all__ = ["collect_garbage", "evaluate", "finetune", "fuse", "help_fusion", "reconcile"]

log = logging.getLogger(__name__)


@shared_task(name="coldfusion.finetune", bind=True)
def finetune(self: Task, repository: str, submission_id: str, turn: int) -> None:
    """Run one turn of a submission and send the next.

    Idempotent: a turn that is committed, cancelled or failed is not run again, but the next one
    is sent if it is due, so a delivery that died after its commit is made good. A turn that
    another worker runs is left to it.
    Timeout: ``finetune_time_limit_seconds``; the submission fails then.
    """
    process, worker = this_process(), str(self.request.hostname or "unknown")
    delivery = TurnDelivery(process, worker, repository, submission_id, turn)
    if process.settings.site is None:
        delivery.handle()
    else:
        _handle_at_site(delivery)


def _handle_at_site(delivery: TurnDelivery) -> None:
    """What a delivery raises, Celery logs and publishes with its text: here that is an outline."""
    problem = ""
    try:
        delivery.handle()
    except Exception as error:
        problem = outline(error)
    if problem:  # only now, so that the error is not the context of this one
        raise TrainingFailedError(
            "a turn at this site", problem, "report it; reconcile sends it again"
        )


@shared_task(name="coldfusion.evaluate", bind=True)
def evaluate(self: Task, repository: str, evaluation_id: str) -> None:
    """Do an evaluation that is wanted; see ``evaluating``.

    Idempotent: one that is recorded, or not wanted any more, is left alone.
    Timeout: ``finetune_time_limit_seconds``; that is recorded as its failure.
    """
    worker = str(self.request.hostname or "unknown")
    EvaluationDelivery(this_process(), worker, repository, evaluation_id).handle()


@shared_task(name="coldfusion.fuse")
def fuse(repository: str) -> None:
    """Look at the inbox and fuse what is due; see ``repository.fusing``.

    Idempotent: see ``fuse_once``. An error that may pass is left to the next call of beat.
    Timeout: ``fusion_time_limit_seconds``.
    Writes: ``coldfusion:<repository>:fusion-lock``.
    """
    process = this_process()
    with _left_to_beat("fusion_idle", "fusion_postponed"):
        opened = Repository.open(process.settings, name=repository)
        with _alone(process, RedisKeys(repository).fusion_lock) as is_free:
            if is_free:
                reach(CrashPoint.FUSE_LOCKED)
                started = time.monotonic()
                try:
                    report = _fuse(process, opened)
                except LedgerConflictError as error:
                    log.info("%s", error, extra={"event": "fusion_lost"})
                else:
                    _log_fusion(report, time.monotonic() - started)


def _fuse(process: Process, opened: Repository) -> FusionReport:
    crew = process.crew(opened.name)
    with process.fusions.measure(opened.name) as fusion:
        report = fuse_once(opened, process.settings, crew=crew, meter=fusion.meter)
        fusion.outcome = "candidate" if report.entry is None else "committed"
        _send_wanted(process, opened.name, report)
    return report


@shared_task(name="coldfusion.help_fusion")
def help_fusion(repository: str, attempt: str, step: int) -> None:
    """Do pieces of a fusion that another worker runs; see ``queue.sharing``.

    Idempotent: what is done already is not done again; a fusion that is over is left alone.
    Timeout: ``fusion_time_limit_seconds``.
    Writes: ``fusions/<attempt>/``, ``base/<attempt>/``, ``coldfusion:<repository>:piece:...``.
    """
    process = this_process()
    ids = {"event": "fusion_helped", "attempt": attempt, "step": step}
    try:
        opened = Repository.open(process.settings, name=repository)
        meter = process.fusions.meter(repository)
        job = FusionJob.planned(opened, process.settings, attempt, meter)
        num_done = 0
        if job is not None:
            num_done = help_with(process.client, process.settings, repository, job, step)
    except (ColdFusionError, ContributionFault) as error:
        # The fusion may be over, or the fault may be real: its own worker finds out.
        log.warning("left to the fusion's worker: %s", error, extra=ids)
    else:
        log.info("did %d pieces of a fusion", num_done, extra=ids | {"pieces": num_done})


@shared_task(name="coldfusion.reconcile")
def reconcile(repository: str) -> None:
    """Send what is neither queued nor running: next turns of open submissions, and evaluations.

    They have to be missing at two looks. What is found missing for the first time asks for the
    second look itself, so that a single call brings it back, beat or no beat.

    Idempotent: see ``TurnSender.send_missing``.
    Writes: deletes ``open/<submission_id>`` of submissions that have no turns left, and
    ``wanted/<evaluation_id>.json`` of evaluations that are done.
    """
    process = this_process()
    with _left_to_beat("reconcile_idle", "reconcile_postponed"):
        opened = Repository.open(process.settings, name=repository)
        for name in process.hints(repository).forget_lost():
            log.warning("message lost", extra={"event": "message_lost", "lost": name})
        looks = {*_send_missing_turns(process, opened), *_send_missing_evaluations(process, opened)}
        if Look.NOTED in looks:
            # A little more than ``send_missing`` asks for, or the second look comes too soon.
            countdown = 1.1 * process.settings.lease_seconds / 6
            with broker_errors(process.settings):
                reconcile.apply_async((repository,), countdown=countdown, retry=False)


def _send_missing_turns(process: Process, opened: Repository) -> Iterator[Look]:
    """Look for the next turn of each open submission."""
    sender = process.sender(opened.name)
    # What is about already costs no request to the store.
    about = process.hints(opened.name).submissions()
    for status in opened.submissions.open(tidy=True, skip=about):
        if status.next_turn is not None:
            name = status.submission.submission_id
            look = sender.send_missing(name, status.next_turn, status.submission.site)
            if look.is_sent:
                log.info("turn sent again", extra={"event": "turn_resent", "submission": name})
            if look is Look.SENT:
                process.metrics.requeued(opened.name, "finetune", "missing")
            yield look


def _send_missing_evaluations(process: Process, opened: Repository) -> Iterator[Look]:
    """Look for each evaluation that is wanted."""
    sender = process.evaluation_sender(opened.name)
    about = process.hints(opened.name).about()
    for name in opened.evaluations.wanted():
        if name not in about and not opened.evaluations.is_done(name):
            look = sender.send_missing(name)
            if look.is_sent:
                extra = {"event": "evaluation_resent", "evaluation": name}
                log.info("evaluation sent again", extra=extra)
            if look is Look.SENT:
                process.metrics.requeued(opened.name, "evaluate", "missing")
            yield look


@shared_task(name="coldfusion.collect_garbage")
def collect_garbage(repository: str) -> None:
    """Delete what no record needs any more; see ``repository.collecting``.

    Idempotent: see ``repository.collecting``.
    Timeout: ``fusion_time_limit_seconds``.
    Writes: ``coldfusion:<repository>:garbage-lock``, ``coldfusion:<repository>:stored``.
    """
    process = this_process()
    with _left_to_beat("garbage_idle", "garbage_postponed"):
        opened = Repository.open(process.settings, name=repository)
        with _alone(process, RedisKeys(repository).garbage_lock) as is_free:
            if is_free:
                _collect(process, opened)


def _collect(process: Process, opened: Repository) -> None:
    found = collecting.settled_plan(opened, process.settings.gc_grace_seconds)
    done = collecting.collect(opened, found)
    num_bytes = sum(item.num_bytes for item in done)
    process.fusions.collected(opened.name, num_bytes)
    extra = {"event": "collection_ended", "bytes": num_bytes}
    log.info("%d items of garbage collected", len(done), extra=extra)
    stored = json.dumps(found.left_after(done).as_data())
    with broker_errors(process.settings):
        process.client.set(RedisKeys(opened.name).stored, stored)


@contextmanager
def _alone(process: Process, key: str) -> Iterator[bool]:
    """Hold a lock if it is free; yields whether it was."""
    lock = single_flight(process.client, key, process.settings.fusion_lock_seconds)
    with ExitStack() as stack:
        with broker_errors(process.settings):
            is_free = stack.enter_context(lock)
        yield is_free


@contextmanager
def _left_to_beat(idle: str, postponed: str) -> Iterator[None]:
    """An error that may pass is logged, no more: beat's next message is the retry.

    Args:
        idle: event for a repository that is not there yet.
        postponed: event for a store or broker that is away.
    """
    try:
        yield
    except NotFoundError as error:
        log.info("nothing to do: %s", error, extra={"event": idle})
    except RetryableError as error:
        log.warning("put off: %s", error, extra={"event": postponed})


def _send_wanted(process: Process, repository: str, report: FusionReport) -> None:
    """Send what the gate waits for; without a broker ``reconcile`` does it."""
    sender = process.evaluation_sender(repository)
    with suppress(BrokerUnavailableError):
        for request in report.wanted:
            sender.send(request.evaluation_id)


def _log_fusion(report: FusionReport, seconds: float) -> None:
    if report.entry is None:
        waits = {"candidate": report.candidate is not None, "pending": report.num_pending}
        log.debug("no fusion due", extra={"event": "fusion_idle", **waits})
        return
    log.info(
        "%s",
        report.entry.note,
        extra={
            "event": "fusion_withheld" if report.entry.withheld else "fusion_committed",
            "sequence": report.entry.sequence,
            "base_version": report.entry.after.base.version,
            "seconds": round(seconds, 3),
        },
    )
