"""The object store on a real S3 server: objects small and large."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest

from coldfusion_queue.errors import (
    DigestMismatchError,
    NotFoundError,
)
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store
from tests.integration.conftest import MIB, pieces


def uploads_of(store: Store, key: str) -> list[str]:
    listing = store._client._list_multipart_uploads(store.bucket, prefix=key)
    return [upload.object_name for upload in listing.uploads]


# --- create-if-absent -------------------------------------------------------------------------


def test_create_first_writer_wins_and_learns_so_again(store: Store, prefix: str) -> None:
    key = f"{prefix}record"
    assert store.create(key, b"mine") is True
    assert store.create(key, b"mine") is True
    assert store.create(key, b"theirs") is False
    assert store.get(key) == b"mine"


def test_a_writer_that_dies_before_its_bytes_are_sent_creates_nothing(
    store: Store, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, send = f"{prefix}half", HTTPConnection.send

    def die(self: HTTPConnection, data: bytes) -> None:
        if not bytes(data).startswith(b"PUT "):
            raise KeyboardInterrupt
        send(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(HTTPConnection, "send", die)
        with pytest.raises(KeyboardInterrupt):
            store.create(key, b"a record")

    end = time.monotonic() + 1  # long enough for the server to see that nobody is there any more
    while time.monotonic() < end:
        assert store.find(key) is None
        time.sleep(0.05)
    assert store.create(key, b"a record") is True
    assert store.get(key) == b"a record"


def test_create_of_eight_racing_threads_has_one_winner(store: Store, prefix: str) -> None:
    for race in range(3):
        key = f"{prefix}race-{race}"
        barrier = threading.Barrier(8)

        def write(
            writer: int, key: str = key, barrier: threading.Barrier = barrier
        ) -> tuple[int, bool]:
            barrier.wait()
            return writer, store.create(key, b"writer %d" % writer)

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(write, range(8)))
        winners = [writer for writer, won in answers if won]
        assert len(winners) == 1
        assert store.get(key) == b"writer %d" % winners[0]


# --- small objects ----------------------------------------------------------------------------


def test_put_get_find_stat(store: Store, prefix: str) -> None:
    key = f"{prefix}a b/ü+%.json"
    assert store.find(key) is None
    assert store.stat(key) is None
    file = store.put(key, b"first")
    store.put(key, b"content")
    assert store.get(key) == b"content" == store.find(key)
    assert file.digest == hashlib.sha256(b"first").hexdigest()
    assert (file.key, file.num_bytes) == (key, 5)
    found = store.stat(key)
    assert found is not None
    assert (found.key, found.num_bytes) == (key, 7)
    assert abs((store.now() - found.last_modified).total_seconds()) < 5


def test_empty_object(store: Store, prefix: str) -> None:
    key = f"{prefix}marker"
    assert store.create(key, b"")
    assert store.get(key) == b""
    assert store.read_range(key, 0, 0) == b""


def test_get_of_a_missing_object_names_it(store: Store, prefix: str) -> None:
    with pytest.raises(NotFoundError, match=f"object '{prefix}nothing' does not exist"):
        store.get(f"{prefix}nothing")


def test_list_is_sorted_and_stops_at_slashes_if_asked(store: Store, prefix: str) -> None:
    names = ["b/2", "a/1", "b/1/deep", "c"]
    for name in names:
        store.put(prefix + name, name.encode())
    assert [item.key.removeprefix(prefix) for item in store.list(prefix)] == sorted(names)
    flat = [item.key.removeprefix(prefix) for item in store.list(prefix, recursive=False)]
    assert flat == ["c", "a/", "b/"]
    assert [item.key for item in store.list(f"{prefix}b/")] == [
        f"{prefix}b/1/deep",
        f"{prefix}b/2",
    ]
    assert list(store.list(f"{prefix}zzz/")) == []


def test_delete_takes_many_keys_also_missing_ones(store: Store, prefix: str) -> None:
    names = [f"{prefix}many/{number:04d}" for number in range(30)]
    for name in names:
        store.put(name, b"x")
    store.delete([*names, f"{prefix}many/never-there"])
    assert list(store.list(f"{prefix}many/")) == []
    store.delete([])


def test_read_range(store: Store, prefix: str) -> None:
    key = f"{prefix}numbers"
    store.put(key, bytes(range(100)))
    assert store.read_range(key, 10, 5) == bytes(range(10, 15))
    assert store.read_range(key, 0, 100) == bytes(range(100))


@pytest.mark.parametrize(
    ("offset", "num_bytes"),
    [
        pytest.param(90, 20, id="ends-past-the-end"),
        pytest.param(100, 1, id="starts-at-the-end"),
        pytest.param(500, 10, id="starts-past-the-end"),
    ],
)
def test_read_range_past_the_end_is_no_shorter_answer(
    store: Store, prefix: str, offset: int, num_bytes: int
) -> None:
    key = f"{prefix}numbers"
    store.put(key, bytes(range(100)))
    with pytest.raises(DigestMismatchError, match=f"expected {num_bytes} bytes"):
        store.read_range(key, offset, num_bytes)


# --- large objects ----------------------------------------------------------------------------


def test_put_stream_and_read_back_in_parts(
    small_parts: Settings, prefix: str, tmp_path: Path
) -> None:
    store = Store.open(small_parts)
    data = os.urandom(17 * MIB + 12_345)
    taken: list[int] = []
    arrived: list[int] = []

    file = store.put_stream(f"{prefix}large", pieces(data), taken.append)

    assert file.digest == hashlib.sha256(data).hexdigest()
    assert file.num_bytes == len(data) == sum(taken)
    assert b"".join(store.read_stream(file)) == data
    target = tmp_path / "large"
    store.download(file, target, arrived.append)
    assert target.read_bytes() == data
    assert sum(arrived) == len(data)
    assert len(arrived) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


@pytest.mark.parametrize("size", [0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1])
def test_put_stream_of_every_size_around_one_part(
    small_parts: Settings, prefix: str, tmp_path: Path, size: int
) -> None:
    store = Store.open(small_parts)
    data = os.urandom(size)
    file = store.put_stream(f"{prefix}object", pieces(data))
    assert file.digest == hashlib.sha256(data).hexdigest()
    store.download(file, tmp_path / "object")
    assert (tmp_path / "object").read_bytes() == data


def test_put_file(small_parts: Settings, prefix: str, tmp_path: Path) -> None:
    store = Store.open(small_parts)
    data = os.urandom(6 * MIB)
    path = tmp_path / "source"
    path.write_bytes(data)
    file = store.put_file(f"{prefix}file", path)
    assert b"".join(store.read_stream(file)) == data


@pytest.mark.parametrize("after_bytes", [0, MIB, 12 * MIB])
@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(ZeroDivisionError("the tensors ran out"), id="any"),
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), id="disk"),
    ],
)
def test_failing_chunks_leave_no_object_and_raise_their_own_error(
    small_parts: Settings, prefix: str, failure: Exception, after_bytes: int
) -> None:
    store = Store.open(small_parts)
    key = f"{prefix}broken"

    def chunks() -> Iterator[bytes]:
        yield from pieces(bytes(after_bytes))
        raise failure

    with pytest.raises(type(failure)) as caught:
        store.put_stream(key, chunks())
    assert caught.value is failure
    assert store.stat(key) is None
    assert uploads_of(store, key) == []


def test_two_uploads_at_once_share_the_threads_and_their_memory(
    small_parts: Settings, prefix: str
) -> None:
    store = Store.open(small_parts.model_copy(update={"transfer_threads": 4}))
    piece = os.urandom(MIB)
    tracemalloc.start()
    try:
        with (
            store.open_upload(f"{prefix}one", num_at_once=2) as one,
            store.open_upload(f"{prefix}other", num_at_once=2) as other,
        ):
            for _ in range(32):
                one.write(piece)
                other.write(piece)
            files = one.finish(), other.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    expected = hashlib.sha256(piece * 32).hexdigest()
    assert [file.digest for file in files] == [expected] * 2
    assert b"".join(store.read_stream(files[1])) == piece * 32
    assert 30 * MIB <= peak < 32 * MIB  # two times three parts


def test_an_error_gives_up_all_uploads_of_a_block(small_parts: Settings, prefix: str) -> None:
    store = Store.open(small_parts)

    def write_both() -> None:
        with (
            store.open_upload(f"{prefix}one", num_at_once=2) as one,
            store.open_upload(f"{prefix}other", num_at_once=2) as other,
        ):
            for _ in range(12):
                one.write(bytes(MIB))
                other.write(bytes(MIB))
            raise ZeroDivisionError("the tensors ran out")

    with pytest.raises(ZeroDivisionError):
        write_both()

    assert list(store.list(prefix)) == []
    assert uploads_of(store, prefix) == []


def test_ctrl_c_aborts_the_upload(small_parts: Settings, prefix: str) -> None:
    store = Store.open(small_parts)
    key = f"{prefix}interrupted"

    def chunks() -> Iterator[bytes]:
        for number in range(100):
            if number == 12:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            yield bytes(MIB)

    with pytest.raises(KeyboardInterrupt):
        store.put_stream(key, chunks())
    assert store.stat(key) is None
    assert uploads_of(store, key) == []


def test_download_refuses_a_damaged_object(store: Store, prefix: str, tmp_path: Path) -> None:
    file = store.put(f"{prefix}object", b"good bytes")
    store.put(file.key, b"evil bytes")
    with pytest.raises(DigestMismatchError, match="damaged or replaced"):
        store.download(file, tmp_path / "object")
    with pytest.raises(DigestMismatchError):
        list(store.read_stream(file))
    assert list(tmp_path.iterdir()) == []


def test_download_refuses_a_truncated_object(store: Store, prefix: str, tmp_path: Path) -> None:
    file = store.put(f"{prefix}object", b"good bytes")
    store.put(file.key, b"good")
    with pytest.raises(DigestMismatchError):
        store.download(file, tmp_path / "object")
    assert list(tmp_path.iterdir()) == []


def test_download_keeps_the_file_that_is_there_when_it_fails(
    store: Store, prefix: str, tmp_path: Path
) -> None:
    file = store.put(f"{prefix}object", b"good bytes")
    store.put(file.key, b"evil bytes")
    (tmp_path / "object").write_bytes(b"older")
    with pytest.raises(DigestMismatchError):
        store.download(file, tmp_path / "object")
    assert (tmp_path / "object").read_bytes() == b"older"


def test_download_beyond_the_file_size_limit_is_a_local_error(
    store: Store, prefix: str, tmp_path: Path
) -> None:
    file = store.put(f"{prefix}object", bytes(3 * MIB))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            store.download(file, tmp_path / "object")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(tmp_path / "object")
    assert list(tmp_path.iterdir()) == []


def test_download_to_a_disk_that_fills_up_is_a_local_error(
    store: Store, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A disk with little room left takes a part of what it is given, and nothing the next time.
    file = store.put(f"{prefix}object", bytes(3 * MIB))
    room = [MIB]
    write = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(descriptor, data[: room[0]], offset)
        room[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space left") as caught:
        store.download(file, tmp_path / "object")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_download_goes_on_after_a_short_write(
    store: Store, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(MIB)
    file = store.put(f"{prefix}object", data)
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, part, at: write(fd, part[:100_000], at))
    store.download(file, tmp_path / "object")
    assert (tmp_path / "object").read_bytes() == data


def test_download_into_a_missing_directory_is_a_local_error(
    store: Store, prefix: str, tmp_path: Path
) -> None:
    file = store.put(f"{prefix}object", b"x")
    with pytest.raises(FileNotFoundError):
        store.download(file, tmp_path / "nowhere" / "object")
