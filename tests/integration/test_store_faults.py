"""What the store says when credentials, bucket, server or network are wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from coldfusion_queue.errors import (
    AccessDeniedError,
    NotFoundError,
    StoreUnavailableError,
    UnsupportedStoreError,
)
from coldfusion_queue.local.ports import free_port
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store, check_conditional_writes
from tests.integration.conftest import MIB, pieces
from tests.integration.proxy import Proxy

# --- refusals ---------------------------------------------------------------------------------

OPERATIONS: list[Callable[[Store], object]] = [
    lambda store: store.get("x"),
    lambda store: store.stat("x"),
    lambda store: store.find("x"),
    lambda store: store.create("x", b"1"),
    lambda store: store.put("x", b"1"),
    lambda store: store.put_stream("x", [b"1"]),
    lambda store: store.read_range("x", 0, 1),
    lambda store: list(store.list("x")),
    lambda store: store.delete(["x"]),
]
NAMES = ["get", "stat", "find", "create", "put", "put_stream", "read_range", "list", "delete"]


@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_wrong_secret_is_denied_and_names_the_variables(
    settings: Settings, operation: Callable[[Store], object]
) -> None:
    wrong = settings.model_copy(update={"s3_secret_key": SecretStr("not-the-secret")})
    with pytest.raises(AccessDeniedError, match="COLDFUSION_S3_SECRET_KEY") as caught:
        operation(Store.open(wrong))
    assert "not-the-secret" not in str(caught.value)


@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_missing_bucket_is_not_found(
    settings: Settings, operation: Callable[[Store], object]
) -> None:
    missing = settings.model_copy(update={"s3_bucket": "no-such-bucket"})
    if operation is OPERATIONS[1]:
        assert operation(Store.open(missing)) is None
        return
    with pytest.raises(NotFoundError, match="bucket 'no-such-bucket' does not exist"):
        operation(Store.open(missing))


def test_bucket_exists_and_create_bucket(settings: Settings, store: Store) -> None:
    assert store.bucket_exists()
    store.create_bucket()
    other = settings.model_copy(update={"s3_bucket": f"made-{os.urandom(4).hex()}"})
    made = Store.open(other)
    assert not made.bucket_exists()
    made.create_bucket()
    assert made.bucket_exists()


@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_nothing_listening_is_reported_soon(
    settings: Settings, operation: Callable[[Store], object]
) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    nowhere = settings.model_copy(update={"s3_endpoint": endpoint})
    begin = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="COLDFUSION_S3_ENDPOINT") as caught:
        operation(Store.open(nowhere, max_attempts=2))
    assert time.monotonic() - begin < 2
    assert endpoint in str(caught.value)
    assert "refused" in caught.value.reason


# --- trouble on the way -----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["drop", "503", "lost"])
@pytest.mark.parametrize("operation", OPERATIONS[1:], ids=NAMES[1:])
def test_faults_that_pass_are_retried(
    store: Store,
    shaky: Store,
    proxy: Proxy,
    prefix: str,
    fault: str,
    operation: Callable[[Store], object],
) -> None:
    if operation in (OPERATIONS[6],):
        store.put("x", b"1")
    proxy.faults[:] = [fault, fault]
    operation(shaky)
    assert proxy.faults == []
    assert len(proxy.methods) >= 3


def test_answer_that_breaks_off_is_read_again(
    store: Store, shaky: Store, proxy: Proxy, prefix: str, tmp_path: Path
) -> None:
    data = os.urandom(12 * MIB)
    file = store.put_stream(f"{prefix}object", pieces(data))
    proxy.faults[:] = ["cut", "pass", "cut", "drop", "503"]
    shaky.download(file, tmp_path / "object")
    assert (tmp_path / "object").read_bytes() == data
    assert proxy.faults == []


def test_answers_that_always_break_off_are_given_up(
    small_parts: Settings, proxy: Proxy, store: Store, prefix: str
) -> None:
    store.put(f"{prefix}object", bytes(1000))
    proxy.faults[:] = ["cut"] * 50
    behind = small_parts.model_copy(update={"s3_endpoint": proxy.endpoint})
    with pytest.raises(StoreUnavailableError, match="IncompleteRead"):
        Store.open(behind, max_attempts=2).get(f"{prefix}object")
    assert proxy.methods == ["GET", "GET"]


def test_create_whose_answer_was_lost_knows_that_it_won(
    shaky: Store, proxy: Proxy, prefix: str
) -> None:
    proxy.faults[:] = ["lost"]
    assert shaky.create(f"{prefix}record", b"mine") is True
    assert proxy.methods == ["PUT", "PUT", "GET"]


def test_create_whose_request_was_lost_can_still_lose(
    store: Store, shaky: Store, proxy: Proxy, prefix: str
) -> None:
    proxy.faults[:] = ["drop"]
    store.create(f"{prefix}record", b"theirs")
    assert shaky.create(f"{prefix}record", b"mine") is False


def test_every_step_of_an_upload_survives_a_fault(
    store: Store, shaky: Store, proxy: Proxy, prefix: str
) -> None:
    data = os.urandom(11 * MIB)
    proxy.faults[:] = ["503", "pass", "drop", "pass", "503", "drop", "pass"]
    file = shaky.put_stream(f"{prefix}object", pieces(data))
    assert proxy.faults == []
    assert b"".join(store.read_stream(file)) == data


def test_an_upload_ends_soon_after_a_part_could_not_be_sent(
    store: Store, small_parts: Settings, proxy: Proxy, prefix: str
) -> None:
    proxy.faults[:] = ["pass"] + ["503"] * 50  # the upload begins, no part of it goes through
    behind = small_parts.model_copy(update={"s3_endpoint": proxy.endpoint})
    taken: list[int] = []

    with pytest.raises(StoreUnavailableError):
        Store.open(behind, max_attempts=1).put_stream(
            f"{prefix}object", pieces(bytes(200 * MIB)), taken.append
        )

    # A part for each thread and the one that is being filled, and as many again at the most.
    assert sum(taken) <= 2 * (small_parts.transfer_threads + 1) * small_parts.transfer_part_bytes
    assert store.stat(f"{prefix}object") is None


@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
@pytest.mark.parametrize("fault", ["drop", "503"])
def test_lasting_faults_end_in_one_retryable_error(
    small_parts: Settings,
    proxy: Proxy,
    fault: str,
    operation: Callable[[Store], object],
) -> None:
    proxy.faults[:] = [fault] * 50
    behind = small_parts.model_copy(update={"s3_endpoint": proxy.endpoint})
    with pytest.raises(StoreUnavailableError):
        operation(Store.open(behind, max_attempts=2))
    assert len(proxy.methods) <= 4


@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_an_answer_that_is_not_s3_is_an_error_of_ours(
    small_parts: Settings, proxy: Proxy, operation: Callable[[Store], object]
) -> None:
    proxy.faults[:] = ["html"] * 50
    behind = small_parts.model_copy(update={"s3_endpoint": proxy.endpoint})
    with pytest.raises((StoreUnavailableError, AccessDeniedError), match=r"403|AccessDenied"):
        operation(Store.open(behind, max_attempts=2))


# --- conditional writes -----------------------------------------------------------------------


def test_conditional_writes_are_honoured_by_the_real_server(store: Store, prefix: str) -> None:
    check_conditional_writes(store, prefix)
    assert list(store.list(prefix)) == []


def test_a_store_that_overwrites_is_refused(shaky: Store, proxy: Proxy, prefix: str) -> None:
    proxy.ignored_headers.add("if-none-match")
    with pytest.raises(UnsupportedStoreError, match="overwrote") as caught:
        check_conditional_writes(shaky, prefix)
    assert proxy.endpoint in str(caught.value)
    assert list(shaky.list(prefix)) == []
