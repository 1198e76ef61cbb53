"""Rolling back: an old version's parameters are published again, under a new number."""

from __future__ import annotations

import logging

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import LedgerConflictError, UsageError
from coldfusion_queue.records import LedgerEntry, State
from coldfusion_queue.repository.gating import Standing
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.settling import settle

__all__ = ["roll_back", "roll_back_regression"]

log = logging.getLogger(__name__)

_ATTEMPTS = 10


def roll_back(repository: Repository, version: int, reason: str) -> LedgerEntry:
    """Publish the parameters of an old version under the next number.

    History is only appended to: what was fused in between stays decided, and is part of no later
    version. Contributions that were finetuned from versions in between stay welcome, since a delta
    counts relative to its own base. A candidate is void, a batch that is being tried is pending
    again, and momentum begins anew.

    Writes: ``base/<version>-<attempt>/``, ``ledger/<n+1>.json``.

    Args:
        repository: where.
        version: whose parameters to go back to.
        reason: for people who read the ledger.

    Raises:
        NotFoundError: there is no such version, or its files were collected as garbage.
        UsageError: it is what is published.
        LedgerConflictError: fusions appended faster than we did, several times in a row.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(LedgerConflictError),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )

    def attempt() -> LedgerEntry:
        return _roll_back(repository, repository.ledger.newest(), version, reason)

    return retrying(attempt)


def roll_back_regression(
    repository: Repository, newest: LedgerEntry, current: Standing, best: Standing
) -> LedgerEntry:
    """Roll back what the gate found to be worse than an earlier version; see ``roll_back``.

    Args:
        repository: where.
        newest: the ledger entry that the gate looked at.
        current: how the version stands that is published then.
        best: the version to go back to.

    Raises:
        LedgerConflictError: somebody appended meanwhile; what was found may not hold any more.
    """
    reason = (
        f"the gate's mean score is {current.mean:.4f}, of version {best.base.version} it is "
        f"{best.mean:.4f}"
    )
    log.error(
        "base version %d is rolled back: %s",
        *(current.base.version, reason),
        extra={"event": "rolled_back", "base_version": current.base.version},
    )
    return _roll_back(repository, newest, best.base.version, reason)


def _roll_back(
    repository: Repository, newest: LedgerEntry, version: int, reason: str
) -> LedgerEntry:
    settle(repository, newest)  # before every append, see docs/protocol.md
    current, old = newest.after.base, repository.ledger.base_version(version)
    if old.digest == current.digest:
        expected = f"a version with other parameters than {current.version}, which is published"
        raise UsageError("VERSION", str(version), expected)
    restored = repository.base_versions.upload_restored(old, current)
    reach(CrashPoint.ROLLBACK_UPLOADED)
    entry = repository.new_entry(
        newest.sequence + 1,
        State(base=restored, policy=newest.after.policy),
        published=restored,
        note=f"base version {restored.version}: rolled back to version {version}, {reason}",
    )
    try:
        repository.ledger.append(entry)
    except LedgerConflictError:
        repository.base_versions.discard(restored.prefix)
        raise
    reach(CrashPoint.ROLLBACK_APPENDED)
    return entry
