"""What is read of the past: by whom, how much of it, and what happens when it changes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from coldfusion_queue.errors import StoreUnavailableError
from coldfusion_queue.overview import Bounds, RecentHistory, WholeHistory
from coldfusion_queue.overview.overview import History as Known
from coldfusion_queue.overview.tally import LedgerCount, LedgerTally
from coldfusion_queue.records import Rule
from tests.unit.report.history import History, gate_report

BOUNDS = Bounds(staleness=(0,), relative_norm=(1,), cosine=(0,))


def grow(history: History, number: int) -> None:
    for _ in range(number):
        name = f"x{len(history.entries)}.t00001"
        history.fuse([history.contribution("anna")], {name: (Rule.FINITE, "nan")})


def expected(history: History) -> LedgerTally:
    count = LedgerCount(BOUNDS)
    for entry in history.entries:
        count.add(entry)
    return count.tally()


def read(whole: WholeHistory, history: History) -> Known:
    return whole.read(history.repository, history.entries[-1])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def caught_up(whole: WholeHistory, history: History) -> Known:
    found: list[Known] = []

    def is_there() -> bool:
        found.append(read(whole, history))
        return found[-1].tally is not None

    until(is_there)
    return found[-1]


@contextmanager
def held_up(history: History) -> Iterator[threading.Event]:
    """The store answers nothing while the block runs, but what the event is set for."""
    store, go = history.memory, threading.Event()
    get = store.get

    def slow(key: str) -> bytes:
        assert go.wait(20)
        return get(key)

    store.get = slow  # type: ignore[method-assign]
    try:
        yield go
    finally:
        go.set()
        store.get = get  # type: ignore[method-assign]


def test_a_short_ledger_is_counted_at_once() -> None:
    history = History()
    grow(history, 5)

    assert read(WholeHistory(BOUNDS), history).tally == expected(history)


def test_nobody_waits_for_a_long_ledger_and_no_part_of_it_is_told() -> None:
    history, whole = History(), WholeHistory(BOUNDS)
    grow(history, 300)

    with held_up(history):
        assert [read(whole, history).tally for _ in range(3)] == [None, None, None]

    assert caught_up(whole, history).tally == expected(history)


def test_what_was_counted_is_not_read_again() -> None:
    history, whole = History(), WholeHistory(BOUNDS)
    grow(history, 100)
    caught_up(whole, history)
    history.memory.reads.clear()

    grow(history, 3)

    assert read(whole, history).tally == expected(history)
    ledger = [key for key in history.memory.reads if "/ledger/" in key]
    assert sorted(ledger) == [history.keys.ledger(number) for number in (101, 102)]


def test_a_bucket_that_was_put_back_is_counted_anew() -> None:
    history, whole = History(), WholeHistory(BOUNDS)
    grow(history, 6)
    read(whole, history)
    del history.entries[4:]

    assert read(whole, history).tally == expected(history)
    grow(history, 1)
    assert read(whole, history).tally == expected(history)


def test_a_store_that_fails_meanwhile_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    history, whole = History(), WholeHistory(BOUNDS)
    grow(history, 60)
    key, get = history.keys.ledger(40), history.memory.get

    def failing(name: str) -> bytes:
        if name == key:
            raise StoreUnavailableError("http://store", "read", name, "gone")
        return get(name)

    history.memory.get = failing  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        assert read(whole, history).tally is None
        until(lambda: bool(caplog.records))
    assert {record.__dict__["event"] for record in caplog.records} == {"history_unread"}
    history.memory.get = get  # type: ignore[method-assign]

    assert caught_up(whole, history).tally == expected(history)


def test_quality_is_that_of_the_last_time_and_is_read_for_the_next() -> None:
    history, whole = History(), WholeHistory(BOUNDS)
    history.evaluate(history.fuse([history.contribution("anna")]), "d", 0.7)

    assert read(whole, history).quality == ()
    until(lambda: bool(read(whole, history).quality))

    (found,) = read(whole, history).quality
    assert (found.dataset_id, found.kind, found.score, found.base_version) == (
        "d",
        "frozen",
        0.7,
        1,
    )


def test_what_takes_long_to_list_is_listed_seldom_however_often_somebody_asks() -> None:
    history, whole = History(), WholeHistory(BOUNDS)
    history.evaluate(history.fuse([history.contribution("anna")]), "d", 0.7)
    listings, show = [], history.memory.list

    def slow(prefix: str, *, recursive: bool = True) -> Iterator[Any]:
        if prefix == history.keys.all_evaluations:
            listings.append(time.monotonic())
            time.sleep(0.05)
        return show(prefix, recursive=recursive)

    history.memory.list = slow  # type: ignore[method-assign]
    ends = time.monotonic() + 0.5
    while time.monotonic() < ends:
        read(whole, history)
        time.sleep(0.005)
    assert len(listings) == 1

    until(lambda: bool(read(whole, history)) and len(listings) > 1)
    assert listings[1] - listings[0] >= 20 * 0.05


def test_the_recent_past_is_the_last_entries_and_what_they_published() -> None:
    history = History()
    history.evaluate(history.base, "old", 0.1)
    grow(history, 4)
    history.evaluate(history.base, "new", 0.9)
    history.withhold([history.contribution("ben")], gate_report(0.1, 0.9))
    recent = RecentHistory(num_entries=3)

    found = recent.read(history.repository, history.entries[-1])

    assert found.tally is None
    assert found.recent == tuple(history.entries[-3:])
    assert [item.dataset_id for item in found.quality] == ["new"]
    history.memory.reads.clear()
    grow(history, 1)
    assert recent.read(history.repository, history.entries[-1]).recent == tuple(
        history.entries[-3:]
    )
    assert not any("/ledger/" in key for key in history.memory.reads)


def test_a_young_repository_has_a_short_past() -> None:
    history = History()

    found = RecentHistory().read(history.repository, history.entries[-1])

    assert found.recent == tuple(history.entries)
