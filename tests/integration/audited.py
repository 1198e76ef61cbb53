"""A healthy repository with one of everything in it, and ways to damage it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from coldfusion_queue.audit import AuditReport, audit
from coldfusion_queue.records import (
    Cancellation,
    Candidate,
    Checkpoint,
    Collection,
    Contribution,
    DatasetRecord,
    EvaluationRequest,
    EvaluationSpec,
    Objective,
    SplitRecord,
    State,
)
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.overriding import record_override
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from tests.integration.conftest import Contribute, Tensors
from tests.integration.probing import evaluation

#: Every object is older than this: the store's clock counts whole seconds.
NO_GRACE = -60.0
DAY = 86_400.0

NOW = datetime(2022, 12, 1, tzinfo=UTC)
_NAME = b"<the repository's name>"

ATTEMPT = "0123456789abcdef"
DATASET = "0" * 32


class Bench:
    """A repository to damage and to audit."""

    def __init__(self, repository: Repository, settings: Settings) -> None:
        self.repository = repository
        self.settings = settings
        self.store = repository.store
        self.keys = repository.keys

    def audit(self, grace_seconds: float = NO_GRACE, **options: Any) -> AuditReport:
        return audit(self.settings, self.repository.name, grace_seconds, **options)

    def dump(self) -> dict[str, bytes]:
        """All objects, with a mark where records name the repository."""
        name = self.repository.name.encode()
        return {
            item.key.partition("/")[2]: self.store.get(item.key).replace(name, _NAME)
            for item in self.store.list(f"{self.repository.name}/")
        }

    def load(self, objects: Mapping[str, bytes]) -> None:
        """Write a copy of a repository; files do not name it, so their digests stay right."""
        name = self.repository.name.encode()
        with ThreadPoolExecutor(8) as threads:
            written = threads.map(
                lambda item: self.put(item[0], item[1].replace(_NAME, name)), objects.items()
            )
            assert len(list(written)) == len(objects)

    def key(self, pattern: str) -> str:
        """The one key that a pattern matches in full, the repository left out."""
        prefix = f"{self.repository.name}/"
        found = [
            item.key
            for item in self.store.list(prefix)
            if re.fullmatch(pattern, item.key.removeprefix(prefix))
        ]
        assert len(found) == 1, (pattern, found)
        return found[0]

    def read(self, pattern: str) -> Any:
        return json.loads(self.store.get(self.key(pattern)))

    def edit(self, pattern: str, change: Callable[[Any], None]) -> None:
        """Change a record in its place, as nobody who keeps to the protocol would."""
        key = self.key(pattern)
        record = json.loads(self.store.get(key))
        change(record)
        self.store.put(key, json.dumps(record).encode())

    def edit_entry(self, sequence: int, change: Callable[[Any], None]) -> None:
        self.edit(f"ledger/{sequence:010d}.json", change)

    def put(self, path: str, data: bytes = b"") -> None:
        self.store.put(f"{self.repository.name}/{path}", data)

    def delete(self, pattern: str) -> None:
        self.store.delete([self.key(pattern)])

    def garble(self, pattern: str) -> None:
        self.store.put(self.key(pattern), b"{}")

    def flip(self, pattern: str) -> None:
        """Change one byte of a file."""
        key = self.key(pattern)
        data = bytearray(self.store.get(key))
        data[-1] ^= 1
        self.store.put(key, bytes(data))

    def collect(self, prefix: str, *keys: str) -> None:
        """Collect files as the garbage collection does: say so, then delete."""
        record = Collection(keys=keys, reason="test", created_at=NOW, created_by="test")
        self.store.put(f"{prefix}collected.json", record.to_bytes())
        self.store.delete(keys)


def _nan(tensors: Tensors) -> Tensors:
    return {name: np.full_like(value, np.nan) for name, value in tensors.items()}


def build(bench: Bench, contribute: Contribute, directory: Path) -> None:
    """Fill a new repository by the writer's own code.

    ====== ============================================================================
    entry  what it does
    ====== ============================================================================
    0      version 0
    1      version 1: alice's turn 1
    2      version 2: alice's turn 2, which is stale; bad is refused
    3      changes the policy, to momentum too
    4      late expires
    5      version 3, which has a state: carol and dave, not settled
    ====== ============================================================================

    A candidate waits for entry 6; version 2 was evaluated, and that of version 3 is wanted.

    eve is pending and overridden; alice's turn 3 has a checkpoint; the files of version 1 and of
    alice's turn 1 were collected; carol's submission is recycled, dave's was cancelled.
    """
    repository, settings = bench.repository, bench.settings
    submissions = repository.submissions
    _put_dataset(bench)
    submissions.create("alice", dataset_id=DATASET, turns=3, submission_id="alice")
    first = contribute("alice")
    fuse_once(repository, settings)
    bad = contribute("bad", change=_nan)
    _commit_second_turn(bench, first, directory / "alice.safetensors")
    fuse_once(repository, settings)
    change_policy(repository, {"max_staleness": 1, "method": "nesterov"})
    contribute("late", base=repository.ledger.base_version(0))
    fuse_once(repository, settings)
    submissions.create("carol", kind="recycled", dataset_id=None, submission_id="carol")
    submissions.create("dave", dataset_id=DATASET, turns=None, submission_id="dave")
    contribute("carol", seed=1)
    contribute("dave", seed=2)
    submissions.cancel("dave")
    submissions.close("dave")
    fuse_once(repository, settings)
    bench.store.delete([repository.keys.decision("carol.t00001")])
    contribute("eve")
    record_override(repository, "eve.t00001", "as a test")
    _checkpoint(bench, bad)
    _evaluate(bench)
    _put_candidate(bench)
    base = repository.ledger.base_version(1)
    bench.collect(base.prefix, *(file.key for file in base.files.values()))
    bench.collect(f"{repository.name}/contributions/alice.t00001/", first.shared.key)


def _evaluate(bench: Bench) -> None:
    repository = bench.repository
    spec = EvaluationSpec(dataset_id=DATASET, kind="frozen")
    for version in (2, 3):
        repository.evaluations.want(repository.ledger.base_version(version), [spec])
    request = EvaluationRequest(
        spec=spec,
        base=repository.ledger.base_version(2),
        requested_at=NOW,
        requested_by="test",
    )
    repository.evaluations.record(evaluation(request, 0.5))


def _put_candidate(bench: Bench) -> None:
    newest = bench.repository.ledger.newest()
    prefix = bench.keys.base_prefix(4, ATTEMPT)
    file = bench.store.put(f"{prefix}model.safetensors", b"numbers")
    update = {
        "version": 4,
        "prefix": prefix,
        "files": {"model.safetensors": file},
        "parent": 3,
        "state": None,
    }
    model = newest.after.base.model_copy(update=update)
    entry = bench.repository.new_entry(
        6, State(base=model, policy=newest.after.policy), note="", published=model
    )
    bench.repository.candidates.create(Candidate(entry=entry, suspects=(), suspect=None))


def _put_dataset(bench: Bench) -> None:
    file = bench.store.put(bench.keys.dataset_split(DATASET, "train"), b"rows")
    record = DatasetRecord(
        dataset_id=DATASET,
        objective=Objective.CLASSIFICATION,
        is_pair=False,
        labels=("a", "b"),
        splits={"train": SplitRecord(file=file, num_examples=1)},
    )
    bench.store.create(bench.keys.dataset(DATASET), record.to_bytes())


def _commit_second_turn(bench: Bench, first: Contribution, path: Path) -> None:
    contributions = bench.repository.contributions
    files = {"shared.safetensors": path, "head.safetensors": path}
    attempt, records = contributions.upload("alice.t00002", files)
    update = {
        "contribution_id": "alice.t00002",
        "turn": 2,
        "attempt": attempt,
        "shared": records["shared.safetensors"],
        "head": records["head.safetensors"],
    }
    contributions.commit(first.model_copy(update=update))


def _checkpoint(bench: Bench, like: Contribution) -> None:
    name = "alice.t00003"
    file = bench.store.put(bench.keys.checkpoint_file(name, ATTEMPT), b"state")
    record = Checkpoint(
        contribution_id=name,
        attempt=ATTEMPT,
        base_version=like.base_version,
        base_digest=like.base_digest,
        step=1,
        num_steps=2,
        file=file,
        created_at=NOW,
        created_by="test",
    )
    bench.store.create(bench.keys.checkpoint(name, ATTEMPT), record.to_bytes())


def cancellation(submission_id: str) -> bytes:
    return Cancellation(submission_id=submission_id, created_at=NOW).to_bytes()
