"""Changing the policy: a ledger entry of its own."""

from __future__ import annotations

from coldfusion_queue.errors import LedgerConflictError
from coldfusion_queue.records import LedgerEntry, Policy
from coldfusion_queue.repository.fusing import settle
from coldfusion_queue.repository.repository import Repository

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
    for attempt in range(_ATTEMPTS):
        newest = repository.ledger.newest()
        settle(repository, newest)  # before every append, see docs/protocol.md
        policy = Policy.model_validate({**newest.after.policy.model_dump(), **changes})
        after = newest.after.model_copy(update={"policy": policy})
        note = "policy: " + ", ".join(f"{name}={value}" for name, value in changes.items())
        entry = repository.new_entry(newest.sequence + 1, after, note=note, policy=policy)
        try:
            repository.ledger.append(entry)
        except LedgerConflictError:
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return entry
    raise AssertionError("unreachable: the last attempt returns or raises")
