"""Reads the whole picture, each half as far as its server answers."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from coldfusion_queue.errors import ColdFusionError
from coldfusion_queue.overview.broker import BrokerReader
from coldfusion_queue.overview.overview import BrokerOverview, History, Overview, StoreOverview
from coldfusion_queue.overview.store import StoreReader
from coldfusion_queue.records import LedgerEntry
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings

__all__ = ["HistoryReader", "OverviewReader"]

_NOTHING = History(tally=None, quality=(), recent=())


class HistoryReader(Protocol):
    """Reads as much of the past as somebody wants to know."""

    def read(self, repository: Repository, newest: LedgerEntry) -> History:
        """The history up to ``newest``, as far as it is known.

        Raises:
            StoreUnavailableError: the store does not answer.
        """


class OverviewReader:
    """Reads one repository again and again, over connections that stay open.

    Not to be shared between threads, nor between processes.

    Args:
        settings: where store and broker are; names the repository.
        history: reads the past.
    """

    def __init__(self, settings: Settings, history: HistoryReader) -> None:
        self._repository = settings.repository
        self._history = history
        self._store = StoreReader(settings)
        self._broker = BrokerReader(settings)

    def read(self) -> Overview:
        """What there is now, each server asked once; of one that fails it holds the error."""
        with ThreadPoolExecutor(1, "broker") as threads:
            reading = threads.submit(self._broker.read)
            store, history, store_error = self._read_store()
            broker, broker_error = _outcome(reading)
        return Overview(self._repository, store, history, broker, store_error, broker_error)

    def _read_store(self) -> tuple[StoreOverview | None, History, ColdFusionError | None]:
        try:
            repository, newest = self._store.newest()
            store = self._store.read(repository, newest)
            return store, self._history.read(repository, newest), None
        except ColdFusionError as error:
            return None, _NOTHING, _kept(error)


def _outcome(
    reading: Future[BrokerOverview],
) -> tuple[BrokerOverview | None, ColdFusionError | None]:
    try:
        return reading.result(), None
    except ColdFusionError as error:
        return None, _kept(error)


def _kept(error: ColdFusionError) -> ColdFusionError:
    """The error without the frames that it came through, which hold connections."""
    return error.with_traceback(None)
