"""The store as a machine sees it whose clock is wrong, or set while the process runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from pydantic import SecretStr

from coldfusion_queue.errors import AccessDeniedError
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store, check_conditional_writes
from tests.integration.conftest import MIB, pieces

HOUR = timedelta(hours=1)


@pytest.fixture(params=[-HOUR, HOUR, 400 * 24 * HOUR], ids=["behind", "ahead", "over a year ahead"])
def wrong_clock(request: pytest.FixtureRequest) -> Iterator[time_machine.Traveller]:
    """This machine's clock is off by so much."""
    with time_machine.travel(datetime.now(UTC) + request.param, tick=True) as traveller:
        yield traveller


OPERATIONS: dict[str, Callable[[Store, str], object]] = {
    "create": lambda store, prefix: store.create(f"{prefix}new", b"1"),
    "put": lambda store, prefix: store.put(f"{prefix}new", b"1").num_bytes == 1,
    "put_stream": lambda store, prefix: store.put_stream(f"{prefix}new", [b"1"]).num_bytes == 1,
    "get": lambda store, prefix: store.get(f"{prefix}old") == b"there",
    "find": lambda store, prefix: store.find(f"{prefix}none") is None,
    "stat": lambda store, prefix: store.stat(f"{prefix}old") is not None,
    "list": lambda store, prefix: f"{prefix}old" in [item.key for item in store.list(prefix)],
    "delete": lambda store, prefix: store.delete([f"{prefix}old"]) is None,
    "bucket_exists": lambda store, _: store.bucket_exists(),
}


@pytest.fixture
def old(store: Store, prefix: str) -> None:
    """An object that was written while all clocks agreed."""
    store.put(f"{prefix}old", b"there")


@pytest.mark.usefixtures("old", "wrong_clock")
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_works_as_the_first_one(settings: Settings, prefix: str, name: str) -> None:
    assert OPERATIONS[name](Store.open(settings, 1), prefix)


@pytest.mark.usefixtures("old", "wrong_clock")
def test_all_operations_work_one_after_the_other(settings: Settings, prefix: str) -> None:
    store = Store.open(settings, 1)

    assert [name for name, operation in OPERATIONS.items() if not operation(store, prefix)] == []


@pytest.mark.usefixtures("wrong_clock")
def test_large_objects_arrive_whole(small_parts: Settings, prefix: str, tmp_path: Path) -> None:
    store, data = Store.open(small_parts, 1), os.urandom(12 * MIB)

    file = store.put_stream(f"{prefix}large", pieces(data))
    store.download(file, tmp_path / "large")

    assert (tmp_path / "large").read_bytes() == data


@pytest.mark.usefixtures("wrong_clock")
def test_conditional_writes_are_still_conditional(settings: Settings, prefix: str) -> None:
    check_conditional_writes(Store.open(settings, 1), prefix)


def test_ages_are_counted_by_the_stores_clock(store: Store, settings: Settings) -> None:
    before = store.now()
    with time_machine.travel(datetime.now(UTC) + HOUR, tick=True):
        assert timedelta(0) <= Store.open(settings, 1).now() - before < timedelta(seconds=30)


@pytest.mark.parametrize("jumps", [[HOUR], [-HOUR], [HOUR, -HOUR, -3 * HOUR]], ids=str)
def test_a_clock_that_is_set_while_the_process_runs(
    store: Store, prefix: str, jumps: list[timedelta]
) -> None:
    with time_machine.travel(datetime.now(UTC), tick=True) as traveller:
        for number, jump in enumerate(jumps):
            store.put(f"{prefix}{number}", b"before")
            traveller.shift(jump)
            assert store.get(f"{prefix}{number}") == b"before"
            assert store.create(f"{prefix}{number}", b"after") is False


def test_a_clock_that_is_set_between_two_parts_of_an_upload(
    small_parts: Settings, prefix: str
) -> None:
    store, data = Store.open(small_parts), os.urandom(22 * MIB)
    with time_machine.travel(datetime.now(UTC), tick=True) as traveller:

        def chunks() -> Iterator[bytes]:
            for number, piece in enumerate(pieces(data)):
                if number == 20:
                    traveller.shift(-HOUR)
                yield piece

        file = store.put_stream(f"{prefix}large", chunks())

        assert b"".join(store.read_stream(file)) == data


@pytest.mark.usefixtures("wrong_clock")
def test_what_was_learnt_is_said_once(
    settings: Settings, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.open(settings, 1)
    for _ in range(5):
        store.find(f"{prefix}none")

    events = [getattr(record, "event", None) for record in caplog.records]
    assert events.count("store_clock") == 1


@pytest.mark.usefixtures("wrong_clock")
def test_wrong_credentials_are_still_refused(settings: Settings) -> None:
    wrong = settings.model_copy(update={"s3_secret_key": SecretStr("not-the-secret")})
    store = Store.open(wrong, 1)

    for operation in (OPERATIONS["create"], OPERATIONS["get"], OPERATIONS["stat"]):
        with pytest.raises(AccessDeniedError):
            operation(store, "x")


def test_clocks_that_agree_are_left_alone(
    store: Store, settings: Settings, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = settings.model_copy(update={"s3_secret_key": SecretStr("not-the-secret")})
    with caplog.at_level(logging.WARNING):
        assert store.create(f"{prefix}new", b"1")
        with pytest.raises(AccessDeniedError):
            Store.open(wrong, 1).get(f"{prefix}new")

    assert caplog.records == []
