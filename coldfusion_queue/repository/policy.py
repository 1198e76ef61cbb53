"""Changing the policy: a ledger entry of its own."""

from __future__ import annotations

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import LedgerConflictError
from coldfusion_queue.records import LedgerEntry, Policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.settling import settle

__all__ = ["change_policy"]

_ATTEMPTS = 10


def change_policy(repository: Repository, changes: dict[str, object]) -> LedgerEntry:
    """Append an entry with a changed policy, which holds from the next fusion on.

    Args:
        repository: whose policy.
        changes: fields to change and their values, valid ones.

    Raises:
        LedgerConflictError: fusions appended faster than we did, several times in a row.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(LedgerConflictError),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )
    return retrying(_append, repository, changes)


def _append(repository: Repository, changes: dict[str, object]) -> LedgerEntry:
    newest = repository.ledger.newest()
    settle(repository, newest)  # before every append, see docs/protocol.md
    policy = Policy.model_validate({**newest.after.policy.model_dump(), **changes})
    # What is being tried was judged by the old policy: its batch is pending again.
    after = newest.after.model_copy(update={"policy": policy, "trial": None})
    note = "policy: " + ", ".join(f"{name}={value}" for name, value in changes.items())
    entry = repository.new_entry(newest.sequence + 1, after, note=note, policy=policy)
    repository.ledger.append(entry)
    reach(CrashPoint.POLICY_APPENDED)
    return entry
