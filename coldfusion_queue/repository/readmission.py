"""Admitting again what was fused together, to fuse it without one of them."""

from __future__ import annotations

from collections.abc import Sequence

from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.records import Contribution, LedgerEntry
from coldfusion_queue.repository.admission import (
    Admission,
    Admitted,
    Refusal,
    recently_fused,
    refusal,
)
from coldfusion_queue.repository.inspecting import Inspector
from coldfusion_queue.repository.judging import Update, judge
from coldfusion_queue.repository.repository import Repository

__all__ = ["readmit"]


def readmit(
    repository: Repository,
    inspector: Inspector,
    newest: LedgerEntry,
    contribution_ids: Sequence[str],
) -> Admission:
    """Admit contributions again that were fused together, without others, at once.

    They passed the policy's limits, which are not asked again: those compare them with each other.

    Args:
        repository: where.
        inspector: of this repository.
        newest: the newest ledger entry.
        contribution_ids: of undecided ones.

    Raises:
        LedgerConflictError, RetryableError: see ``admit``.
    """
    refused: dict[str, Refusal] = {}
    contributions: list[Contribution] = []
    for name in contribution_ids:
        try:
            found = repository.contributions.find(name)
        except InvalidRecordError as error:
            refused[name] = refusal(error)
            continue
        if found is not None:
            contributions.append(found)
    faults = inspector.inspect(contributions)
    refused |= {name: refusal(error) for name, error in faults.items()}
    whole = [item for item in contributions if item.contribution_id not in refused]
    updates = [
        Update(item.contribution_id, item.contributor_id, inspector.found[item.contribution_id])
        for item in whole
    ]
    verdicts = judge(newest.after.policy, updates, recently_fused(repository, newest))
    admitted = []
    for item, update in zip(whole, updates, strict=True):
        override = repository.contributions.override(item.contribution_id)
        reason = override.reason if override else None
        numbers = verdicts[item.contribution_id].numbers
        admitted.append(Admitted(item, update.inspection, numbers, reason))
    return Admission(tuple(admitted), refused, (), 0.0)
