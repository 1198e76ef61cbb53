"""A bucket in memory, and a small healthy repository in it, made of records alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta

from coldfusion_queue.audit.bucket import Listed
from coldfusion_queue.audit.run import audit_bucket
from coldfusion_queue.records import (
    BaseVersion,
    Contribution,
    FileRecord,
    LedgerEntry,
    ModelIdentity,
    Policy,
    RepositoryRecord,
    State,
)

NAME = "repo"
NOW = datetime(2022, 12, 1, tzinfo=UTC)
ATTEMPT = "0123456789abcdef"


class MemoryBucket:
    """What ``Bucket`` does, from a dictionary; counts what is read."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.ages: dict[str, float] = {}
        self.num_looks = 0
        self.digested: list[str] = []
        #: Called when a listing of everything has been made, with its number, from 1.
        self.after_listing: Callable[[int], None] = lambda number: None

    def put(self, path: str, data: bytes = b"", age_seconds: float = 1e6) -> FileRecord:
        key = f"{NAME}/{path}"
        self.objects[key] = data
        self.ages[key] = age_seconds
        digest = hashlib.sha256(data).hexdigest()
        return FileRecord(key=key, digest=digest, num_bytes=len(data))

    def now(self) -> datetime:
        return NOW

    def list(self, prefix: str) -> Iterator[Listed]:
        listed = [
            Listed(key, len(data), NOW - timedelta(seconds=self.ages[key]))
            for key, data in sorted(self.objects.items())
            if key.startswith(prefix)
        ]
        if prefix == f"{NAME}/":
            self.num_looks += 1
            self.after_listing(self.num_looks)
        return iter(listed)

    def read(self, keys: Collection[str]) -> dict[str, bytes]:
        return {key: self.objects[key] for key in keys if key in self.objects}

    def digest(
        self, keys: Collection[str], progress: Callable[[int], None] | None = None
    ) -> dict[str, str | None]:
        self.digested += keys
        found = {key: self.objects.get(key) for key in keys}
        return {
            key: None if data is None else hashlib.sha256(data).hexdigest()
            for key, data in found.items()
        }

    def checks(self, grace_seconds: float = 60.0) -> list[str]:
        """Names of the checks with findings."""
        return [str(item.check) for item in audit_bucket(self, NAME, grace_seconds).findings]


def put_repository(bucket: MemoryBucket) -> LedgerEntry:
    """Version 0 and the repository's record; returns ledger entry 0."""
    prefix = f"base/000000-{ATTEMPT}/"
    model = bucket.put(f"{prefix}model.safetensors", b"model")
    base = BaseVersion(
        version=0,
        prefix=f"{NAME}/{prefix}",
        files={"model.safetensors": model},
        parent=None,
        method=None,
        server_learning_rate=None,
        fused=(),
    )
    bucket.put(f"{prefix}lineage.json", base.to_bytes())
    identity = ModelIdentity(
        model_type="bert", hub_id="tiny", tokenizer_digest=None, num_parameters=1
    )
    record = RepositoryRecord(
        format_version=1, name=NAME, identity=identity, created_at=NOW, created_by="test"
    )
    bucket.put("repository.json", record.to_bytes())
    first = LedgerEntry(
        sequence=0,
        token="0",
        created_at=NOW,
        actor="test",
        published=base,
        decisions=(),
        policy=Policy(),
        note="init",
        after=State(base=base, policy=Policy()),
    )
    put_entry(bucket, first)
    return first


def put_entry(bucket: MemoryBucket, entry: LedgerEntry) -> None:
    bucket.put(f"ledger/{entry.sequence:010d}.json", entry.to_bytes())


def following(entry: LedgerEntry, **changes: object) -> LedgerEntry:
    """The entry after another one, which changes nothing unless said."""
    sequence = entry.sequence + 1
    same = {"sequence": sequence, "token": str(sequence), "published": None, "policy": None}
    return entry.model_copy(update={**same, "decisions": (), **changes})


def put_contribution(bucket: MemoryBucket, base: BaseVersion, name: str = "a") -> Contribution:
    """A committed contribution without its marker in the inbox."""
    shared = bucket.put(f"contributions/{name}.t00001/{ATTEMPT}/shared.safetensors", b"shared")
    contribution = Contribution(
        contribution_id=f"{name}.t00001",
        submission_id=name,
        contributor_id=name,
        dataset_id=None,
        turn=1,
        attempt=ATTEMPT,
        base_version=base.version,
        base_digest=base.digest,
        form="delta",
        shared=shared,
        head=None,
        num_examples=1,
        metrics={},
        created_at=NOW,
        created_by="test",
    )
    bucket.put(f"contributions/{name}.t00001/contribution.json", contribution.to_bytes())
    return contribution
