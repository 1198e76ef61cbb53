"""Settling: what a ledger entry decided is copied beside the contributions, markers are deleted."""

from __future__ import annotations

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.records import LedgerEntry
from coldfusion_queue.repository.repository import Repository

__all__ = ["settle"]


def settle(repository: Repository, entry: LedgerEntry) -> None:
    """Write the missing ``decision.json`` of all that an entry decided, then delete the markers.

    Every fuser settles the newest entry before it appends the next, so all older entries are
    settled. Idempotent.
    """
    for decision in entry.decisions:
        key = repository.keys.decision(decision.contribution_id)
        repository.store.create(key, decision.to_bytes())
        reach(CrashPoint.SETTLE_DECISION)
    reach(CrashPoint.SETTLE_DECISIONS)
    repository.inbox.remove([decision.contribution_id for decision in entry.decisions])
    reach(CrashPoint.SETTLE_UNMARKED)
