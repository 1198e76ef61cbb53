"""The ledger: every decision in one append-only sequence, one writer wins each number."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from coldfusion_queue.errors import LedgerConflictError, NotFoundError
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.records import BaseVersion, LedgerEntry
from coldfusion_queue.store import Store

__all__ = ["Ledger", "last_existing"]


def last_existing(exists: Callable[[int], bool], first: int) -> int:
    """The largest n >= ``first`` that exists, where no number before an existing one is missing.

    Doubling steps up, then bisection: about 2 * log2(n - first) questions.

    Args:
        exists: tells whether a number exists; ``exists(first)`` must be true.
        first: a number known to exist; the closer to the answer, the fewer questions.
    """
    step = 1
    while exists(first + step):
        first += step
        step *= 2
    low, high = first, first + step  # low exists, high does not
    while high - low > 1:
        middle = (low + high) // 2
        if exists(middle):
            low = middle
        else:
            high = middle
    return low


class Ledger:
    """Reads and appends ledger entries; remembers the newest one it saw as a hint."""

    def __init__(self, store: Store, keys: ObjectKeys) -> None:
        self._store = store
        self._keys = keys
        self._hint = 0

    def newest(self) -> LedgerEntry:
        """The newest entry, whose ``after`` is the current state.

        Raises:
            NotFoundError: the ledger is empty: ``init`` did not finish.
        """
        if self._hint == 0 and not self.exists(0):
            remedy = "run 'coldfusion init --base MODEL' once"
            raise NotFoundError("repository", self._keys.repository, remedy)
        self._hint = last_existing(self.exists, self._hint)
        return self.entry(self._hint)

    def entry(self, sequence: int) -> LedgerEntry:
        """The entry of a sequence number.

        Raises:
            NotFoundError: it was never written.
        """
        key = self._keys.ledger(sequence)
        return LedgerEntry.from_bytes(self._store.get(key), key)

    def exists(self, sequence: int) -> bool:
        """Whether the entry of a sequence number was written."""
        return self._store.stat(self._keys.ledger(sequence)) is not None

    def entries(self, first: int = 0) -> Iterator[LedgerEntry]:
        """All entries from ``first`` to the newest, in order."""
        for sequence in range(first, self.newest().sequence + 1):
            yield self.entry(sequence)

    def append(self, entry: LedgerEntry) -> None:
        """Create an entry: the commit point of everything it decides.

        Idempotent: the same entry a second time is taken as appended.

        Raises:
            LedgerConflictError: another writer created this sequence number first.
        """
        if not self._store.create(self._keys.ledger(entry.sequence), entry.to_bytes()):
            raise LedgerConflictError(entry.sequence)

    def base_version(self, version: int | None = None) -> BaseVersion:
        """A published base version; None is the newest.

        Versions never decrease along the ledger, so an old one is found by bisection.

        Raises:
            NotFoundError: no such version was published.
        """
        newest = self.newest()
        current = newest.after.base.version
        if version is None or version == current:
            return newest.after.base
        remedy = f"the newest is {current}; 'coldfusion history' lists them"
        if not 0 <= version < current:
            raise NotFoundError("base version", str(version), remedy)
        found = self.entry(self._first_of(version, newest.sequence)).after.base
        if found.version != version:
            raise NotFoundError("base version", str(version), remedy)
        return found

    def publication(self, newest: LedgerEntry) -> int:
        """Number of the entry that published the base version which holds after ``newest``."""
        if newest.published is not None:
            return newest.sequence
        return self._first_of(newest.after.base.version, newest.sequence)

    def _first_of(self, version: int, last: int) -> int:
        """The first entry whose base version is not older, of those up to ``last``."""
        low, high = 0, last
        while low < high:
            middle = (low + high) // 2
            if self.entry(middle).after.base.version < version:
                low = middle + 1
            else:
                high = middle
        return low
