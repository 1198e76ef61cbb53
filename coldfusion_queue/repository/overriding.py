"""An operator's word that a contribution may be fused whatever the policy's limits say."""

from __future__ import annotations

from datetime import UTC, datetime

from coldfusion_queue.errors import NotFoundError, UsageError
from coldfusion_queue.names import actor, contribution_id, new_attempt, new_submission_id
from coldfusion_queue.records import Contribution, Outcome, Override, Rule
from coldfusion_queue.repository.committing import SHARED_FILE
from coldfusion_queue.repository.repository import Repository

__all__ = ["override", "record_override"]

#: Limits of the policy. What is refused for another reason cannot be fused at all.
_LIMITS = frozenset({Rule.RELATIVE_NORM, Rule.NORM_Z, Rule.COSINE, Rule.COPY, Rule.GATE})


def override(repository: Repository, refused_id: str, reason: str) -> Contribution:
    """Let a contribution pass the limits.

    One that is pending passes as it is. The decision about a refused one stands, so a new
    contribution is made of its files.

    Writes: ``overrides/<id>.json``; for a refused one also its file, ``submission.json``, the
    marker in ``inbox/`` and, last, ``contribution.json``. A crash before that leaves an orphaned
    attempt, which garbage collection deletes; override it again.

    Args:
        repository: where.
        refused_id: id of the refused or pending contribution.
        reason: the operator's, for the lineage.

    Returns:
        The contribution that will be fused.

    Raises:
        NotFoundError: there is no such contribution, or its file was collected.
        UsageError: it was fused, expired, or refused because it cannot be fused.
    """
    contributions = repository.contributions
    contribution = contributions.find(refused_id)
    if contribution is None:
        remedy = "'coldfusion history' lists what was refused"
        raise NotFoundError("contribution", refused_id, remedy)
    decision = contributions.decision(refused_id)
    if decision is None:
        record_override(repository, refused_id, reason)
        return contribution
    if decision.outcome is not Outcome.REFUSED or decision.rule not in _LIMITS:
        got = f"{refused_id}, {decision.outcome}: {decision.reason}"
        raise UsageError("--override", got, "one that is pending or refused for a policy's limit")
    again = _copied(repository, contribution)
    record_override(repository, again.contribution_id, reason, refused_id)
    repository.submissions.create(
        again.contributor_id,
        kind="recycled",
        dataset_id=None,
        submission_id=again.submission_id,
    )
    contributions.commit(again)
    return again


def record_override(
    repository: Repository, name: str, reason: str, refused_id: str | None = None
) -> None:
    """Record the word itself, before the contribution is committed or while it is pending.

    Writes: ``overrides/<id>.json``; the first reason stays.
    """
    record = Override(
        contribution_id=name,
        reason=reason,
        refused_id=refused_id,
        created_at=datetime.now(UTC),
        created_by=actor(),
    )
    repository.store.create(repository.keys.override(name), record.to_bytes())


def _copied(repository: Repository, refused: Contribution) -> Contribution:
    """The refused contribution under a new id, with a file of its own; not committed."""
    submission_id = new_submission_id(refused.contributor_id)
    name, attempt = contribution_id(submission_id, 1), new_attempt()
    key = repository.keys.attempt_file(name, attempt, SHARED_FILE)
    try:
        shared = repository.store.put_stream(key, repository.store.read_stream(refused.shared))
    except NotFoundError as error:
        remedy = "it was collected as garbage; contribute the model again"
        raise NotFoundError("the file of contribution", refused.contribution_id, remedy) from error
    return refused.model_copy(
        update={
            "contribution_id": name,
            "submission_id": submission_id,
            "turn": 1,
            "attempt": attempt,
            "shared": shared,
            "head": None,
            "created_at": datetime.now(UTC),
            "created_by": actor(),
        }
    )
