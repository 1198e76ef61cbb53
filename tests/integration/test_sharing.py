"""Fusions that several workers share, on the real store and broker; each is a thread here."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr
from safetensors.numpy import load

from coldfusion_queue.audit import audit
from coldfusion_queue.audit.findings import Check
from coldfusion_queue.crash_points import CrashPoint, install
from coldfusion_queue.fusion.faults import ContributionFault
from coldfusion_queue.fusion.methods import make_method
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.names import new_attempt
from coldfusion_queue.queue import tasks
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.queue.lock import single_flight
from coldfusion_queue.queue.sharing import SharedCrew, help_with
from coldfusion_queue.records import FileRecord, FusionPlan, Outcome, Policy
from coldfusion_queue.repository.admission import admit
from coldfusion_queue.repository.collecting import collect_garbage
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.fusion_job import Alone, Crew, FusionJob, run_job
from coldfusion_queue.repository.garbage import Kind
from coldfusion_queue.repository.inspecting import Inspector
from coldfusion_queue.repository.meter import FusionMeter, Phase
from coldfusion_queue.repository.opening import Opener
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from tests.integration.conftest import Contribute, Tensors
from tests.integration.sharded import NUM_SHARDS, shard
from tests.integration.test_fusing import assert_equal_to_rounding, remembered

#: Methods, and the steps that they take: surveys, and the fusion.
NUM_STEPS = {"mean": 1, "geometric_median": 2, "ties": 3, "dare": 1, "nesterov": 1}

Help = Callable[[str, int], int]


class ThreadCrew(SharedCrew):
    """Calls its helpers itself, before it begins, instead of sending them messages."""

    def __init__(
        self,
        client: redis.Redis,
        settings: Settings,
        repository: Repository,
        call: Callable[[str, int], object] = lambda attempt, number: None,
    ) -> None:
        super().__init__(make_app(settings), client, settings, repository.name)
        self._call = call

    def _call_helpers(self, job: FusionJob, number: int) -> None:
        self._call(job.attempt, number)


@pytest.fixture
def policy() -> Policy:
    return Policy(min_contributions=1, staleness="constant")


@pytest.fixture
def tiny_model_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The tiny model with its tensors in several files."""
    return shard(tiny_model_dir, tmp_path / "sharded")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Every fusion is shared.

    Leases have their ordinary length, because a short one can end on a stalled machine while its
    holder lives, and then a piece is done twice.
    """
    return settings.model_copy(update={"fusion_share_bytes": 0})


@pytest.fixture
def read_model(repository: Repository) -> Callable[[int | None], Tensors]:
    def read(version: int | None = None) -> Tensors:
        base = repository.ledger.base_version(version)
        files = [load(repository.store.get(file.key)) for file in base.model_files]
        return {name: tensor for file in files for name, tensor in file.items()}

    return read


@pytest.fixture
def helper(client: redis.Redis, settings: Settings, repository: Repository) -> Help:
    """Does what a helper's task does; -1 if the job is over."""

    def help_(attempt: str, number: int) -> int:
        job = FusionJob.planned(repository, settings, attempt)
        return help_with(client, settings, repository.name, job, number) if job else -1

    return help_


@pytest.fixture
def run(repository: Repository, settings: Settings) -> Callable[[str, Crew], list[FileRecord]]:
    """Fuse all that is pending into an attempt of its own; nothing is decided."""

    def run_(method: str, crew: Crew) -> list[FileRecord]:
        newest = repository.ledger.newest()
        opener = Opener(repository, newest)
        inspector = Inspector(repository, settings, opener, newest.after.base)
        admission = admit(repository, inspector, newest, repository.inbox.look())
        weights = [1.0 / (2 + index) for index in range(len(admission.fusable))]
        plan = FusionPlan(
            sequence=newest.sequence,
            prefix=repository.keys.base_prefix(1, new_attempt()),
            coefficients={
                item.contribution.contribution_id: weight / sum(weights)
                for item, weight in zip(admission.fusable, weights, strict=True)
            },
            method=method,
            method_options=asdict(make_method(method, {})),
        )
        inputs = [
            opener.inspected(
                item.contribution,
                item.inspection,
                plan.coefficients[item.contribution.contribution_id],
            )
            for item in admission.fusable
        ]
        job = FusionJob(repository, settings, plan, newest.after.base, opener, inputs)
        files = run_job(job, crew)
        return [each for file in files for each in (file.model, file.state) if each is not None]

    return run_


@pytest.fixture(autouse=True)
def _nothing_installed() -> Iterator[None]:
    yield
    install(None)


def digests(files: list[FileRecord]) -> list[tuple[str, str]]:
    return [(file.key.rpartition("/")[2], file.digest) for file in files]


def left_behind(repository: Repository) -> list[str]:
    return [item.key for item in repository.store.list(repository.keys.fusions)]


# --- the same bits ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", NUM_STEPS)
def test_whoever_does_the_pieces_the_bits_are_the_same(
    method: str,
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    contribute: Contribute,
    helper: Help,
    run: Callable[[str, Crew], list[FileRecord]],
) -> None:
    for seed, form in enumerate(["delta", "full", "delta"]):
        contribute(f"c{seed}", seed=seed, form=form)
    by_one, by_three = [], []

    def call_three(attempt: str, number: int) -> None:
        with ThreadPoolExecutor(3) as pool:
            by_three.append(sum(pool.map(lambda _: helper(attempt, number), range(3))))

    expected = digests(run(method, Alone()))
    crews = [
        ThreadCrew(client, settings, repository),
        ThreadCrew(client, settings, repository, lambda *job: by_one.append(helper(*job))),
        ThreadCrew(client, settings, repository, call_three),
    ]

    assert [digests(run(method, crew)) for crew in crews] == [expected] * 3
    assert len(expected) == NUM_SHARDS * (2 if method == "nesterov" else 1)
    assert by_one == by_three == [NUM_SHARDS] * NUM_STEPS[method]
    assert left_behind(repository) == []


def test_a_shared_fusion_is_published_as_any_other(
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    contribute: Contribute,
    helper: Help,
    read_model: Callable[[int | None], Tensors],
) -> None:
    change_policy(repository, {"method": "nesterov"})
    before = read_model(0)
    deltas, remember = remembered()
    for seed in range(2):
        contribute(f"c{seed}", seed=seed, change=remember)

    fuse_once(repository, settings, crew=ThreadCrew(client, settings, repository, helper))

    published = repository.ledger.base_version(1)
    assert len(published.model_files) == NUM_SHARDS == len(published.state or {})
    assert set(published.files) == set(repository.ledger.base_version(0).files)
    mean = {name: before[name] + 1.9 * (deltas[0][name] + deltas[1][name]) / 2 for name in before}
    assert_equal_to_rounding(read_model(1), mean)
    assert audit(settings, repository.name).findings == ()


def test_what_is_small_or_in_one_file_is_not_shared(
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    contribute: Contribute,
    run: Callable[[str, Crew], list[FileRecord]],
) -> None:
    contribute("a")
    called = []
    for field, value in (("fusion_share_bytes", 10**9), ("fusion_helpers", 0)):
        changed = settings.model_copy(update={field: value})
        run("mean", ThreadCrew(client, changed, repository, lambda *job: called.append(job)))
    assert called == []
    run("mean", ThreadCrew(client, settings, repository, lambda *job: called.append(job)))
    assert len(called) == 1


def test_each_worker_counts_the_bytes_of_its_own_pieces(
    repository: Repository, settings: Settings, client: redis.Redis, contribute: Contribute
) -> None:
    contribute("a")
    owners: list[int] = []
    helpers: list[int] = []

    def help_with_two(attempt: str, number: int) -> None:
        meter = FusionMeter(on_written=helpers.append)
        job = FusionJob.planned(repository, settings, attempt, meter)
        assert job is not None
        with single_flight(client, RedisKeys(repository.name).piece(attempt, number, 1), 60):
            assert help_with(client, settings, repository.name, job, number) == NUM_SHARDS - 1
        time.sleep(0.6)

    crew = ThreadCrew(client, settings, repository, help_with_two)
    meter = FusionMeter(on_written=owners.append)
    fuse_once(repository, settings, crew=crew, meter=meter)

    sizes = [file.num_bytes for file in repository.ledger.base_version().model_files]
    assert (sum(owners), sum(helpers)) == (sizes[1], sizes[0] + sizes[2])
    # While others compute, its own worker waits for what they do.
    assert meter.seconds()[Phase.COMPUTE] > 0.5


# --- helpers that do not do their part ----------------------------------------------------------


def test_a_piece_whose_helper_died_is_done_when_its_lease_ends(
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    contribute: Contribute,
    run: Callable[[str, Crew], list[FileRecord]],
) -> None:
    contribute("a")
    expected = digests(run("mean", Alone()))

    def die_holding_one(attempt: str, number: int) -> None:
        key = RedisKeys(repository.name).piece(attempt, number, 1)
        client.lock(key, timeout=0.6, thread_local=False).acquire()

    crew = ThreadCrew(client, settings, repository, die_holding_one)
    assert digests(run("mean", crew)) == expected


def test_a_piece_that_somebody_works_on_is_waited_for(
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    contribute: Contribute,
    run: Callable[[str, Crew], list[FileRecord]],
) -> None:
    contribute("a")
    expected = digests(run("mean", Alone()))
    is_held = threading.Event()
    threads: list[threading.Thread] = []
    kept: list[CrashPoint] = []

    def call(attempt: str, number: int) -> None:
        def work() -> None:
            with single_flight(client, RedisKeys(repository.name).piece(attempt, number, 0), 0.6):
                is_held.set()
                time.sleep(2)  # longer than the lease, which is renewed
                job = FusionJob.planned(repository, settings, attempt)
                assert job is not None
                job.keep(number, 0, job.do(job.first_step, 0))

        threads.append(threading.Thread(target=work))
        threads[0].start()
        is_held.wait(20)

    install(kept.append)
    files = run("mean", ThreadCrew(client, settings, repository, call))
    threads[0].join()

    assert digests(files) == expected
    assert kept.count(CrashPoint.SHARE_KEPT) == NUM_SHARDS - 1


def test_without_a_broker_the_worker_does_everything(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    run: Callable[[str, Crew], list[FileRecord]],
) -> None:
    contribute("a")
    gone = SecretStr("redis://127.0.0.1:1/0")
    away = settings.model_copy(update={"broker_url": gone})
    crew = SharedCrew(make_app(away), connect_redis(away), away, repository.name)

    assert digests(run("mean", crew)) == digests(run("mean", Alone()))


def test_a_collection_of_garbage_meanwhile_costs_work_and_no_more(
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    contribute: Contribute,
    run: Callable[[str, Crew], list[FileRecord]],
) -> None:
    contribute("a")
    expected = digests(run("ties", Alone()))
    kept: list[CrashPoint] = []

    def collect(point: CrashPoint) -> None:
        if point is CrashPoint.SHARE_KEPT:
            kept.append(point)
            repository.store.delete(left_behind(repository))

    install(collect)

    assert digests(run("ties", ThreadCrew(client, settings, repository))) == expected
    assert len(kept) == NUM_STEPS["ties"] * NUM_SHARDS


def test_a_contribution_at_fault_is_found_by_the_fusions_worker_too(
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    contribute: Contribute,
    helper: Help,
) -> None:
    contribute("good", seed=1)
    bad = contribute("bad", seed=2)
    faults = []

    def damage(point: CrashPoint) -> None:
        if point is CrashPoint.FUSE_SELECTED:
            data = bytearray(repository.store.get(bad.shared.key))
            data[-1] ^= 1
            repository.store.put(bad.shared.key, bytes(data))

    def call(attempt: str, number: int) -> None:
        try:
            helper(attempt, number)
        except ContributionFault as fault:
            faults.append(fault.contribution_id)

    install(damage)
    report = fuse_once(repository, settings, crew=ThreadCrew(client, settings, repository, call))

    outcomes = {item.contribution_id: item.outcome for item in report.decisions}
    assert outcomes == {"good.t00001": Outcome.FUSED, "bad.t00001": Outcome.REFUSED}
    assert faults == ["bad.t00001"]
    assert left_behind(repository) == []


def test_a_helper_that_comes_late_finds_nothing_to_do(
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    contribute: Contribute,
    helper: Help,
    run: Callable[[str, Crew], list[FileRecord]],
) -> None:
    contribute("a")
    jobs: list[tuple[str, int]] = []
    run("ties", ThreadCrew(client, settings, repository, lambda *job: jobs.append(job)))

    assert [helper(*job) for job in jobs] == [-1] * 3
    job = FusionJob.planned(repository, settings, jobs[0][0])
    assert job is None
    assert left_behind(repository) == []


def test_a_late_result_is_not_kept(
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    contribute: Contribute,
    run: Callable[[str, Crew], list[FileRecord]],
) -> None:
    contribute("a")
    late: list[FusionJob] = []

    def call(attempt: str, number: int) -> None:
        job = FusionJob.planned(repository, settings, attempt)
        assert job is not None
        late.append(job)

    run("mean", ThreadCrew(client, settings, repository, call))
    late[0].keep(0, 0, late[0].do(late[0].first_step, 0))

    assert left_behind(repository) == []


# --- the task ----------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", ["000001-0123456789abcdef", "gone"])
def test_a_message_for_a_fusion_that_is_over_is_answered_with_nothing(
    attempt: str, own_process: None, repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        tasks.help_fusion(repository.name, attempt, 0)

    (record,) = [each for each in caplog.records if hasattr(each, "pieces")]
    assert record.pieces == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("ending", ["contribution", "repository"])
def test_a_helper_without_what_the_plan_names_leaves_it_to_the_fusions_worker(
    ending: str,
    own_process: None,
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    contribute: Contribute,
    run: Callable[[str, Crew], list[FileRecord]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    contribution = contribute("a")
    said: list[str] = []

    def call(attempt: str, number: int) -> None:
        key = repository.keys.contribution(contribution.contribution_id)
        record = repository.store.get(key)
        repository.store.delete([key])
        name = repository.name if ending == "contribution" else "nowhere"
        with caplog.at_level(logging.WARNING):
            tasks.help_fusion(name, attempt, number)
        repository.store.create(key, record)
        said.extend(each.getMessage() for each in caplog.records if "left to" in each.message)

    run("mean", ThreadCrew(client, settings, repository, call))

    assert len(said) == 1
    assert ("contribution 'a.t00001'" if ending == "contribution" else "nowhere") in said[0]


# --- what is left behind ------------------------------------------------------------------------


def test_what_a_fusion_that_died_left_is_found_and_collected(
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    contribute: Contribute,
) -> None:
    contribute("a")

    class Died(BaseException):
        pass

    def die(point: CrashPoint) -> None:
        if point is CrashPoint.SHARE_KEPT:
            raise Died

    crew = ThreadCrew(client, settings, repository)
    crew.leave = lambda job: None  # type: ignore[method-assign]
    install(die)
    with pytest.raises(Died):
        fuse_once(repository, settings, crew=crew)
    install(None)

    assert len(left_behind(repository)) == 2
    (attempt,) = {key.split("/")[-2] for key in left_behind(repository)}
    job = FusionJob.planned(repository, settings, attempt)
    assert job is not None
    assert not job.is_over()
    change_policy(repository, {"max_wait_seconds": 1})  # another writer decides something
    assert job.is_over()
    assert FusionJob.planned(repository, settings, attempt) is None
    assert {item.check for item in audit(settings, repository.name).findings} == set()
    found = audit(settings, repository.name, grace_seconds=0).findings
    assert Check.ORPHANS_FUSION in {item.check for item in found}
    collected = collect_garbage(repository, 0)
    assert Kind.FUSION in {item.kind for item in collected}
    assert left_behind(repository) == []
    fuse_once(repository, settings, crew=ThreadCrew(client, settings, repository))
    assert audit(settings, repository.name, grace_seconds=0).findings == ()
    assert repository.ledger.base_version().version == 1
