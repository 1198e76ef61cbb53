"""The auditor's own reading of the bucket, against the real server."""

from __future__ import annotations

import hashlib
import os
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from coldfusion_queue.audit.bucket import Bucket
from coldfusion_queue.errors import NotFoundError, StoreUnavailableError
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store
from tests.integration.conftest import MIB, pieces
from tests.integration.proxy import Proxy


@pytest.fixture
def bucket(settings: Settings) -> Bucket:
    return Bucket.open(settings)


@pytest.fixture
def proxy(settings: Settings) -> Iterator[Proxy]:
    with Proxy(settings.s3_endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_read_and_digest_tell_what_is_not_there(bucket: Bucket, store: Store, prefix: str) -> None:
    store.put(f"{prefix}a", b"one")
    store.put(f"{prefix}empty", b"")
    keys = [f"{prefix}{name}" for name in ("a", "empty", "missing")]

    assert bucket.read(keys) == {keys[0]: b"one", keys[1]: b""}
    assert bucket.digest(keys) == {
        keys[0]: hashlib.sha256(b"one").hexdigest(),
        keys[1]: hashlib.sha256(b"").hexdigest(),
        keys[2]: None,
    }


def test_a_listing_has_no_directories(bucket: Bucket, store: Store, prefix: str) -> None:
    store.put(f"{prefix}inbox/x", b"")
    store.put(f"{prefix}inbox/folder/y", b"12")
    store.delete([f"{prefix}inbox/x", f"{prefix}inbox/folder/y"])
    store.put(f"{prefix}folder/", b"")
    store.put(f"{prefix}open/z", b"123")

    assert list(bucket.list(f"{prefix}inbox/")) == []
    assert [(item.key, item.num_bytes) for item in bucket.list(prefix)] == [(f"{prefix}open/z", 3)]


def test_ages_are_counted_by_the_stores_clock(bucket: Bucket, store: Store, prefix: str) -> None:
    store.put(f"{prefix}a", b"one")

    (item,) = bucket.list(prefix)

    assert abs((bucket.now() - item.last_modified).total_seconds()) < 10
    assert abs((bucket.now() - datetime.now(UTC)).total_seconds()) < 10  # it is this machine's


def test_memory_for_digests_does_not_grow_with_the_files(
    bucket: Bucket, store: Store, prefix: str
) -> None:
    data = os.urandom(48 * MIB)
    store.put_stream(f"{prefix}large", pieces(data))
    tracemalloc.start()
    try:
        digests = bucket.digest([f"{prefix}large"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert digests == {f"{prefix}large": hashlib.sha256(data).hexdigest()}
    assert peak < 8 * MIB


def test_an_answer_that_breaks_off_is_asked_for_again(
    settings: Settings, proxy: Proxy, store: Store, prefix: str
) -> None:
    data = os.urandom(3 * MIB)
    store.put(f"{prefix}a", data)
    bucket = Bucket.open(settings.model_copy(update={"s3_endpoint": proxy.endpoint}))
    proxy.faults = ["cut", "drop", "cut"]

    assert bucket.digest([f"{prefix}a"]) == {f"{prefix}a": hashlib.sha256(data).hexdigest()}


def test_answers_that_keep_breaking_off_are_no_finding(
    settings: Settings, proxy: Proxy, store: Store, prefix: str
) -> None:
    store.put(f"{prefix}a", os.urandom(3 * MIB))
    bucket = Bucket.open(settings.model_copy(update={"s3_endpoint": proxy.endpoint}))
    proxy.faults = ["cut"] * 100

    with pytest.raises(StoreUnavailableError, match="failed to read"):
        bucket.digest([f"{prefix}a"])


def test_a_missing_bucket_is_not_found(settings: Settings) -> None:
    bucket = Bucket.open(settings.model_copy(update={"s3_bucket": "no-such-bucket"}))

    with pytest.raises(NotFoundError, match="bucket 'no-such-bucket' does not exist"):
        list(bucket.list("x/"))
    with pytest.raises(NotFoundError, match="bucket 'no-such-bucket' does not exist"):
        bucket.read(["x"])
