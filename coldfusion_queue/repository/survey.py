"""One look at everything in a repository, from which it is planned what to collect."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Self

from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.records import BaseVersion, Contribution, LedgerEntry, Policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.store import ObjectInfo

__all__ = ["Folder", "Survey", "by_attempt"]

log = logging.getLogger(__name__)

#: Objects below one id, attempt or prefix: the rest of the key ("" for a marker) to the object.
Folder = Mapping[str, ObjectInfo]


class Survey:
    """One listing of a repository, and what had to be read of it.

    The newest ledger entry is read before the listing. So what older entries decided has its
    ``decision.json`` in the listing, and whatever it does not show of the newest state is newer.
    """

    def __init__(
        self,
        repository: Repository,
        newest: LedgerEntry,
        now: datetime,
        grace: timedelta,
        objects: Iterable[ObjectInfo],
    ) -> None:
        self.repository = repository
        self.newest = newest
        self.now = now
        self._grace = grace
        self.objects = {item.key: item for item in objects}
        self._folders = _folders(self.objects.values())
        self._decided_last = {item.contribution_id for item in newest.decisions}
        self._entries = {newest.sequence: newest}
        self._contributions: dict[str, Contribution | None] = {}

    @classmethod
    def take(cls, repository: Repository, grace_seconds: float) -> Self:
        """Look at everything: one request for every thousand objects."""
        newest = repository.ledger.newest()
        now = repository.store.now()
        objects = repository.store.list(f"{repository.name}/")
        return cls(repository, newest, now, timedelta(seconds=grace_seconds), objects)

    @property
    def policy(self) -> Policy:
        """The policy now."""
        return self.newest.after.policy

    @property
    def version(self) -> int:
        """The newest base version."""
        return self.newest.after.base.version

    def folders(self, prefix: str) -> Mapping[str, Folder]:
        """What lies below a prefix that ends in ``/``, by the next part of the key."""
        return self._folders.get(prefix, {})

    def exists(self, key: str) -> bool:
        """Whether the listing shows an object."""
        return key in self.objects

    def is_old(self, objects: Iterable[ObjectInfo]) -> bool:
        """Whether the newest of some objects is as old as the grace, by the store's clock.

        That clock tells whole seconds, so times of objects are cut to seconds as well. It was
        read before the listing: what was written later than that is not old, even without grace.
        """
        newest = max(item.last_modified for item in objects).replace(microsecond=0)
        return self.now - newest >= self._grace

    def is_decided(self, contribution_id: str) -> bool:
        """Whether the ledger decided a contribution, settled or not."""
        is_settled = self.exists(self.repository.keys.decision(contribution_id))
        return is_settled or contribution_id in self._decided_last

    def contribution(self, contribution_id: str) -> Contribution | None:
        """A contribution's record, read once; None if there is none or it cannot be read."""
        if contribution_id not in self._contributions:
            self._contributions[contribution_id] = self._read(contribution_id)
        return self._contributions[contribution_id]

    def entry(self, sequence: int) -> LedgerEntry:
        """A ledger entry, read once."""
        if sequence not in self._entries:
            self._entries[sequence] = self.repository.ledger.entry(sequence)
        return self._entries[sequence]

    def publisher(self, version: int) -> LedgerEntry:
        """The ledger entry that published a version, which must not be above the newest."""
        sequences = range(self.newest.sequence + 1)
        return self.entry(
            bisect_left(
                sequences, version, key=lambda number: self.entry(number).after.base.version
            )
        )

    def published(self, version: int) -> BaseVersion:
        """A published version's record."""
        return self.publisher(version).after.base

    def _read(self, contribution_id: str) -> Contribution | None:
        try:
            return self.repository.contributions.find(contribution_id)
        except InvalidRecordError as error:  # it is kept as it is, whatever it is
            log.warning("passed over: %s", error, extra={"event": "record_unreadable"})
            return None


def by_attempt(folder: Folder) -> dict[str, list[ObjectInfo]]:
    """The files of a folder that lie in one of its own, by that one's name."""
    found: defaultdict[str, list[ObjectInfo]] = defaultdict(list)
    for path, item in folder.items():
        attempt, slash, _ = path.partition("/")
        if slash:
            found[attempt].append(item)
    return dict(found)


def _folders(objects: Iterable[ObjectInfo]) -> dict[str, dict[str, dict[str, ObjectInfo]]]:
    # <repository>/<room>/<name>[/<path>]; what lies directly below the repository is left out.
    found: dict[str, dict[str, dict[str, ObjectInfo]]] = {}
    for item in objects:
        repository, room, *rest = item.key.split("/", 3)
        if rest:
            name, path = rest[0], rest[1] if len(rest) > 1 else ""
            room_folders = found.setdefault(f"{repository}/{room}/", {})
            room_folders.setdefault(name, {})[path] = item
    return found
