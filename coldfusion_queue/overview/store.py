"""What the store says of a repository now: a few requests, most of them at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from coldfusion_queue.errors import NotFoundError
from coldfusion_queue.overview.overview import StoreOverview
from coldfusion_queue.records import LedgerEntry
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings

__all__ = ["StoreReader"]


class StoreReader:
    """Reads a repository again and again, over connections that stay open.

    The newest ledger entry is looked for from the last one on. Should that be gone, because the
    bucket was put back to an older state, everything begins anew with the next read.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._repository: Repository | None = None
        self._published: tuple[str, datetime] | None = None

    def newest(self) -> tuple[Repository, LedgerEntry]:
        """The repository, and its newest ledger entry.

        Raises:
            NotFoundError: there is no such repository.
            StoreUnavailableError: the store does not answer; it is asked once.
        """
        repository = self._repository or Repository.open(self._settings, attempts=1)
        self._repository = None
        newest = repository.ledger.newest()
        self._repository = repository
        return repository, newest

    def read(self, repository: Repository, newest: LedgerEntry) -> StoreOverview:
        """What there is besides.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        with ThreadPoolExecutor(6, "overview") as threads:
            now = threads.submit(repository.store.now)
            published = threads.submit(self._published_at, repository, newest)
            inbox = threads.submit(repository.inbox.glance)
            num_open = threads.submit(repository.submissions.count_open)
            num_wanted = threads.submit(repository.evaluations.count_wanted)
            waiting = threads.submit(repository.candidates.is_waiting, newest.sequence + 1)
        return StoreOverview(
            newest=newest,
            base_version_age_seconds=_seconds_since(published.result(), now.result()),
            num_pending=inbox.result().num_markers,
            oldest_pending_age_seconds=_seconds_since(inbox.result().oldest_at, now.result()),
            num_open_submissions=num_open.result(),
            num_wanted_evaluations=num_wanted.result(),
            is_candidate_waiting=waiting.result(),
        )

    def _published_at(self, repository: Repository, newest: LedgerEntry) -> datetime:
        """When the ledger entry was created that published the base version."""
        prefix = newest.after.base.prefix  # unique to a version, whatever the repository was before
        if self._published is None or self._published[0] != prefix:
            sequence = repository.ledger.publication(newest)
            found = repository.store.stat(repository.keys.ledger(sequence))
            if found is None:
                raise NotFoundError("ledger entry", str(sequence), "look again")
            self._published = prefix, found.last_modified
        return self._published[1]


def _seconds_since(then: datetime | None, now: datetime) -> float:
    """How long ago something was; 0 of what never was, or seems to come."""
    return 0.0 if then is None else max(0.0, (now - then).total_seconds())
