"""What the ledger says, folded anew: published versions, and who decided what."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from coldfusion_queue.audit.snapshot import Snapshot
from coldfusion_queue.records import (
    BaseVersion,
    Decision,
    LedgerEntry,
    Outcome,
    Record,
)

__all__ = ["Decided", "History", "directory_of", "is_same", "model_digest", "read_history"]


@dataclass(frozen=True)
class Decided:
    """A decision and the entry that holds it."""

    sequence: int
    """Number of the entry's key, which the decision should repeat."""
    decision: Decision


@dataclass(frozen=True)
class History:
    """The ledger by what is looked for in it; of two claims to one thing the first counts."""

    newest: int
    """Number of the newest entry; -1 if there is none."""
    versions: Mapping[int, BaseVersion]
    """Published base versions, by number."""
    decisions: Mapping[str, Decided]
    """By contribution."""

    def is_pending(self, contribution_id: str) -> bool:
        """Whether no entry has decided it."""
        return contribution_id not in self.decisions

    def is_refused(self, contribution_id: str) -> bool:
        """Whether it was refused."""
        decided = self.decisions.get(contribution_id)
        return decided is not None and decided.decision.outcome is Outcome.REFUSED


def read_history(ledger: Mapping[int, LedgerEntry | None]) -> History:
    """Fold a ledger.

    Args:
        ledger: entries by number, in order; None is one that cannot be read.
    """
    versions: dict[int, BaseVersion] = {}
    decisions: dict[str, Decided] = {}
    for sequence, entry in ledger.items():
        if entry is None:
            continue
        if entry.published is not None:
            versions.setdefault(entry.published.version, entry.published)
        for decision in entry.decisions:
            decisions.setdefault(decision.contribution_id, Decided(sequence, decision))
    return History(max(ledger, default=-1), versions, decisions)


def is_same(left: Record | None, right: Record | None) -> bool:
    """Whether two records have the same bytes; unlike ``==`` it holds for NaN too."""
    if left is None or right is None:
        return left is right
    return type(left) is type(right) and left.to_bytes() == right.to_bytes()


def model_digest(version: BaseVersion) -> str | None:
    """Digest of a version's parameters, or None if it names no model file."""
    names = sorted(name for name in version.files if name.endswith(".safetensors"))
    digests = [version.files[name].digest for name in names]
    if len(digests) < 2:
        return digests[0] if digests else None
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def directory_of(snapshot: Snapshot, version: BaseVersion) -> str:
    """``<version>-<attempt>`` of a version, by which its objects are indexed."""
    return snapshot.place(f"{version.prefix}lineage.json").owner
