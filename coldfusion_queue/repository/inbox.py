"""The inbox: contributions that are committed and not yet decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.records import Contribution
from coldfusion_queue.repository.committing import Contributions
from coldfusion_queue.store import ObjectInfo, Store
from coldfusion_queue.threads import WorkThreads

__all__ = ["Inbox", "InboxContents", "InboxGlance", "PendingContribution"]

#: Markers that are looked at at once: each costs two requests, and most of a request is waiting.
_NUM_THREADS = 16
#: Markers that the threads are given at a time, so that they do not run far ahead of the caller.
_BATCH = 16 * _NUM_THREADS


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


@dataclass(frozen=True)
class InboxGlance:
    """What the listing alone tells; may count a few that are decided or not committed."""

    num_markers: int
    oldest_at: datetime | None
    """When the oldest marker was created, by the store's clock; None without any."""


@dataclass(frozen=True)
class _Seen:
    """What became of the contribution of one marker."""

    marker: ObjectInfo
    is_decided: bool = False
    error: InvalidRecordError | None = None
    contribution: Contribution | None = None


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
        for seen in self._seen():
            name = seen.marker.key.rpartition("/")[2]
            if seen.is_decided:
                self.remove([name])
                reach(CrashPoint.FUSE_UNMARKED)
            elif seen.error is not None:
                unreadable[name] = seen.error  # one bad record must not hold up the others
            elif seen.contribution is not None:  # else it is about to follow, or its worker died
                found.append(PendingContribution(seen.contribution, seen.marker.last_modified))
        found.sort(key=lambda item: (item.arrived_at, item.contribution.contribution_id))
        return InboxContents(found, unreadable)

    def count(self) -> int:
        """Number of markers: pending contributions and perhaps a few that are not, cheaply."""
        return self.glance().num_markers

    def glance(self) -> InboxGlance:
        """How many markers there are and since when, without a look at any contribution."""
        arrivals = [marker.last_modified for marker in self._store.list(self._keys.inbox)]
        return InboxGlance(len(arrivals), min(arrivals, default=None))

    def remove(self, contribution_ids: list[str]) -> None:
        """Delete the markers of decided contributions."""
        self._store.delete(self._keys.inbox_marker(name) for name in contribution_ids)

    def _seen(self) -> Iterator[_Seen]:
        markers = list(self._store.list(self._keys.inbox))
        with WorkThreads(_NUM_THREADS, "inbox") as threads:
            for start in range(0, len(markers), _BATCH):
                yield from threads.map(self._see, markers[start : start + _BATCH])

    def _see(self, marker: ObjectInfo) -> _Seen:
        name = marker.key.rpartition("/")[2]
        if self._store.stat(self._keys.decision(name)) is not None:
            return _Seen(marker, is_decided=True)
        try:
            return _Seen(marker, contribution=self._contributions.find(name))
        except InvalidRecordError as error:
            return _Seen(marker, error=error)
