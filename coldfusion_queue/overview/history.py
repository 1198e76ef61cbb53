"""The past of a repository: all of it, followed in the background, or its last entries alone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from coldfusion_queue.errors import ColdFusionError
from coldfusion_queue.overview.overview import History, Quality
from coldfusion_queue.overview.quality import QualityReader
from coldfusion_queue.overview.tally import Bounds, LedgerCount, LedgerTally
from coldfusion_queue.records import LedgerEntry
from coldfusion_queue.repository.repository import Repository

__all__ = ["RecentHistory", "WholeHistory"]

log = logging.getLogger(__name__)

#: Ledger entries that are read at a time: most of a request is waiting.
_NUM_THREADS = 8
#: Entries that are read while somebody waits, because that takes no longer than all the rest.
_FEW = 2 * _NUM_THREADS
#: For how many times as long as it took, quality is not read anew. Evaluations of years are many to
#: list; whatever their number, and however often somebody asks, a twentieth of the time goes there.
_REST = 19


class RecentHistory:
    """The last entries, and the quality of the versions that held after them."""

    def __init__(self, num_entries: int = 8) -> None:
        self._num_entries = num_entries
        self._known: dict[int, LedgerEntry] = {}
        self._quality = QualityReader()

    def read(self, repository: Repository, newest: LedgerEntry) -> History:
        """See ``HistoryReader``; what was read once is not read again."""
        numbers = range(max(0, newest.sequence + 1 - self._num_entries), newest.sequence)
        unknown = [number for number in numbers if number not in self._known]
        with ThreadPoolExecutor(_NUM_THREADS, "ledger") as threads:
            read = dict(zip(unknown, threads.map(repository.ledger.entry, unknown), strict=True))
        known = {**self._known, **read, newest.sequence: newest}
        self._known = {number: known[number] for number in (*numbers, newest.sequence)}
        recent = tuple(self._known.values())
        versions = {entry.after.base.digest: entry.after.base.version for entry in recent}
        quality = self._quality.read(repository, versions, newest.after.policy)
        return History(None, quality, recent)


class WholeHistory:
    """Counts the whole ledger, and knows what all versions were evaluated to.

    Nobody waits for what takes long: the ledger is caught up with in the background, and until
    that is done there is no tally, because of a smaller one it would seem that everything began
    anew. Quality is that of the last time that it was read, which a read begins anew, unless that
    was a moment ago for what it took.

    May be shared between threads.

    Args:
        bounds: what numbers of decisions are counted by.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._count = LedgerCount(bounds)
        self._lock = threading.Lock()
        self._catching_up = _Background("ledger")
        self._evaluating = _Background("quality", _REST)
        self._quality_reader = QualityReader(lists_all=True)
        self._quality: tuple[Quality, ...] = ()

    def read(self, repository: Repository, newest: LedgerEntry) -> History:
        """See ``HistoryReader``."""
        with self._lock:
            tally = self._tally(repository, newest)
        if tally is not None:
            versions, policy = tally.versions, newest.after.policy

            def evaluate() -> None:
                self._quality = self._quality_reader.read(repository, versions, policy)

            self._evaluating.begin(evaluate)
        return History(tally, self._quality, ())

    def _tally(self, repository: Repository, newest: LedgerEntry) -> LedgerTally | None:
        if self._catching_up.is_running:
            return None
        if newest.sequence + 1 < self._count.next_sequence:  # the bucket was put back
            self._count = LedgerCount(self._bounds)
        count = self._count
        if newest.sequence - count.next_sequence >= _FEW:
            self._catching_up.begin(lambda: _catch_up(count, repository, newest.sequence))
            return None
        _catch_up(count, repository, newest.sequence - 1)
        if count.next_sequence == newest.sequence:
            count.add(newest)
        return count.tally()


class _Background:
    """Does one thing at a time in a thread that nobody waits for.

    Args:
        name: of the thread.
        rest: how many times as long as the last thing took, none is begun after it.
    """

    def __init__(self, name: str, rest: float = 0) -> None:
        self._name = name
        self._rest = rest
        self._rests_until = 0.0
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def begin(self, work: Callable[[], None]) -> None:
        """Do it, unless the last thing is not done yet, or was done a moment ago."""

        def run() -> None:
            begun = time.monotonic()
            try:
                work()
            except ColdFusionError as error:  # the next read tries it again
                log.warning("history not read: %s", error, extra={"event": "history_unread"})
            now = time.monotonic()
            self._rests_until = now + self._rest * (now - begun)

        if not self.is_running and time.monotonic() >= self._rests_until:
            self._thread = threading.Thread(target=run, daemon=True, name=self._name)
            self._thread.start()


def _catch_up(count: LedgerCount, repository: Repository, last: int) -> None:
    """Count the entries up to ``last`` that are not counted yet."""
    with ThreadPoolExecutor(_NUM_THREADS, "ledger") as threads:
        while count.next_sequence <= last:
            first = count.next_sequence
            numbers = range(first, min(first + 8 * _NUM_THREADS, last + 1))
            for entry in threads.map(repository.ledger.entry, numbers):
                count.add(entry)
