"""Objects of one bucket: create-if-absent, streams, ranges, listings, all digests checked."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import urllib3
from minio.datatypes import Object
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from coldfusion_queue.errors import (
    DigestMismatchError,
    NotFoundError,
    StoreUnavailableError,
)
from coldfusion_queue.records import FileRecord
from coldfusion_queue.settings import Settings
from coldfusion_queue.store.clock import ClockedMinio
from coldfusion_queue.store.connection import Place, connect, mapped_errors, raise_for_code
from coldfusion_queue.store.listing import ObjectInfo, list_objects
from coldfusion_queue.store.multipart import Upload
from coldfusion_queue.store.pool import CountedPool
from coldfusion_queue.store.signed import SignedRequests, code_and_message
from coldfusion_queue.threads import WorkThreads

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

__all__ = ["ObjectInfo", "Store"]

_READ_BYTES = 1 << 20


class Store:
    """One bucket of an S3 store.

    All methods raise ``StoreUnavailableError`` when the store does not answer after all attempts,
    ``AccessDeniedError`` when it refuses the credentials and ``NotFoundError`` when the bucket
    does not exist. A store object may be shared between threads, not between processes.
    """

    def __init__(
        self, client: ClockedMinio, pool: CountedPool, settings: Settings, attempts: int
    ) -> None:
        self._client = client
        self._pool = pool
        self._part_bytes = settings.transfer_part_bytes
        self._threads = settings.transfer_threads
        self._attempts = attempts
        self.bucket = settings.s3_bucket
        self.endpoint = settings.s3_endpoint
        self._place = Place(self.endpoint, self.bucket)
        self._signed = SignedRequests(client, pool, self.bucket)

    @classmethod
    def open(cls, settings: Settings, max_attempts: int | None = None) -> Self:
        """Make a store from settings; nothing is sent yet."""
        attempts = max_attempts or settings.s3_max_attempts
        return cls(*connect(settings, attempts), settings, attempts)

    # --- small objects ------------------------------------------------------------------------

    def create(self, key: str, data: bytes) -> bool:
        """Create an object if there is none under its key: the commit point of every record.

        Idempotent: the same bytes a second time answer True again, so that a writer whose first
        answer was lost learns that it won. Records that must tell writers apart hold a token.

        Returns:
            Whether the object now holds ``data``; False if it holds something else.
        """
        for _ in range(self._attempts):
            status, code, message = self._conditional_put(key, data)
            if status < 300:
                return True
            if status == 412:
                return self.find(key) == data
            if status != 409:  # 409: a concurrent writer has neither won nor lost yet
                raise_for_code(self._place, "create", key, code, message, None)
            time.sleep(0.05)
        raise StoreUnavailableError(self.endpoint, "create", key, "409 conflict, repeatedly")

    def put(self, key: str, data: bytes) -> FileRecord:
        """Write a small object under a key that is the caller's alone; overwrites."""
        with self._mapped("write", key):
            self._client.put_object(self.bucket, key, io.BytesIO(data), len(data))
        return FileRecord(key=key, digest=hashlib.sha256(data).hexdigest(), num_bytes=len(data))

    def get(self, key: str) -> bytes:
        """Read a whole small object.

        Raises:
            NotFoundError: there is no such object.
        """
        return self._read(key, 0, 0)

    def find(self, key: str) -> bytes | None:
        """Read a whole small object, or None if there is no such object."""
        try:
            return self.get(key)
        except NotFoundError as error:
            if error.what == "bucket":
                raise
            return None

    def stat(self, key: str) -> ObjectInfo | None:
        """Size and time of an object, or None if there is no such object.

        A missing bucket answers None as well: the request has no body that could tell.
        """
        try:
            with self._mapped("look up", key):
                found = self._client.stat_object(self.bucket, key)
        except NotFoundError:
            return None
        return _info(key, found)

    def list(self, prefix: str, *, recursive: bool = True) -> Iterator[ObjectInfo]:
        """Objects whose key begins with ``prefix``, in the order of their keys.

        Args:
            prefix: beginning of the keys.
            recursive: False stops at the next ``/`` and yields what lies beyond it as one entry
                whose key ends in ``/``, after the others.
        """
        with self._mapped("list", prefix):
            for item in list_objects(self._client, self.bucket, prefix, recursive=recursive):
                # SeaweedFS lists the prefix itself when it was once a directory.
                if item.key != prefix:
                    yield item

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that do not exist count as deleted."""
        doomed = list(keys)
        if not doomed:
            return
        with self._mapped("delete", doomed[0]):
            objects = (DeleteObject(key) for key in doomed)
            for failure in self._client.remove_objects(self.bucket, objects):
                raise_for_code(
                    self._place,
                    "delete",
                    failure.name or "",
                    failure.code,
                    failure.message or "",
                    None,
                )

    # --- large objects ------------------------------------------------------------------------

    def put_stream(
        self, key: str, chunks: Iterable[bytes], progress: Callable[[int], None] | None = None
    ) -> FileRecord:
        """Write an object of unknown size from chunks, as a parallel multipart upload.

        An error, the chunks' own included, aborts the upload and leaves no object. Memory:
        ``transfer_threads + 1`` parts.

        Args:
            key: a key that is the caller's alone; overwritten if it exists.
            chunks: the content, in pieces of any size.
            progress: called with the number of bytes of each piece that was taken.
        """
        with self.open_upload(key) as upload:
            for chunk in chunks:
                upload.write(chunk)
                if progress is not None:
                    progress(len(chunk))
            return upload.finish()

    def open_upload(self, key: str, *, num_at_once: int = 1) -> Upload:
        """Begin to write an object of unknown size, for callers that write several at a time.

        Memory: each of N uploads at once holds ``transfer_threads / N + 1`` parts, or two if there
        are fewer threads than uploads.

        Args:
            key: a key that is the caller's alone; overwritten if it exists.
            num_at_once: N, how many of the caller's uploads share ``transfer_threads``.

        Returns:
            To be used in a ``with`` block, in which it is finished.
        """
        threads = max(1, self._threads // num_at_once)
        return Upload(self._signed, self._place, key, self._part_bytes, threads)

    def put_file(
        self, key: str, path: Path, progress: Callable[[int], None] | None = None
    ) -> FileRecord:
        """Write a local file; see ``put_stream``."""
        with path.open("rb") as file:
            return self.put_stream(key, iter(lambda: file.read(_READ_BYTES), b""), progress)

    def read_range(
        self, key: str, offset: int, num_bytes: int, *, stamp: str | None = None
    ) -> bytes:
        """Read ``num_bytes`` bytes from ``offset``.

        Args:
            key: the object.
            offset: of the first byte.
            num_bytes: how many.
            stamp: ``ObjectInfo.stamp`` that it must have; None takes any.

        Raises:
            NotFoundError: there is no such object.
            DigestMismatchError: the object ends before the range does, or has another stamp.
        """
        if num_bytes == 0:
            return b""
        data = self._read(key, offset, num_bytes, stamp)
        if len(data) != num_bytes:
            end = f"{len(data)} bytes at offset {offset}"
            raise DigestMismatchError(key, end, f"{num_bytes} bytes")
        return data

    def read_stream(self, file: FileRecord) -> Iterator[bytes]:
        """Read a whole object in parts, in order; its digest is checked at the end.

        Raises:
            NotFoundError: there is no such object.
            DigestMismatchError: the bytes are not the recorded ones; raised after the last part,
                so a caller must not use what it got before the iterator ends.
        """
        digest = hashlib.sha256()
        for offset in range(0, file.num_bytes, self._part_bytes):
            part = self.read_range(file.key, offset, min(self._part_bytes, file.num_bytes - offset))
            digest.update(part)
            yield part
        _check_digest(file, digest.hexdigest())

    def download(
        self, file: FileRecord, path: Path, progress: Callable[[int], None] | None = None
    ) -> None:
        """Read a whole object into a local file with parallel ranged reads.

        The file appears under its name only when its digest was found right.

        Args:
            file: what to read.
            path: where to put it; the directory must exist.
            progress: called with the number of bytes of each part that arrived.

        Raises:
            NotFoundError: there is no such object.
            DigestMismatchError: the bytes are not the recorded ones.
            OSError: the local disk refuses, for example because it is full.
        """
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        part_path = Path(name)
        try:
            with os.fdopen(descriptor, "r+b") as target:
                target.truncate(file.num_bytes)
                self._download_parts(file, target.fileno(), progress)
                target.seek(0)
                _check_digest(file, hashlib.file_digest(target, "sha256").hexdigest())
            part_path.chmod(0o644)
            part_path.replace(path)
        except OSError as error:
            error.filename = error.filename or str(path)
            raise
        finally:
            part_path.unlink(missing_ok=True)

    def _download_parts(
        self, file: FileRecord, descriptor: int, progress: Callable[[int], None] | None
    ) -> None:
        def fetch(offset: int) -> int:
            length = min(self._part_bytes, file.num_bytes - offset)
            part = memoryview(self.read_range(file.key, offset, length))
            done = 0
            while done < length:  # a disk that is nearly full takes less than it is given
                done += os.pwrite(descriptor, part[done:], offset + done)
            return length

        offsets = range(0, file.num_bytes, self._part_bytes)
        with WorkThreads(self._threads) as threads:
            try:
                for num_bytes in threads.map(fetch, offsets):
                    if progress is not None:
                        progress(num_bytes)
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise

    # --- the store itself ---------------------------------------------------------------------

    def now(self) -> datetime:
        """The store's own clock, to the second: the only one that ages are counted by."""
        with self._mapped("reach", self.bucket):
            url = self._client.get_presigned_url("HEAD", self.bucket, ".clock")
            response = self._pool.request("HEAD", url)
        return parsedate_to_datetime(response.headers["Date"])

    def bucket_exists(self) -> bool:
        """Whether the bucket is there, which also proves endpoint and credentials."""
        with self._mapped("look up bucket", self.bucket):
            return bool(self._client.bucket_exists(self.bucket))

    def create_bucket(self) -> None:
        """Create the bucket; one that exists and that we may use counts as created.

        Raises:
            AccessDeniedError: the name is somebody else's bucket.
        """
        with self._mapped("create bucket", self.bucket):
            try:
                self._client.make_bucket(self.bucket)
            except S3Error as error:
                taken = error.code in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}
                if not (taken and self._client.bucket_exists(self.bucket)):
                    raise

    def server_name(self) -> str:
        """What the store calls itself in its answers."""
        with self._mapped("reach", self.bucket):
            response = self._pool.request("GET", self.endpoint, redirect=False)
        return response.headers.get("Server", "unnamed server")

    def _mapped(self, operation: str, key: str) -> AbstractContextManager[None]:
        return mapped_errors(self._place, operation, key)

    def _conditional_put(self, key: str, data: bytes) -> tuple[int, str, str]:
        # Without a digest SeaweedFS takes a writer that dies before it has sent its bytes for one
        # that had none: an empty object would stand there for good.
        digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        headers = {"If-None-Match": "*", "Content-MD5": digest}
        with self._mapped("create", key):
            response = self._signed.put(key, data, headers=headers)
            if response.status < 300 or response.status in {409, 412}:
                return response.status, "", ""
            return response.status, *code_and_message(response)

    def _read(self, key: str, offset: int, num_bytes: int, stamp: str | None = None) -> bytes:
        # The pool repeats requests that fail; this repeats answers that break off half-way.
        retrying = Retrying(
            stop=stop_after_attempt(self._attempts),
            wait=wait_exponential(multiplier=0.2, max=20) + wait_random(0, 0.5),
            retry=retry_if_exception_type(_BrokenAnswerError),
            before_sleep=lambda _: self._pool.traffic.retried("read"),
            reraise=True,
        )
        try:
            return retrying(self._read_once, key, offset, num_bytes, stamp)
        except _BrokenAnswerError as error:
            self._pool.traffic.failed("read", "unreachable")
            raise StoreUnavailableError(self.endpoint, "read", key, str(error)) from error

    def _read_once(self, key: str, offset: int, num_bytes: int, stamp: str | None) -> bytes:
        with self._mapped("read", key):
            try:
                response = self._client.get_object(self.bucket, key, offset, num_bytes)
            except S3Error as error:
                if error.code == "InvalidRange":  # the object ends before the range begins
                    return b""
                raise
        try:
            if stamp is not None:
                _check_stamp(key, response.headers, stamp)
            data = response.data
            self._pool.traffic.received("read", len(data))
            return data
        except urllib3.exceptions.HTTPError as error:
            raise _BrokenAnswerError(str(error)) from error
        finally:
            response.close()
            response.release_conn()


class _BrokenAnswerError(Exception):
    """The store began an answer and did not end it."""


def _info(key: str, found: Object) -> ObjectInfo:
    modified = found.last_modified or datetime.now(UTC)
    return ObjectInfo(key, found.size or 0, modified, (found.etag or "").strip('"'))


def _check_stamp(key: str, headers: Mapping[str, str], expected: str) -> None:
    modified = parsedate_to_datetime(headers["Last-Modified"])
    got = ObjectInfo(key, 0, modified, headers.get("ETag", "").strip('"')).stamp
    if got != expected:
        raise DigestMismatchError(key, f"an object that was written anew ({got})", expected)


def _check_digest(file: FileRecord, got: str) -> None:
    if got != file.digest:
        raise DigestMismatchError(file.key, got, file.digest)
