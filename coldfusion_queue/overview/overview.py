"""The picture itself: what store, broker and history hold at one moment.

An age is never negative: of what no clock knows, or of what does not exist, it is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coldfusion_queue.errors import ColdFusionError
from coldfusion_queue.overview.tally import LedgerTally
from coldfusion_queue.records import EvaluationKind, GateReport, LedgerEntry, Policy

__all__ = [
    "BrokerOverview",
    "History",
    "Lease",
    "LostWorker",
    "Overview",
    "PoolOverview",
    "Quality",
    "QueueOverview",
    "StoreOverview",
    "StoredRoom",
]


@dataclass(frozen=True)
class StoreOverview:
    """What the repository is at, from a few requests that do not grow with its history."""

    newest: LedgerEntry
    """The newest ledger entry, whose ``after`` is the current state."""
    base_version_age_seconds: float
    """Since the newest base version was published, by the store's clock."""
    num_pending: int
    """Markers in the inbox; may count a few that are decided or not committed."""
    oldest_pending_age_seconds: float
    """Since the oldest of them was made, by the store's clock."""
    num_open_submissions: int
    num_wanted_evaluations: int
    is_candidate_waiting: bool
    """Whether a fused model waits for the gate."""

    @property
    def base_version(self) -> int:
        """The newest published one."""
        return self.newest.after.base.version

    @property
    def policy(self) -> Policy:
        """The one that holds now."""
        return self.newest.after.policy

    @property
    def gate(self) -> GateReport | None:
        """What the gate found of the base version; None if it was published without."""
        return self.newest.after.gate


@dataclass(frozen=True)
class QueueOverview:
    """A queue of the broker; it serves all repositories."""

    queue: str
    """``finetune``, ``finetune.<site>``, ``evaluate`` or ``fusion``."""
    site: str
    """Whose turns are on it; empty but for a site's."""
    length: int
    """Messages that wait."""
    oldest_age_seconds: float
    """Since the oldest of them was sent, by the clocks of sender and reader."""


@dataclass(frozen=True)
class LostWorker:
    """A worker that fell silent without saying that it stops."""

    name: str
    """Its host, or what stands for it."""
    silent_seconds: float
    """By the broker's clock."""


@dataclass(frozen=True)
class PoolOverview:
    """Workers that consume one queue and are in one pool, or in none."""

    queue: str
    site: str
    pool: str
    """Empty for workers in none, and for all of a site's, which are counted together."""
    taken: int
    """Messages that they took and have not acknowledged."""
    work: int | None
    """These and what waits in the queue, which a pool is scaled by; None but for finetune
    workers."""
    workers: tuple[str, ...]
    """Names of those that said within the lease that they are there, in order."""
    lost_workers: tuple[LostWorker, ...]
    """Those that fell silent within the last hour."""


@dataclass(frozen=True)
class Lease:
    """A turn or an evaluation of this repository that a worker runs."""

    task: str
    """``finetune`` or ``evaluate``."""
    name: str
    """Id of the contribution that the turn makes, or of the evaluation."""
    worker: str


@dataclass(frozen=True)
class StoredRoom:
    """What lies in the bucket under one first part of the keys, such as ``contributions``."""

    room: str
    num_bytes: int
    num_objects: int


@dataclass(frozen=True)
class BrokerOverview:
    """What waits, who works, and what garbage collection left word of."""

    queues: tuple[QueueOverview, ...]
    pools: tuple[PoolOverview, ...]
    """One for each site and pool that there ever was."""
    leases: tuple[Lease, ...]
    stored: tuple[StoredRoom, ...] | None
    """None before garbage was collected for the first time."""

    @property
    def num_leases(self) -> Mapping[str, int]:
        """How many leases there are, by task."""
        tasks = [lease.task for lease in self.leases]
        return {task: tasks.count(task) for task in ("finetune", "evaluate")}


@dataclass(frozen=True)
class Quality:
    """The newest base version that was evaluated on a dataset in one way."""

    dataset_id: str
    kind: EvaluationKind
    score: float
    """Mean over seeds."""
    base_version: int


@dataclass(frozen=True)
class History:
    """What grows with the repository, and is read from ledger and evaluations."""

    tally: LedgerTally | None
    """Counts over the whole ledger; None while it is not caught up with, or not asked for."""
    quality: tuple[Quality, ...]
    """By dataset and kind."""
    recent: tuple[LedgerEntry, ...]
    """The last ledger entries, the newest last; empty if not asked for."""


@dataclass(frozen=True)
class Overview:
    """All of it. A half that could not be read is None, and why not is told."""

    repository: str
    store: StoreOverview | None
    history: History
    """Of a store that does not answer it is empty."""
    broker: BrokerOverview | None
    store_error: ColdFusionError | None = None
    broker_error: ColdFusionError | None = None

    @property
    def is_complete(self) -> bool:
        """Whether store and broker could both be read."""
        return self.store is not None and self.broker is not None
