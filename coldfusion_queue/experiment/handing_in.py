"""Contributions that the experiment makes on this machine, as ``coldfusion contribute`` does."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from coldfusion_queue.errors import AlreadyExistsError
from coldfusion_queue.names import actor, contribution_id
from coldfusion_queue.records import BaseVersion, Contribution
from coldfusion_queue.repository.committing import SHARED_FILE
from coldfusion_queue.repository.repository import Repository

__all__ = ["hand_in"]


def hand_in(
    repository: Repository,
    base: BaseVersion,
    contributor: str,
    submission_id: str,
    shared: Path,
    form: Literal["delta", "full"] = "delta",
) -> None:
    """Commit a file of shared parameters as the one contribution of a submission.

    Idempotent: one that is committed stays. A crash in between leaves files that nothing names.

    Args:
        repository: where.
        base: the version that it comes from.
        contributor: whose it is.
        submission_id: a function of what it is, so that a second run finds it.
        shared: the file.
        form: what is in it.
    """
    name = contribution_id(submission_id, 1)
    if repository.contributions.find(name) is not None:
        return
    attempt, files = repository.contributions.upload(name, {SHARED_FILE: shared})
    contribution = Contribution(
        contribution_id=name,
        submission_id=submission_id,
        contributor_id=contributor,
        dataset_id=None,
        turn=1,
        attempt=attempt,
        base_version=base.version,
        base_digest=base.digest,
        form=form,
        shared=files[SHARED_FILE],
        head=None,
        num_examples=0,
        metrics={},
        created_at=datetime.now(UTC),
        created_by=actor(),
    )
    with suppress(AlreadyExistsError):  # by a run that ended just then
        repository.submissions.create(
            contributor, kind="recycled", dataset_id=None, submission_id=submission_id
        )
    repository.contributions.commit(contribution)
