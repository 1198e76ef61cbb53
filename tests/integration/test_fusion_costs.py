"""What is measured of real fusions: the phases of their wall time, bytes, and how they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry

from coldfusion_queue.crash_points import CrashPoint, install
from coldfusion_queue.errors import StoreUnavailableError
from coldfusion_queue.fusion.combine import Combiner
from coldfusion_queue.fusion.reader import SourceReader
from coldfusion_queue.metrics import TaskMetrics
from coldfusion_queue.metrics.fusions import FusionMetrics
from coldfusion_queue.queue import tasks
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.process import Process
from coldfusion_queue.records import Policy
from coldfusion_queue.repository.admission import admit
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.inspecting import Inspector
from coldfusion_queue.repository.ledger import Ledger
from coldfusion_queue.repository.meter import FusionMeter, Phase
from coldfusion_queue.repository.opening import Opener
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.store.signed import SignedRequests
from tests.integration.conftest import Contribute
from tests.integration.probing import probe_wanted
from tests.integration.submitting import upload_rows

Sample = Callable[..., float | None]

#: How long what is slow is held up, once.
_SECONDS = 0.6


@pytest.fixture
def policy() -> Policy:
    return Policy(min_contributions=2, max_wait_seconds=3600)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def sample(registry: CollectorRegistry, repository: Repository) -> Sample:
    """``sample(name, **labels)``: a number of this test's repository; None if there is none."""

    def read(name: str, **labels: str) -> float | None:
        labels["repository"] = repository.name
        return registry.get_sample_value(f"coldfusion_{name}", labels)

    return read


@pytest.fixture
def outcomes(sample: Sample) -> Callable[[], dict[str, float | None]]:
    """How many fusions ended in which way."""
    names = ("committed", "candidate", "lost", "failed")
    return lambda: {name: sample("fusions_total", outcome=name) for name in names}


@pytest.fixture
def fuse(
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], None]:
    """The task, in this process."""
    own = TaskMetrics(CollectorRegistry())
    process = Process(settings, client, own, fusions=FusionMetrics(registry))
    monkeypatch.setattr(tasks, "this_process", lambda: process)
    make_app(settings).set_current()
    return lambda: tasks.fuse(repository.name)


@pytest.fixture(autouse=True)
def _nothing_installed() -> Iterator[None]:
    yield
    install(None)


def inspect(repository: Repository, settings: Settings) -> None:
    """Inspect what is pending, as a look before did that was not due."""
    newest = repository.ledger.newest()
    inspector = Inspector(repository, settings, Opener(repository, newest), newest.after.base)
    admit(repository, inspector, newest, repository.inbox.look())


# --- phases -----------------------------------------------------------------------------------

SLOW: dict[Phase, tuple[type, str]] = {
    Phase.ADMIT: (Inspector, "inspect"),
    Phase.READ: (SourceReader, "read"),
    Phase.COMPUTE: (Combiner, "begin"),
    Phase.WRITE: (SignedRequests, "put"),
    Phase.PUBLISH: (Ledger, "append"),
}


@pytest.mark.parametrize("method", ["mean", "ties", "nesterov"])
@pytest.mark.parametrize("phase", SLOW)
def test_what_holds_a_fusion_up_is_seen_in_its_phase_alone(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    monkeypatch: pytest.MonkeyPatch,
    phase: Phase,
    method: str,
) -> None:
    change_policy(repository, {"method": method})
    for seed in range(2):
        contribute(f"c{seed}", seed=seed)
    inspect(repository, settings)
    owner, name = SLOW[phase]
    original = getattr(owner, name)
    held_up: list[str] = []

    def slow(self: Any, *arguments: Any, **options: Any) -> Any:
        # Records are put as well, when it admits and when it publishes.
        is_model = phase is not Phase.WRITE or arguments[0].endswith(".safetensors")
        if is_model and not held_up:
            held_up.append(name)
            time.sleep(_SECONDS)
        return original(self, *arguments, **options)

    monkeypatch.setattr(owner, name, slow)
    before = time.perf_counter()
    meter = FusionMeter()
    report = fuse_once(repository, settings, meter=meter)
    seconds = meter.seconds()
    wall = time.perf_counter() - before

    assert report.entry is not None
    assert held_up
    # No moment is counted twice, so it is in no other phase.
    assert 0.95 * wall - 0.05 <= sum(seconds.values()) <= wall
    assert seconds[phase] > 0.9 * _SECONDS
    assert all(value > 0 for value in seconds.values())


def test_a_fusion_that_appended_is_counted_with_all_of_its_phases(
    fuse: Callable[[], None],
    contribute: Contribute,
    sample: Sample,
    outcomes: Callable[[], dict[str, float | None]],
) -> None:
    for seed in range(2):
        contribute(f"c{seed}", seed=seed)
    fuse()

    assert outcomes() == {"committed": 1, "candidate": 0, "lost": 0, "failed": 0}
    assert sample("fusion_duration_seconds_count") == 1
    sums = [sample("fusion_phase_seconds_sum", phase=phase) or 0 for phase in Phase]
    assert sum(sums) == pytest.approx(sample("fusion_duration_seconds_sum"))
    assert [sample("fusion_phase_seconds_count", phase=phase) for phase in Phase] == [1] * 5


# --- how they end -------------------------------------------------------------------------------


def test_a_look_that_finds_nothing_due_is_no_fusion_but_its_counts_are_there(
    fuse: Callable[[], None],
    contribute: Contribute,
    sample: Sample,
    outcomes: Callable[[], dict[str, float | None]],
) -> None:
    contribute("alone")
    fuse()

    assert outcomes() == {"committed": 0, "candidate": 0, "lost": 0, "failed": 0}
    assert not sample("fusion_duration_seconds_count")
    # It was inspected, which is work all the same.
    assert sample("fusion_read_bytes_total")


def test_a_fusion_that_another_one_overtook_is_lost(
    repository: Repository,
    settings: Settings,
    fuse: Callable[[], None],
    contribute: Contribute,
    sample: Sample,
    outcomes: Callable[[], dict[str, float | None]],
) -> None:
    for seed in range(2):
        contribute(f"c{seed}", seed=seed)

    def overtake(point: CrashPoint) -> None:
        if point is CrashPoint.PUBLISH_LINEAGE:
            install(None)
            fuse_once(Repository(repository.store, repository.name), settings)

    install(overtake)
    fuse()

    assert outcomes() == {"committed": 0, "candidate": 0, "lost": 1, "failed": 0}
    assert not sample("fusion_duration_seconds_count")


def test_a_fusion_that_the_store_left_in_the_lurch_has_failed(
    fuse: Callable[[], None],
    contribute: Contribute,
    sample: Sample,
    outcomes: Callable[[], dict[str, float | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in range(2):
        contribute(f"c{seed}", seed=seed)

    def fail(*_: object) -> None:
        raise StoreUnavailableError("store", "create", "ledger", "gone")

    monkeypatch.setattr(Ledger, "append", fail)
    fuse()

    assert outcomes() == {"committed": 0, "candidate": 0, "lost": 0, "failed": 1}
    assert not sample("fusion_duration_seconds_count")


def test_a_model_that_waits_for_the_gate_is_a_candidate_and_judging_it_is_no_fusion(
    repository: Repository,
    fuse: Callable[[], None],
    contribute: Contribute,
    sample: Sample,
    outcomes: Callable[[], dict[str, float | None]],
    tmp_path: Path,
) -> None:
    change_policy(repository, {"gate_datasets": (upload_rows(repository, tmp_path),)})
    for seed in range(2):
        contribute(f"c{seed}", seed=seed)
    fuse()
    probe_wanted(repository, lambda base: 0.5)
    fuse()

    assert repository.ledger.base_version().version == 1
    assert outcomes() == {"committed": 0, "candidate": 1, "lost": 0, "failed": 0}
    assert sample("fusion_duration_seconds_count") == 1


# --- bytes ------------------------------------------------------------------------------------


def test_every_byte_that_is_fused_is_counted_once(
    repository: Repository,
    settings: Settings,
    fuse: Callable[[], None],
    contribute: Contribute,
    sample: Sample,
) -> None:
    old = repository.ledger.base_version().model_files[0].num_bytes
    files = [contribute(f"c{seed}", seed=seed).shared.num_bytes for seed in range(2)]
    inspect(repository, settings)
    fuse()

    assert sample("fusion_read_bytes_total") == old + sum(files)
    new = repository.ledger.base_version().model_files[0].num_bytes
    assert sample("fusion_written_bytes_total") == new


def test_the_state_of_momentum_counts_too(
    repository: Repository,
    settings: Settings,
    fuse: Callable[[], None],
    contribute: Contribute,
    sample: Sample,
) -> None:
    change_policy(repository, {"method": "nesterov"})
    sizes = []
    for version in range(2):
        for seed in range(2):
            contribute(f"v{version}c{seed}", seed=10 * version + seed)
        inspect(repository, settings)
        before = sample("fusion_read_bytes_total") or 0, sample("fusion_written_bytes_total") or 0
        fuse()
        after = sample("fusion_read_bytes_total") or 0, sample("fusion_written_bytes_total") or 0
        sizes.append((after[0] - before[0], after[1] - before[1]))

    new = repository.ledger.base_version()
    state = sum(file.num_bytes for file in (new.state or {}).values())
    assert state > 0
    assert sizes[0][1] == sizes[1][1] == new.model_files[0].num_bytes + state
    assert sizes[1][0] == sizes[0][0] + state  # there was none to read for the first
