"""Looking into the inbox, on the real store; no models are needed for that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from coldfusion_queue import crash_points
from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.errors import NotFoundError, StoreUnavailableError
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.records import Contribution, Decision, FileRecord, Outcome
from coldfusion_queue.repository.committing import Contributions
from coldfusion_queue.repository.inbox import Inbox
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store


@pytest.fixture
def contributions(store: Store, keys: ObjectKeys) -> Contributions:
    return Contributions(store, keys)


@pytest.fixture
def inbox(store: Store, keys: ObjectKeys, contributions: Contributions) -> Inbox:
    return Inbox(store, keys, contributions)


@pytest.fixture
def reached() -> Iterator[list[tuple[CrashPoint, threading.Thread]]]:
    """The crash points that are reached, and in which thread."""
    points: list[tuple[CrashPoint, threading.Thread]] = []
    crash_points.install(lambda point: points.append((point, threading.current_thread())))
    yield points
    crash_points.install(None)


def record(name: str) -> Contribution:
    return Contribution(
        contribution_id=name,
        submission_id=name,
        contributor_id=name,
        dataset_id=None,
        turn=1,
        attempt="a",
        base_version=0,
        base_digest="0" * 64,
        form="delta",
        shared=FileRecord(key="k", digest="1" * 64, num_bytes=1),
        head=None,
        num_examples=0,
        metrics={},
        created_at=datetime(2026, 11, 22, tzinfo=UTC),
        created_by="test",
    )


def decide(store: Store, keys: ObjectKeys, name: str) -> None:
    decision = Decision(
        contribution_id=name, outcome=Outcome.REFUSED, reason="r", sequence=1, version=None
    )
    store.create(keys.decision(name), decision.to_bytes())


def test_many_are_found_in_the_order_of_their_arrival(
    inbox: Inbox, contributions: Contributions
) -> None:
    names = [f"{number * 7 % 300:03}" for number in range(300)]  # more than one batch
    for name in names:
        contributions.commit(record(name))

    found = inbox.look().pending

    order = [(item.arrived_at, item.contribution.contribution_id) for item in found]
    assert order == sorted(order)
    assert sorted(names) == sorted(item.contribution.contribution_id for item in found)


def test_each_kind_of_marker_is_told_apart(
    store: Store,
    keys: ObjectKeys,
    inbox: Inbox,
    contributions: Contributions,
    reached: list[tuple[CrashPoint, threading.Thread]],
) -> None:
    for name in ("bad", "good", "late", "later"):
        contributions.commit(record(name))
    store.put(keys.contribution("bad"), b"{not json")
    store.create(keys.inbox_marker("coming"), b"")
    decide(store, keys, "late")
    decide(store, keys, "later")
    reached.clear()

    contents = inbox.look()

    assert [item.contribution for item in contents.pending] == [record("good")]
    assert contents.unreadable.keys() == {"bad"}
    left = {item.key.rpartition("/")[2] for item in store.list(keys.inbox)}
    assert left == {"bad", "good", "coming"}
    assert reached == [(CrashPoint.FUSE_UNMARKED, threading.current_thread())] * 2


def test_a_crash_after_a_late_duplicate_is_unmarked_leaves_the_rest_to_the_next_look(
    store: Store, keys: ObjectKeys, inbox: Inbox, contributions: Contributions
) -> None:
    for name in ("a", "b", "c"):
        contributions.commit(record(name))
    decide(store, keys, "a")
    decide(store, keys, "b")

    def crash(point: CrashPoint) -> None:
        raise KeyboardInterrupt

    crash_points.install(crash)
    try:
        with pytest.raises(KeyboardInterrupt):
            inbox.look()
    finally:
        crash_points.install(None)
    assert inbox.count() == 2

    assert [item.contribution.contribution_id for item in inbox.look().pending] == ["c"]
    assert inbox.count() == 1


def test_several_are_looked_at_at_once_and_not_all(
    inbox: Inbox, contributions: Contributions, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        contributions.commit(record(f"{number:02}"))
    find = contributions.find
    at_once = threading.Barrier(16, timeout=20)
    count, guard, most = 0, threading.Lock(), 0

    def meet(name: str) -> Contribution | None:
        nonlocal count, most
        with guard:
            count += 1
            most = max(most, count)
        if name < "16":
            at_once.wait()
        try:
            return find(name)
        finally:
            with guard:
                count -= 1

    monkeypatch.setattr(contributions, "find", meet)

    assert len(inbox.look().pending) == 40
    assert most == 16


def test_the_first_error_is_raised_and_the_rest_is_not_looked_at(
    inbox: Inbox, contributions: Contributions, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(600):
        contributions._store.create(inbox._keys.inbox_marker(f"{number:03}"), b"")
    asked: list[str] = []

    def fail(name: str) -> Contribution | None:
        asked.append(name)
        if name in {"003", "005"}:
            raise StoreUnavailableError("endpoint", "read", name, "trouble")
        return None

    monkeypatch.setattr(contributions, "find", fail)

    with pytest.raises(StoreUnavailableError, match="003"):
        inbox.look()
    assert len(asked) < 300


def test_a_missing_bucket_is_an_error(settings: Settings, keys: ObjectKeys) -> None:
    store = Store.open(settings.model_copy(update={"s3_bucket": "no-such-bucket"}))

    with pytest.raises(NotFoundError, match="bucket 'no-such-bucket' does not exist"):
        Inbox(store, keys, Contributions(store, keys)).look()
