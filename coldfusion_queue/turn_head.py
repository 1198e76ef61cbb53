"""The head that a turn begins with: of which contribution, and its file on this machine."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from coldfusion_queue.errors import AccessDeniedError, DigestMismatchError, NotFoundError
from coldfusion_queue.names import contribution_id
from coldfusion_queue.records import Checkpoint, Contribution, Submission
from coldfusion_queue.repository.repository import Repository

__all__ = ["PreviousHead", "find_previous_head"]

log = logging.getLogger(__name__)

#: What keeps a turn from a head, and not from beginning afresh; a store that is away is not of it.
_UNUSABLE = (AccessDeniedError, DigestMismatchError, NotFoundError)


@dataclass(frozen=True)
class PreviousHead:
    """The head of an earlier turn, fetched."""

    contribution_id: str
    path: Path


def find_previous_head(
    repository: Repository,
    submission: Submission,
    turn: int,
    work_dir: Path,
    *,
    checkpoint: Checkpoint | None,
    fits: bool,
) -> PreviousHead | None:
    """Fetch the head that a turn goes on with; None begins with a fresh one.

    It is that of the submission's last turn; at turn 1 the newest that the contributor has of the
    same data; and in a turn that goes on from a checkpoint the one that it began with.

    Args:
        repository: where.
        submission: whose turn it is.
        turn: number of the turn.
        work_dir: gets the file.
        checkpoint: what the turn goes on from.
        fits: whether the outputs of the last turn's head mean the same as this turn's.
    """
    if submission.hyperparameters.head == "fresh":
        return None
    path = work_dir / "previous_head.safetensors"
    try:
        found = _previous(repository, submission, turn, checkpoint)
        if found is None or found.head is None:
            return None
        if fits:
            repository.store.download(found.head, path)
            return PreviousHead(found.contribution_id, path)
        reason = "its data has other labels now"
    except _UNUSABLE as error:
        reason = str(error)
    name = contribution_id(submission.submission_id, turn)
    event = {"event": "head_afresh", "contribution": name}
    log.warning("head begins afresh: %s", reason, extra=event)
    return None


def _previous(
    repository: Repository, submission: Submission, turn: int, checkpoint: Checkpoint | None
) -> Contribution | None:
    if checkpoint is not None:
        name = checkpoint.previous_head
        return None if name is None else repository.contributions.find(name)
    if turn == 1:
        return repository.heads.newest(submission)
    return repository.contributions.find(contribution_id(submission.submission_id, turn - 1))
