"""Repositories on the real store, and contributions made without training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from prometheus_client import CollectorRegistry
from safetensors.numpy import load_file, save_file

from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.metrics import TaskMetrics
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue import tasks
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.queue.hints import TurnHints
from coldfusion_queue.queue.process import Process
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.records import BaseVersion, Contribution, ModelIdentity, Policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store
from tests.integration.proxy import Proxy

MIB = 1 << 20

# For the test that asks for them by name; none is loaded, so no other test changes. An example
# talks to real servers, hence no deadline; the quick ones are the same in every run.
_ON_SERVERS = hypothesis_settings(
    deadline=None,
    print_blob=True,
    report_multiple_bugs=False,
    stateful_step_count=10,
    suppress_health_check=[HealthCheck.too_slow],
)
hypothesis_settings.register_profile("quick", parent=_ON_SERVERS, max_examples=50, derandomize=True)
hypothesis_settings.register_profile("nightly", parent=_ON_SERVERS, max_examples=500)

Tensors = dict[str, np.ndarray]
Contribute = Callable[..., Contribution]


@pytest.fixture
def prefix(keys: ObjectKeys) -> str:
    """Prefix that no other test writes below."""
    return f"{keys.repository}/"


@pytest.fixture
def small_parts(settings: Settings) -> Settings:
    """Settings with the smallest parts that S3 allows."""
    return settings.model_copy(update={"transfer_part_bytes": 5 * MIB, "transfer_threads": 3})


@pytest.fixture
def proxy(settings: Settings) -> Iterator[Proxy]:
    """A proxy in front of the S3 server."""
    with Proxy(settings.s3_endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def shaky(small_parts: Settings, proxy: Proxy) -> Store:
    """The store behind the proxy."""
    return Store.open(small_parts.model_copy(update={"s3_endpoint": proxy.endpoint}))


@pytest.fixture
def policy() -> Policy:
    """Fuse whatever is there; a test that needs another policy overrides this fixture."""
    return Policy(min_contributions=1, staleness="polynomial")


@pytest.fixture
def repository(
    store: Store, settings: Settings, policy: Policy, tiny_model_dir: Path
) -> Repository:
    """A repository whose pretrained model is the tiny one."""
    opened = Repository(store, settings.repository)
    base = opened.base_versions.upload_first(tiny_model_dir)
    identity = ModelIdentity(
        model_type="bert", hub_id="tiny", tokenizer_digest=None, num_parameters=1
    )
    opened.initialise(identity, base, policy)
    return opened


@pytest.fixture
def client(settings: Settings) -> redis.Redis:
    """The Redis client that the program makes of ``settings``."""
    return connect_redis(settings)


@pytest.fixture
def sender(settings: Settings, client: redis.Redis) -> TurnSender:
    """Sends turns of the repository of ``settings``, whether there is one or not."""
    return TurnSender(make_app(settings), client, settings, settings.repository)


@pytest.fixture
def hints(settings: Settings, client: redis.Redis) -> TurnHints:
    """The hints that ``sender`` sets."""
    return TurnHints(client, settings, settings.repository)


@pytest.fixture
def own_process(settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks called in this process use this test's settings and metrics of their own."""
    process = Process(settings, client, TaskMetrics(CollectorRegistry()))
    monkeypatch.setattr(tasks, "this_process", lambda: process)
    make_app(settings).set_current()


@pytest.fixture
def read_model(repository: Repository, tmp_path: Path) -> Callable[[int | None], Tensors]:
    """Tensors of a published base version, by numpy alone."""

    def read(version: int | None = None) -> Tensors:
        base = repository.ledger.base_version(version)
        path = tmp_path / f"base-{base.version}-{base.digest[:8]}.safetensors"
        repository.store.download(base.model_files[0], path)
        return dict(load_file(path))

    return read


@pytest.fixture
def contribute(
    repository: Repository, read_model: Callable[[int | None], Tensors], tmp_path: Path
) -> Contribute:
    """Commit a contribution with random changes to a base version."""

    def commit(
        name: str,
        *,
        base: BaseVersion | None = None,
        seed: int = 0,
        form: str = "delta",
        change: Callable[[Tensors], Tensors] = lambda tensors: tensors,
        num_examples: int = 100,
        metadata: dict[str, str] | None = None,
        contributor: str | None = None,
    ) -> Contribution:
        base = base or repository.ledger.base_version()
        generator = np.random.default_rng(seed)
        before = read_model(base.version)
        delta = {
            key: (0.01 * generator.standard_normal(value.shape)).astype(np.float32)
            for key, value in before.items()
        }
        if form == "full":
            delta = {key: before[key] + value for key, value in delta.items()}
        path = tmp_path / f"{name}.safetensors"
        save_file(change(delta), path, metadata=metadata)
        full_name = contribution_id(name, 1)
        attempt, files = repository.contributions.upload(full_name, {"shared.safetensors": path})
        contribution = Contribution(
            contribution_id=full_name,
            submission_id=name,
            contributor_id=contributor or name,
            dataset_id=None,
            turn=1,
            attempt=attempt,
            base_version=base.version,
            base_digest=base.digest,
            form=form,
            shared=files["shared.safetensors"],
            head=None,
            num_examples=num_examples,
            metrics={},
            created_at=datetime.now(UTC),
            created_by="test",
        )
        repository.contributions.commit(contribution)
        return contribution

    return commit


def pieces(data: bytes, size: int = 700_001) -> Iterator[bytes]:
    """Chunks whose size fits no part."""
    for offset in range(0, len(data), size):
        yield data[offset : offset + size]
