"""Running the demo's loop until enough base versions were published."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coldfusion_queue.demo.recipe import DATASETS, HYPERPARAMETERS, data_dir
from coldfusion_queue.errors import SubmissionFailedError, WaitTimeoutError
from coldfusion_queue.intake.prepare import prepare_dataset
from coldfusion_queue.intake.upload import upload_dataset
from coldfusion_queue.names import slug
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.records import LedgerEntry, Outcome, Submission
from coldfusion_queue.repository.repository import Repository

__all__ = ["LoopResult", "run_loop", "submit_examples"]

_POLL_SECONDS = 0.5


@dataclass
class LoopResult:
    """What the ledger holds at the end."""

    base_version: int = 0
    fused: int = 0
    stale_fused: int = 0

    def add(self, entry: LedgerEntry) -> None:
        """Count one ledger entry."""
        self.base_version = entry.after.base.version
        for decision in entry.decisions:
            if decision.outcome is Outcome.FUSED:
                self.fused += 1
                self.stale_fused += decision.numbers["staleness"] >= 1


def submit_examples(repository: Repository, sender: TurnSender) -> list[Submission]:
    """Submit every example dataset as a standing contributor."""
    submissions = []
    for name in DATASETS:
        with tempfile.TemporaryDirectory(prefix="coldfusion-") as work_dir:
            prepared = prepare_dataset(str(data_dir() / name), work_dir=Path(work_dir))
            dataset = upload_dataset(repository.store, repository.keys, prepared)
        submission = repository.submissions.create(
            slug(name), dataset_id=dataset.dataset_id, turns=None, hyperparameters=HYPERPARAMETERS
        )
        sender.send(submission.submission_id, 1)
        submissions.append(submission)
    return submissions


def run_loop(
    repository: Repository,
    submissions: list[Submission],
    *,
    num_versions: int,
    limit_seconds: float,
    on_entry: Callable[[LedgerEntry], None],
    on_tick: Callable[[], None],
) -> LoopResult:
    """Watch the ledger until enough versions are there and a straggler was fused, then cancel.

    Args:
        repository: where workers are at work.
        submissions: what they work on.
        num_versions: base versions to wait for.
        limit_seconds: after which to give up.
        on_entry: called with each new ledger entry.
        on_tick: called about twice a second.

    Raises:
        SubmissionFailedError: a submission failed.
        WaitTimeoutError: it took longer than ``limit_seconds``.
    """
    result, seen, started = LoopResult(), 0, time.monotonic()
    while result.base_version < num_versions or result.stale_fused == 0:
        if time.monotonic() - started > limit_seconds:
            remedy = "read the logs of the local stack"
            raise WaitTimeoutError(f"base version {num_versions}", limit_seconds, remedy)
        for entry in repository.ledger.entries(seen + 1):
            seen = entry.sequence
            result.add(entry)
            on_entry(entry)
        _check(repository, submissions)
        on_tick()
        time.sleep(_POLL_SECONDS)
    for submission in submissions:
        repository.submissions.cancel(submission.submission_id)
    return result


def _check(repository: Repository, submissions: list[Submission]) -> None:
    for submission in submissions:
        failure = repository.submissions.failure(submission.submission_id)
        if failure is not None:
            raise SubmissionFailedError(failure.submission_id, failure.turn, failure.reason)
