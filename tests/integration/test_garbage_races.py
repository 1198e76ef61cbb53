"""Collecting garbage beside everything else: crashes, late commits, fusions, two at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coldfusion_queue.crash_points import CrashPoint, install
from coldfusion_queue.errors import LedgerConflictError
from coldfusion_queue.records import Contribution, LedgerEntry, Policy
from coldfusion_queue.repository.collecting import collect, collect_garbage, plan
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.garbage import Kind, Plan, totals
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from tests.integration import leftovers
from tests.integration.conftest import Contribute
from tests.integration.leftovers import ATTEMPT, checkpoint, keys_of, publish, put, submit

KINDS_OF_EVERYTHING = set(Kind) - {Kind.UNFINISHED, Kind.UNMARKED_SUBMISSION}


@pytest.fixture
def policy() -> Policy:
    return Policy(min_contributions=1, retain_base_versions=2, retain_contributions=1)


@pytest.fixture
def _no_hook() -> Iterator[None]:
    yield
    install(None)


def after(repository: Repository, found: Plan) -> set[str]:
    """The keys that a plan should leave."""
    prefix = f"{repository.name}/"
    gone = {key for item in found.items if not item.kind.is_repair for key in item.keys}
    made = {key for item in found.items if item.kind.is_repair for key in item.keys}
    made |= {item.tombstone for item in found.items if item.tombstone}
    keys = {prefix + key for key in keys_of(repository)}
    return {key.removeprefix(prefix) for key in (keys - gone) | made}


def crash_at(point: CrashPoint, occurrence: int) -> None:
    """Raise when a point is reached for the n-th time, as if the process had been killed."""
    reached = []

    def hook(now: CrashPoint) -> None:
        reached.append(now)
        if now is point and reached.count(point) == occurrence:
            raise KeyboardInterrupt

    install(hook)


def test_collecting_twice_is_collecting_once(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    leftovers.everything(repository, settings, contribute)
    expected = after(repository, plan(repository, 0))

    first = collect_garbage(repository, 0)
    left = keys_of(repository)
    second = collect_garbage(repository, 0)

    assert set(totals(first)) == KINDS_OF_EVERYTHING
    assert left == expected
    assert second == ()
    assert keys_of(repository) == left


def test_planning_changes_nothing(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    leftovers.everything(repository, settings, contribute)
    before = list(repository.store.list(f"{repository.name}/"))

    found = plan(repository, 0)

    assert set(totals(found.items)) == KINDS_OF_EVERYTHING
    assert list(repository.store.list(f"{repository.name}/")) == before


@pytest.mark.usefixtures("_no_hook")
@pytest.mark.parametrize(
    ("point", "occurrence"),
    [
        (CrashPoint.GC_PLANNED, 1),
        (CrashPoint.GC_MARKED, 1),
        (CrashPoint.GC_RECORDED, 1),  # the ledger entry in front of attempts at the next version
        (CrashPoint.GC_RECORDED, 2),
        (CrashPoint.GC_RECORDED, 5),
        (CrashPoint.GC_DELETED, 1),
        (CrashPoint.GC_DELETED, 9),
    ],
)
def test_after_a_crash_the_next_collection_comes_to_the_same_end(
    point: CrashPoint,
    occurrence: int,
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
) -> None:
    leftovers.everything(repository, settings, contribute)
    expected = after(repository, plan(repository, 0))
    crash_at(point, occurrence)
    with pytest.raises(KeyboardInterrupt):
        collect_garbage(repository, 0)
    install(None)

    collect_garbage(repository, 0)

    assert keys_of(repository) == expected
    assert collect_garbage(repository, 0) == ()
    fuse_once(repository, settings)
    assert repository.ledger.base_version().version == 6


@pytest.mark.usefixtures("_no_hook")
def test_a_collection_that_broke_off_after_its_record_is_ended_whatever_the_policy_says_now(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    publish(repository, settings, contribute, 3)
    weights = repository.contributions.find("v1.t00001")
    assert weights is not None
    crash_at(CrashPoint.GC_RECORDED, 1)
    with pytest.raises(KeyboardInterrupt):
        collect_garbage(repository, 0)
    install(None)
    change_policy(repository, {"retain_contributions": None, "retain_base_versions": None})
    assert repository.store.stat(weights.shared.key) is not None

    collected = collect_garbage(repository, 0)

    assert [item.kind for item in collected] == [Kind.UNFINISHED]
    assert repository.store.stat(weights.shared.key) is None


def test_what_was_collected_is_not_read_again(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(repository, settings, contribute, 5)
    collect_garbage(repository, 0)
    read: list[str] = []
    get = repository.store.get

    def get_and_tell(key: str) -> bytes:
        read.append(key)
        return get(key)

    monkeypatch.setattr(repository.store, "get", get_and_tell)

    plan(repository, 0)

    contributions = {key.split("/")[2] for key in read if "/contributions/" in key}
    assert contributions == {"v4.t00001", "v5.t00001"}
    assert not [key for key in read if "/base/" in key]


def _uncommitted(repository: Repository, contribution: Contribution) -> None:
    name = contribution.contribution_id
    repository.store.delete(
        [repository.keys.contribution(name), repository.keys.inbox_marker(name)]
    )


def test_an_attempt_that_commits_after_the_plan_stays(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribution = contribute("zombie")
    _uncommitted(repository, contribution)
    found = plan(repository, 0)
    assert [item.kind for item in found.items] == [Kind.ATTEMPT]
    repository.contributions.commit(contribution)

    assert collect(repository, found) == ()

    fuse_once(repository, settings)
    assert repository.ledger.base_version().version == 1


def test_a_marker_whose_contribution_comes_after_the_plan_stays(
    repository: Repository, contribute: Contribute
) -> None:
    contribution = contribute("zombie")
    repository.store.delete([repository.keys.contribution(contribution.contribution_id)])
    found = plan(repository, 0)
    assert set(totals(found.items)) == {Kind.ATTEMPT, Kind.MARKER}
    repository.contributions.commit(contribution)

    assert collect(repository, found) == ()

    assert repository.inbox.count() == 1


def _contribute_on(repository: Repository, contribute: Contribute) -> None:
    contribute("late", base=repository.ledger.base_version(1), seed=9)


def _interrupt_on(repository: Repository, contribute: Contribute) -> None:
    checkpoint(repository, submit(repository, "late"), repository.ledger.base_version(1))


@pytest.mark.parametrize("use", [_contribute_on, _interrupt_on])
def test_a_base_version_that_is_needed_after_the_plan_stays(
    use: Callable[[Repository, Contribute], None],
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
) -> None:
    publish(repository, settings, contribute, 3)
    found = plan(repository, 0)
    assert Kind.BASE_VERSION in totals(found.items)
    use(repository, contribute)

    collected = collect(repository, found)

    assert Kind.BASE_VERSION not in totals(collected)
    base = repository.ledger.base_version(1)
    assert repository.store.stat(base.model_files[0].key) is not None
    assert repository.store.stat(repository.keys.base_collection(base.prefix)) is None


def test_a_turn_that_commits_while_it_is_looked_at_keeps_its_base_version(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(repository, settings, contribute, 3)
    found = plan(repository, 0)
    turn = submit(repository, "late")
    checkpoint(repository, turn, repository.ledger.base_version(1))
    listing = repository.store.list

    def commit_in_between(prefix: str, *, recursive: bool = True) -> object:
        # Its contribution is recorded, then its checkpoint is deleted.
        if prefix == repository.keys.all_checkpoints:
            monkeypatch.undo()
            seen = list(listing(prefix))
            _contribute_on(repository, contribute)
            repository.store.delete([item.key for item in seen])
            return iter(seen)
        return listing(prefix, recursive=recursive)

    monkeypatch.setattr(repository.store, "list", commit_in_between)

    assert Kind.BASE_VERSION not in totals(collect(repository, found))


def _hand_in(repository: Repository) -> None:
    submit(repository, "late", "old")


def _mark(repository: Repository) -> None:
    repository.store.create(repository.keys.open_submission("late"), b"")


def _upload(repository: Repository) -> None:
    repository.store.put(f"{repository.name}/datasets/old/train.parquet", b"the same bytes")


@pytest.mark.parametrize("use", [_hand_in, _mark, _upload])
def test_a_dataset_that_is_handed_in_after_the_plan_stays(
    use: Callable[[Repository], None],
    repository: Repository,
    wait_until: Callable[..., object],
) -> None:
    keys = leftovers.dataset(repository, "old")
    found = plan(repository, 0)
    assert [item.kind for item in found.items] == [Kind.DATASET]
    wait_until(lambda: repository.store.now() > found.items[0].written_at)  # whole seconds
    use(repository)

    assert collect(repository, found) == ()

    assert keys <= keys_of(repository)


def test_a_fusion_whose_attempt_is_collected_publishes_nothing_and_the_next_one_does(
    repository: Repository, settings: Settings, contribute: Contribute, tmp_path: Path
) -> None:
    contribute("a")
    sleeper = Repository(repository.store, repository.name)
    append = sleeper.ledger.append

    def sleep_then_append(entry: LedgerEntry) -> None:
        assert set(totals(collect_garbage(repository, 0))) == {Kind.CANDIDATE}
        append(entry)

    sleeper.ledger.append = sleep_then_append  # type: ignore[method-assign]
    with pytest.raises(LedgerConflictError):
        fuse_once(sleeper, settings)
    assert repository.ledger.base_version().version == 0

    fuse_once(repository, settings)

    published = repository.ledger.base_version()
    assert [line.contributor_id for line in published.fused] == ["a"]
    repository.base_versions.download(published, tmp_path)


def test_an_attempt_that_is_published_after_the_plan_stays(
    repository: Repository, settings: Settings, contribute: Contribute, tmp_path: Path
) -> None:
    contribute("a")
    fuser = Repository(repository.store, repository.name)
    append, plans = fuser.ledger.append, []

    def plan_then_append(entry: LedgerEntry) -> None:
        plans.append(plan(repository, 0))
        append(entry)

    fuser.ledger.append = plan_then_append  # type: ignore[method-assign]
    fuse_once(fuser, settings)
    assert set(totals(plans[0].items)) == {Kind.CANDIDATE}

    assert collect(repository, plans[0]) == ()

    repository.base_versions.download(repository.ledger.base_version(1), tmp_path)


def test_two_collections_at_once_delete_no_more_than_one(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    leftovers.everything(repository, settings, contribute)
    found = plan(repository, 0)
    expected = after(repository, found)
    collect_garbage(repository, 0)

    collect(repository, found)

    assert keys_of(repository) == expected


def test_an_attempt_at_the_next_version_waits_if_the_ledger_went_on(
    repository: Repository,
) -> None:
    doomed = put(repository, f"base/000001-{ATTEMPT}/model.safetensors")
    found = plan(repository, 0)
    change_policy(repository, {"min_contributions": 3})

    assert collect(repository, found) == ()

    assert doomed <= keys_of(repository)
    collect_garbage(repository, 0)
    assert doomed.isdisjoint(keys_of(repository))
