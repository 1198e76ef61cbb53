"""The inbox: contributions that are committed and not yet decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.records import Contribution
from coldfusion_queue.repository.committing import Contributions
from coldfusion_queue.store import Store

__all__ = ["Inbox", "InboxContents", "PendingContribution"]


@dataclass(frozen=True)
class PendingContribution:
    """A contribution that waits to be decided."""

    contribution: Contribution
    arrived_at: datetime
    """When its marker was created, by the store's clock."""


@dataclass(frozen=True)
class InboxContents:
    """What is in the inbox and undecided."""

    pending: list[PendingContribution]
    """The oldest arrival first."""
    unreadable: Mapping[str, InvalidRecordError]
    """Contributions whose record cannot be read, by id."""


class Inbox:
    """Lists what is pending; the cost follows the pending ones, not the history."""

    def __init__(self, store: Store, keys: ObjectKeys, contributions: Contributions) -> None:
        self._store = store
        self._keys = keys
        self._contributions = contributions

    def look(self) -> InboxContents:
        """Committed contributions without a decision, the oldest arrival first.

        Call it only when the newest ledger entry is settled: then a decided contribution has its
        ``decision.json``, and a marker that is still (or again) there is a late duplicate's,
        which is deleted here.
        """
        found: list[PendingContribution] = []
        unreadable: dict[str, InvalidRecordError] = {}
        for marker in list(self._store.list(self._keys.inbox)):
            name = marker.key.rpartition("/")[2]
            if self._store.stat(self._keys.decision(name)) is not None:
                self.remove([name])
                continue
            try:
                contribution = self._contributions.find(name)
            except InvalidRecordError as error:
                unreadable[name] = error  # one bad record must not hold up the others
                continue
            if contribution is not None:  # else it is about to follow, or its worker died
                found.append(PendingContribution(contribution, marker.last_modified))
        found.sort(key=lambda item: (item.arrived_at, item.contribution.contribution_id))
        return InboxContents(found, unreadable)

    def count(self) -> int:
        """Number of markers: pending contributions and perhaps a few that are not, cheaply."""
        return sum(1 for _ in self._store.list(self._keys.inbox))

    def remove(self, contribution_ids: list[str]) -> None:
        """Delete the markers of decided contributions."""
        self._store.delete(self._keys.inbox_marker(name) for name in contribution_ids)
