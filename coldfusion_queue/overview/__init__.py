"""What an operator sees of a repository: read from store and broker, for exporter and terminal."""

from __future__ import annotations

from coldfusion_queue.overview.overview import (
    BrokerOverview,
    History,
    Lease,
    LostWorker,
    Overview,
    PoolOverview,
    Quality,
    QueueOverview,
    StoreOverview,
    StoredRoom,
)
from coldfusion_queue.overview.reading import OverviewReader
from coldfusion_queue.overview.tally import Distribution, LedgerTally

__all__ = [
    "BrokerOverview",
    "Distribution",
    "History",
    "LedgerTally",
    "Lease",
    "LostWorker",
    "Overview",
    "OverviewReader",
    "PoolOverview",
    "Quality",
    "QueueOverview",
    "StoreOverview",
    "StoredRoom",
]
