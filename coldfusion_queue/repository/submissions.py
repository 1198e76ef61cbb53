"""Submissions: what contributors asked for, and which turn comes next."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import (
    AlreadyExistsError,
    ColdFusionError,
    InvalidRecordError,
    NotFoundError,
)
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.names import actor, contribution_id, new_submission_id
from coldfusion_queue.records import (
    Cancellation,
    Failure,
    Hyperparameters,
    SiteData,
    Submission,
)
from coldfusion_queue.repository.ledger import last_existing
from coldfusion_queue.store import Store

__all__ = ["SubmissionState", "SubmissionStatus", "Submissions"]


log = logging.getLogger(__name__)


class SubmissionState(StrEnum):
    """Where a submission stands."""

    #: It has turns left.
    OPEN = "open"
    #: All of its turns are committed.
    COMPLETE = "complete"
    #: It was cancelled; what was committed stays.
    CANCELLED = "cancelled"
    #: A turn failed for good; the reason is recorded.
    FAILED = "failed"


@dataclass(frozen=True)
class SubmissionStatus:
    """A submission, how far it came, and why it stopped if it did."""

    submission: Submission
    state: SubmissionState
    committed_turns: int
    failure: Failure | None

    @property
    def next_turn(self) -> int | None:
        """The turn to finetune next, or None if there is none."""
        return self.committed_turns + 1 if self.state is SubmissionState.OPEN else None


class Submissions:
    """Reads and writes the submissions of one repository."""

    def __init__(self, store: Store, keys: ObjectKeys) -> None:
        self._store = store
        self._keys = keys

    def create(
        self,
        contributor_id: str,
        *,
        kind: Literal["finetune", "recycled", "held_out"] = "finetune",
        dataset_id: str | None,
        turns: int | None = 1,
        hyperparameters: Hyperparameters | None = None,
        submission_id: str | None = None,
        site_data: SiteData | None = None,
        base_version: int | None = None,
    ) -> Submission:
        """Record a submission: first its marker, then the record, which is the commit point.

        A crash in between leaves a marker without a record, which everybody passes over.

        Args:
            contributor_id: who contributes.
            kind: see ``records.Submission``.
            dataset_id: an uploaded dataset; None if recycled, or with ``site_data``.
            turns: contributions to make; None goes on until it is cancelled.
            hyperparameters: of its finetunes; None takes the defaults.
            submission_id: a new id that was made before; None makes one.
            site_data: private data that stays at a site.
            base_version: what its turns are finetuned from; None is the newest at each turn.

        Raises:
            AlreadyExistsError: another submission has this id.
        """
        submission = Submission(
            submission_id=submission_id or new_submission_id(contributor_id),
            contributor_id=contributor_id,
            kind=kind,
            dataset_id=dataset_id,
            turns=turns,
            hyperparameters=hyperparameters or Hyperparameters(),
            created_at=datetime.now(UTC),
            created_by=actor(),
            site_data=site_data,
            base_version=base_version,
        )
        name = submission.submission_id
        if submission.kind == "finetune":  # others have no turn that a worker could run
            self._store.create(self._keys.open_submission(name), b"")
            reach(CrashPoint.SUBMIT_MARKED)
        if not self._store.create(self._keys.submission(name), submission.to_bytes()):
            raise AlreadyExistsError("submission", name, "submit again for a new id")
        reach(CrashPoint.SUBMIT_RECORDED)
        return submission

    def get(self, submission_id: str) -> Submission:
        """The record of a submission.

        Raises:
            NotFoundError: there is no such submission.
        """
        submission = self.find(submission_id)
        if submission is None:
            raise NotFoundError("submission", submission_id, "'coldfusion status' lists them")
        return submission

    def find(self, submission_id: str) -> Submission | None:
        """The record of a submission, or None if there is none."""
        key = self._keys.submission(submission_id)
        data = self._store.find(key)
        return None if data is None else Submission.from_bytes(data, key)

    def status(self, submission: Submission) -> SubmissionStatus:
        """How far a submission came; asks about 2 * log2(turns) times."""
        name = submission.submission_id
        committed = last_existing(lambda turn: turn == 0 or self._is_committed(name, turn), 0)
        failure = self.failure(name)
        state = SubmissionState.OPEN
        if submission.kind == "held_out" or (
            submission.turns is not None and committed >= submission.turns
        ):
            state = SubmissionState.COMPLETE
        elif failure is not None:
            state = SubmissionState.FAILED
        elif self.is_cancelled(name):
            state = SubmissionState.CANCELLED
        return SubmissionStatus(submission, state, committed, failure)

    def open(self, *, tidy: bool = False, skip: Collection[str] = ()) -> Iterator[SubmissionStatus]:
        """Submissions that have turns left; one whose record cannot be read is logged, no more.

        Args:
            tidy: remove markers of those that have none, which a crash can leave.
            skip: ids to pass over, at no cost.
        """
        markers = list(self._store.list(self._keys.open_submissions))
        names = [marker.key.rpartition("/")[2] for marker in markers]
        for name in (name for name in names if name not in skip):
            try:
                submission = self.find(name)
                status = None if submission is None else self.status(submission)
            except InvalidRecordError as error:  # one bad record must not hold up the others
                log.error("submission unreadable: %s", error, extra={"event": "record_unreadable"})
                continue
            if status is None:
                continue
            if status.state is SubmissionState.OPEN:
                yield status
            elif tidy:
                self.close(name)

    def count_open(self) -> int:
        """Number of markers: open submissions and perhaps a few that are not, cheaply."""
        return sum(1 for _ in self._store.list(self._keys.open_submissions))

    def all(self) -> Iterator[Submission]:
        """Every submission ever made, by id."""
        for folder in self._store.list(self._keys.submissions, recursive=False):
            submission = self.find(folder.key.rstrip("/").rpartition("/")[2])
            if submission is not None:
                yield submission

    def cancel(self, submission_id: str) -> bool:
        """Ask for no further turns; a running one stops at its next step.

        Returns:
            False if it was cancelled before.
        """
        record = Cancellation(submission_id=submission_id, created_at=datetime.now(UTC))
        return self._store.create(self._keys.cancellation(submission_id), record.to_bytes())

    def is_cancelled(self, submission_id: str) -> bool:
        """Whether no further turns are wanted."""
        return self._store.stat(self._keys.cancellation(submission_id)) is not None

    def fail(self, submission_id: str, turn: int, error: BaseException) -> None:
        """End a submission with a recorded reason; the first reason stays.

        Errors of ours say in their message what happened and hold no data. Of any other only the
        class is recorded, because its text might quote a row.
        """
        known = isinstance(error, ColdFusionError)
        record = Failure(
            submission_id=submission_id,
            turn=turn,
            error=type(error).__name__,
            reason=str(error) if known else f"unexpected {type(error).__name__}, see worker's log",
            created_at=datetime.now(UTC),
        )
        self._store.create(self._keys.failure(submission_id), record.to_bytes())
        reach(CrashPoint.TURN_FAILED)
        self.close(submission_id)

    def failure(self, submission_id: str) -> Failure | None:
        """Why a submission failed, or None if it did not."""
        key = self._keys.failure(submission_id)
        data = self._store.find(key)
        return None if data is None else Failure.from_bytes(data, key)

    def close(self, submission_id: str) -> None:
        """Remove the marker of a submission that has no turns left."""
        self._store.delete([self._keys.open_submission(submission_id)])

    def _is_committed(self, submission_id: str, turn: int) -> bool:
        key = self._keys.contribution(contribution_id(submission_id, turn))
        return self._store.stat(key) is not None
