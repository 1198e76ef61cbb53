"""What an operator sees of a repository: read from store and broker, for exporter and terminal."""

from __future__ import annotations

from coldfusion_queue.overview.history import RecentHistory, WholeHistory
from coldfusion_queue.overview.overview import (
    BrokerOverview,
    History,
    Lease,
    LostWorker,
    Overview,
    PoolOverview,
    Quality,
    QueueOverview,
    StoredRoom,
    StoreOverview,
)
from coldfusion_queue.overview.reading import OverviewReader
from coldfusion_queue.overview.tally import Bounds, Distribution, LedgerTally

__all__ = [
    "Bounds",
    "BrokerOverview",
    "Distribution",
    "History",
    "Lease",
    "LedgerTally",
    "LostWorker",
    "Overview",
    "OverviewReader",
    "PoolOverview",
    "Quality",
    "QueueOverview",
    "RecentHistory",
    "StoreOverview",
    "StoredRoom",
    "WholeHistory",
]
