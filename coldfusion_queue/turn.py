"""One turn of a submission: base model down, finetune, contribution up, commit."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.device import Device, OwnDevice
from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import ColdFusionError
from coldfusion_queue.names import contribution_id
from coldfusion_queue.records import Submission
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn_attempt import TurnAttempt
from coldfusion_queue.turn_endings import (
    DeviceBusy,
    Phase,
    Report,
    TurnInterrupted,
    TurnOutcome,
    never_stop,
)
from coldfusion_queue.uploading import upload_and_commit

__all__ = ["DeviceBusy", "Phase", "TurnInterrupted", "TurnOutcome", "never_stop", "run_turn"]

log = logging.getLogger(__name__)


def run_turn(
    repository: Repository,
    settings: Settings,
    submission: Submission,
    turn: int,
    report: Report,
    should_stop: Callable[[], bool] = never_stop,
    device: Device | None = None,
) -> TurnOutcome:
    """Finetune a base version on a submission's dataset and commit the contribution.

    The base version is the newest one when the device is free, unless the submission names one; a
    turn that was interrupted goes on from its checkpoint and from the base version of that. A
    checkpoint that cannot be used is logged and passed over.

    Idempotent: a turn that is committed is left alone; of two attempts at once, one is committed
    and the other's files are deleted.
    Timeout: see ``uploading.upload_and_commit``.
    Writes: see ``repository.committing`` and ``repository.checkpoints``.

    Args:
        repository: where.
        settings: device, cache, form of the contribution.
        submission: what to finetune on.
        turn: which of its turns, from 1.
        report: told the phase, the base version and, while training, the progress; what it raises
            ends the turn before anything is committed.
        should_stop: asked before the download, before training and after each optimizer step, and
            not while the contribution is uploaded.
        device: waited for before training and given up after it; None is nobody else's. What
            raises leaves it held.

    Raises:
        TurnInterrupted: it was told to stop; its checkpoint is saved if the store let us.
        DeviceBusy: the device was not free for too long.
        ColdFusionError: of store, finetune or data; nothing is committed then.
    """
    name = contribution_id(submission.submission_id, turn)
    done = repository.contributions.find(name)
    if done is not None:
        _mark_head(repository, submission, name, done.base_version)
        _clean(repository, name)
        return TurnOutcome(name, committed=False, base_version=done.base_version)
    with disk_errors(), tempfile.TemporaryDirectory(prefix="coldfusion-") as work_dir:
        device = device or OwnDevice()
        attempt = TurnAttempt(
            repository, settings, submission, turn, report, should_stop, device, Path(work_dir)
        )
        finetuned = attempt.finetune()
        reach(CrashPoint.TURN_TRAINED)
        report(Phase.UPLOADING, finetuned.base.version, None)
        committed = upload_and_commit(repository, settings, finetuned)
    if committed:
        _mark_head(repository, submission, name, finetuned.base.version)
    _clean(repository, name)
    return TurnOutcome(name, committed, finetuned.base.version)


def _mark_head(
    repository: Repository, submission: Submission, name: str, base_version: int
) -> None:
    """Mark the head of a committed turn; the next delivery or the next turn does it else."""
    try:
        repository.heads.mark(submission, name, base_version)
    except ColdFusionError as error:
        event = {"event": "head_unmarked", "contribution": name}
        log.warning("head not marked for the next submission: %s", error, extra=event)


def _clean(repository: Repository, name: str) -> None:
    """Delete the checkpoints of a turn that is committed; garbage collection does it else."""
    with suppress(ColdFusionError):
        repository.checkpoints.delete(name)
    reach(CrashPoint.COMMIT_CLEANED)
