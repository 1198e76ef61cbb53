"""What crashes and time leave in a repository, made by hand, for the tests of its collection."""

from __future__ import annotations

from datetime import UTC, datetime

from coldfusion_queue.names import contribution_id
from coldfusion_queue.records import BaseVersion, Checkpoint, DatasetRecord, Objective
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from tests.integration.conftest import Contribute

ATTEMPT = "0123456789abcdef"


def keys_of(repository: Repository) -> set[str]:
    """Every object but the ledger's, without the repository's name."""
    prefix = f"{repository.name}/"
    found = {item.key.removeprefix(prefix) for item in repository.store.list(prefix)}
    return {key for key in found if not key.startswith("ledger/")}


def put(repository: Repository, *keys: str) -> set[str]:
    for key in keys:
        repository.store.put(f"{repository.name}/{key}", b"some bytes")
    return set(keys)


def publish(repository: Repository, settings: Settings, contribute: Contribute, upto: int) -> None:
    """Fuse one contribution, ``v<n>``, into each version up to one."""
    for version in range(repository.ledger.base_version().version + 1, upto + 1):
        contribute(f"v{version}", seed=version)
        fuse_once(repository, settings)
    assert repository.ledger.base_version().version == upto


def submit(repository: Repository, name: str, dataset_id: str | None = None) -> str:
    repository.submissions.create(name, dataset_id=dataset_id, submission_id=name)
    return contribution_id(name, 1)


def checkpoint(repository: Repository, contribution: str, base: BaseVersion) -> set[str]:
    """A recorded checkpoint; answers its keys."""
    file = repository.store.put(repository.keys.checkpoint_file(contribution, ATTEMPT), b"state")
    record = Checkpoint(
        contribution_id=contribution,
        attempt=ATTEMPT,
        base_version=base.version,
        base_digest=base.digest,
        step=1,
        num_steps=2,
        file=file,
        created_at=datetime.now(UTC),
        created_by="test",
    )
    key = repository.keys.checkpoint(contribution, ATTEMPT)
    repository.store.create(key, record.to_bytes())
    return {item.removeprefix(f"{repository.name}/") for item in (file.key, key)}


def dataset(repository: Repository, dataset_id: str) -> set[str]:
    """A recorded dataset; answers its keys."""
    keys = put(repository, f"datasets/{dataset_id}/train.parquet")
    record = DatasetRecord(
        dataset_id=dataset_id,
        objective=Objective.REGRESSION,
        is_pair=False,
        labels=(),
        splits={},
    )
    repository.store.create(repository.keys.dataset(dataset_id), record.to_bytes())
    return {*keys, f"datasets/{dataset_id}/dataset.json"}


def ended(repository: Repository, ending: str, version: int | None = None) -> set[str]:
    """The checkpoint of a submission that ended in some way; answers the checkpoint's keys."""
    base = repository.ledger.base_version(version)
    if ending == "unknown":
        return checkpoint(repository, contribution_id("nobody", 1), base)
    turn = submit(repository, "ended")
    if ending == "failed":
        repository.submissions.fail("ended", 1, ValueError("no"))
    else:
        repository.submissions.cancel("ended")
        repository.submissions.close("ended")
    return checkpoint(repository, turn, base)


def everything(repository: Repository, settings: Settings, contribute: Contribute) -> None:
    """A repository with garbage of every kind, and one thing of each kind that is none."""
    publish(repository, settings, contribute, 5)
    base = repository.ledger.base_version
    contribute("pending", base=base(2), seed=50, form="full")
    contribute("unmarked", seed=51)
    repository.inbox.remove([contribution_id("unmarked", 1)])
    dataset(repository, "named")
    checkpoint(repository, submit(repository, "open", "named"), base(1))
    ended(repository, "failed", 3)
    dataset(repository, "unnamed")
    put(
        repository,
        f"contributions/v5.t00001/{ATTEMPT}/shared.safetensors",
        f"contributions/never.t00001/{ATTEMPT}/shared.safetensors",
        f"base/000003-{ATTEMPT}/model.safetensors",
        f"base/000006-{ATTEMPT}/model.safetensors",
        f"fusions/000006-{ATTEMPT}/plan.json",
        "datasets/broken/train.parquet",
        "candidates/0000000001.json",
    )
    measured = "0123456789abcdef" * 2
    dataset(repository, measured)  # named by an evaluation alone
    put(repository, f"evaluations/{measured}/{measured}/frozen-0-01234567.json")
    put(repository, f"wanted/{measured}.{measured}.frozen-0-01234567.json")
    repository.store.create(repository.keys.inbox_marker("never.t00001"), b"")
    for version in (1, 2):
        marker = repository.keys.head_marker("a", "named", version, f"v{version}.t00001")
        repository.store.create(marker, b"")
    repository.store.create(repository.keys.open_submission("never"), b"")
