"""What is in the bucket at one time, as far as a listing can tell: objects and records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TypeVar

from coldfusion_queue.audit.bucket import Bucket, Listed
from coldfusion_queue.audit.layout import Kind, Place, place_of
from coldfusion_queue.errors import InvalidRecordError, NotFoundError
from coldfusion_queue.records import (
    BaseVersion,
    Cancellation,
    Candidate,
    Collection,
    Contribution,
    DatasetRecord,
    Decision,
    Evaluation,
    EvaluationRequest,
    Failure,
    Inspection,
    LedgerEntry,
    Override,
    Record,
    RepositoryRecord,
    Submission,
)

__all__ = ["Snapshot", "StoredObject", "newest_age", "take_snapshot"]

RecordT = TypeVar("RecordT", bound=Record)

_RECORDS: Mapping[Kind, type[Record]] = {
    Kind.REPOSITORY: RepositoryRecord,
    Kind.DATASET: DatasetRecord,
    Kind.SUBMISSION: Submission,
    Kind.CANCELLATION: Cancellation,
    Kind.FAILURE: Failure,
    Kind.CONTRIBUTION: Contribution,
    Kind.DECISION: Decision,
    Kind.COLLECTION: Collection,
    Kind.INSPECTION: Inspection,
    Kind.OVERRIDE: Override,
    Kind.LINEAGE: BaseVersion,
    Kind.BASE_COLLECTION: Collection,
    Kind.CANDIDATE: Candidate,
    Kind.REQUEST: EvaluationRequest,
    Kind.EVALUATION: Evaluation,
}


@dataclass(frozen=True)
class StoredObject:
    """An object that was listed."""

    key: str
    place: Place
    num_bytes: int
    age_seconds: float
    """By the store's clock, when the listing began; negative if it was written since."""


@dataclass(frozen=True)
class Snapshot:
    """Objects and records of one repository."""

    repository: str
    objects: Mapping[str, StoredObject]
    """What was listed, by key."""
    ledger: Mapping[int, LedgerEntry | None]
    """Every entry by the number of its key, in order; None is one that cannot be read."""
    records: Mapping[str, Record]
    """The records other than ledger entries that can be read, by key."""
    unreadable: Mapping[str, str]
    """What is wrong with the others, ledger entries included, by key."""

    def of(self, *kinds: Kind) -> Iterator[StoredObject]:
        """The objects of some kinds, in the order of their keys."""
        return (item for item in self.objects.values() if item.place.kind in kinds)

    def key(self, kind: Kind, owner: str) -> str | None:
        """Key of the one object of a kind that belongs to an owner, or None if there is none."""
        return self._keys.get((kind, owner))

    def find(self, form: type[RecordT], kind: Kind, owner: str) -> RecordT | None:
        """A record, or None if it is not there or cannot be read."""
        record = self.records.get(self._keys.get((kind, owner), ""))
        return record if isinstance(record, form) else None

    def place(self, key: str) -> Place:
        """What a key means, whether there is such an object or not."""
        return place_of(self.repository, key)

    def collected(self, kind: Kind, owner: str) -> frozenset[str]:
        """Keys that the ``collected.json`` of a contribution or base version names."""
        record = self.find(Collection, kind, owner)
        return frozenset(record.keys) if record else frozenset()

    @cached_property
    def entries(self) -> Mapping[int, LedgerEntry]:
        """The ledger entries that can be read, by the number of their key, in order."""
        return {number: entry for number, entry in self.ledger.items() if entry is not None}

    @cached_property
    def directories(self) -> Mapping[Place, list[StoredObject]]:
        """Objects by the directory that was written as one: kind, owner and attempt."""
        found = defaultdict(list)
        for item in self.objects.values():
            kind = Kind.BASE_FILE if item.place.kind is Kind.LINEAGE else item.place.kind
            found[Place(kind, item.place.owner, item.place.attempt)].append(item)
        return found

    @cached_property
    def _keys(self) -> Mapping[tuple[Kind, str], str]:
        return {(item.place.kind, item.place.owner): key for key, item in self.objects.items()}


def take_snapshot(bucket: Bucket, repository: str) -> Snapshot:
    """Read the ledger to its end, then list everything, then read the records.

    In this order whatever the ledger says was there before the listing began.

    Args:
        bucket: where.
        repository: name of the repository.

    Raises:
        NotFoundError: there is no object of this repository.
        StoreUnavailableError: the store does not answer.
    """
    now = bucket.now()
    unreadable: dict[str, str] = {}
    ledger = _read_ledger(bucket, repository, unreadable)
    objects = {item.key: _stored(repository, item, now) for item in bucket.list(f"{repository}/")}
    if not objects:
        remedy = "run 'coldfusion init --base MODEL' once, or set COLDFUSION_REPOSITORY"
        raise NotFoundError("repository", repository, remedy)
    forms = {
        key: _RECORDS[item.place.kind]
        for key, item in objects.items()
        if item.place.kind in _RECORDS
    }
    records = {
        key: record
        for key, data in bucket.read(forms).items()
        if (record := _parse(forms[key], key, data, unreadable)) is not None
    }
    return Snapshot(repository, objects, ledger, records, unreadable)


def _read_ledger(
    bucket: Bucket, repository: str, unreadable: dict[str, str]
) -> dict[int, LedgerEntry | None]:
    listed = [item.key for item in bucket.list(f"{repository}/ledger/")]
    contents = bucket.read([key for key in listed if _is_entry(repository, key)])
    following = max((int(place_of(repository, key).owner) for key in contents), default=-1) + 1
    # A listing may lag behind; entries are found by their number until there is none.
    while more := bucket.read([f"{repository}/ledger/{following:010d}.json"]):
        contents |= more
        following += 1
    return {
        int(place_of(repository, key).owner): _parse(LedgerEntry, key, data, unreadable)
        for key, data in sorted(contents.items())
    }


def _is_entry(repository: str, key: str) -> bool:
    return place_of(repository, key).kind is Kind.LEDGER


def _parse(
    form: type[RecordT], key: str, data: bytes, unreadable: dict[str, str]
) -> RecordT | None:
    try:
        return form.from_bytes(data, key)
    except InvalidRecordError as error:
        unreadable[key] = error.problem
        return None


def _stored(repository: str, item: Listed, now: datetime) -> StoredObject:
    age = (now - item.last_modified).total_seconds() if item.last_modified else 0.0
    return StoredObject(item.key, place_of(repository, item.key), item.num_bytes, age)


def newest_age(objects: Iterable[StoredObject]) -> float:
    """Seconds since the last of some objects was written."""
    return min(item.age_seconds for item in objects)
