"""The object store on a real S3 server, and on one behind a proxy that makes trouble."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from coldfusion_queue.errors import (
    AccessDeniedError,
    DigestMismatchError,
    NotFoundError,
    StoreUnavailableError,
    UnsupportedStoreError,
)
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.local.ports import free_port
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store, check_conditional_writes

MIB = 1 << 20


@pytest.fixture
def prefix(keys: ObjectKeys) -> str:
    """Prefix that no other test writes below."""
    return f"{keys.repository}/"


@pytest.fixture
def small_parts(settings: Settings) -> Settings:
    """Settings with the smallest parts that S3 allows."""
    return settings.model_copy(update={"transfer_part_bytes": 5 * MIB, "transfer_threads": 3})


def pieces(data: bytes, size: int = 700_001) -> Iterator[bytes]:
    for offset in range(0, len(data), size):
        yield data[offset : offset + size]


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


class Proxy(ThreadingHTTPServer):
    """Forwards to the real server, after one fault for each of the first requests.

    Faults: ``drop`` closes without an answer, ``lost`` forwards and then closes, ``cut`` ends the
    answer's body half-way, ``503`` and ``html`` answer by themselves, ``pass`` is none.
    """

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(endpoint).netloc
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.faults: list[str] = []
        self.methods: list[str] = []
        self.ignored_headers: set[str] = set()
        self.guard = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        with self.server.guard:
            fault = self.server.faults.pop(0) if self.server.faults else "pass"
            self.server.methods.append(self.command)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "drop":
            self.close_connection = True
            return
        if fault in {"503", "html"}:
            status, text = (503, b"") if fault == "503" else (403, b"<html>go away<br></html>")
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        try:
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in self.server.ignored_headers
            }
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if fault == "lost":
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if fault == "cut":
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)


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
