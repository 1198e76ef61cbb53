"""What garbage is: what no record names any more, and what the policy no longer retains."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from coldfusion_queue.repository.volumes import Volumes
from coldfusion_queue.store import ObjectInfo

__all__ = ["Garbage", "Kind", "Plan", "Total", "garbage", "totals"]


class Kind(StrEnum):
    """What an item of a plan is, in the order in which they are dealt with."""

    # --- repairs: a marker is created again, nothing is deleted
    #: A contribution that is committed, undecided and in no inbox.
    UNMARKED_CONTRIBUTION = "unmarked_contribution"
    #: A submission that has turns left and is not marked as open.
    UNMARKED_SUBMISSION = "unmarked_submission"

    # --- what no record names
    #: Files that a collection which broke off has recorded as deleted.
    UNFINISHED = "unfinished_collection"
    #: Files of a finetune that did not commit them.
    ATTEMPT = "attempt"
    #: Checkpoint of a turn that nobody will go on with.
    CHECKPOINT = "checkpoint"
    #: Marker of a contribution or submission that never came.
    MARKER = "marker"
    #: Marker of a head, when there is that of a newer one.
    HEAD_MARKER = "head_marker"
    #: Attempt at a base version that another attempt became.
    BASE_ATTEMPT = "base_attempt"
    #: Attempt at a base version that is still to be published.
    CANDIDATE = "candidate"
    #: Record of a fused model that was judged, or that another ledger entry made void.
    VOID_CANDIDATE = "void_candidate"
    #: Request for an evaluation that was recorded.
    REQUEST = "request"
    #: What workers told each other about a fusion that is over.
    FUSION = "fusion"
    #: Data that no submission names.
    DATASET = "dataset"

    # --- what the policy no longer retains; a record says so before it goes
    #: Shared parameters of a contribution that was decided.
    WEIGHTS = "weights"
    #: Files of an old base version.
    BASE_VERSION = "base_version"

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.value.replace("_", " ")

    @property
    def is_repair(self) -> bool:
        """Whether the item is created, not deleted."""
        return self in {Kind.UNMARKED_CONTRIBUTION, Kind.UNMARKED_SUBMISSION}


@dataclass(frozen=True)
class Garbage:
    """One thing to collect: all of its objects go, or none."""

    kind: Kind
    subject: str
    """Id, id and attempt, or key prefix of what it is."""
    keys: tuple[str, ...]
    """Objects to delete; of a repair, the marker to create."""
    num_bytes: int
    """Size of these objects."""
    written_at: datetime
    """When the newest of the objects that decided about it was written, by the store's clock."""
    reason: str
    """Why it may go, for people."""
    tombstone: str | None = None
    """Key of the ``Collection`` record to create before anything is deleted."""


@dataclass(frozen=True)
class Plan:
    """What can be collected, as one look at the repository found it."""

    items: tuple[Garbage, ...]
    sequence: int
    """Newest ledger entry when it was made."""
    made_at: datetime
    """By the store's clock, before the repository was listed."""
    volumes: Volumes
    """What lay there, garbage or not."""

    def left_after(self, collected: Iterable[Garbage]) -> Volumes:
        """What lies there when items are collected, but for the records that say so."""
        volumes = self.volumes
        for item in collected:
            if not item.kind.is_repair:
                volumes = volumes.without(item.keys, item.num_bytes)
        return volumes


@dataclass(frozen=True)
class Total:
    """How much of one kind there is."""

    num_items: int = 0
    num_objects: int = 0
    num_bytes: int = 0

    def plus(self, item: Garbage) -> Total:
        """This and one more item."""
        return Total(
            self.num_items + 1,
            self.num_objects + len(item.keys),
            self.num_bytes + item.num_bytes,
        )


def totals(items: Iterable[Garbage]) -> Mapping[Kind, Total]:
    """How much there is of each kind that occurs, in the order of ``Kind``."""
    found: defaultdict[Kind, Total] = defaultdict(Total)
    for item in items:
        found[item.kind] = found[item.kind].plus(item)
    return {kind: found[kind] for kind in Kind if kind in found}


def garbage(
    kind: Kind,
    subject: str,
    objects: Iterable[ObjectInfo],
    reason: str,
    *,
    tombstone: str | None = None,
) -> Garbage:
    """An item that consists of objects, at least one, which a listing told of."""
    doomed = list(objects)
    return Garbage(
        kind=kind,
        subject=subject,
        keys=tuple(item.key for item in doomed),
        num_bytes=sum(item.num_bytes for item in doomed),
        written_at=max(item.last_modified for item in doomed),
        reason=reason,
        tombstone=tombstone,
    )
