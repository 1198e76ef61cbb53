"""Reads the whole picture, each half as far as its server answers."""

from __future__ import annotations

from typing import Protocol

from coldfusion_queue.overview.overview import History, Overview
from coldfusion_queue.records import LedgerEntry
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings

__all__ = ["HistoryReader", "OverviewReader"]


class HistoryReader(Protocol):
    """Reads as much of the past as somebody wants to know, and may take the time that takes."""

    def read(self, repository: Repository, newest: LedgerEntry) -> History:
        """The history up to ``newest``, as far as it is known."""


class OverviewReader:
    """Reads one repository again and again, over connections that stay open.

    Args:
        settings: where store and broker are; names the repository.
        history: reads the past.
    """

    def __init__(self, settings: Settings, history: HistoryReader) -> None:
        self._settings = settings
        self._history = history

    def read(self) -> Overview:
        """What there is now. Of a server that does not answer it holds the error."""
        raise NotImplementedError
