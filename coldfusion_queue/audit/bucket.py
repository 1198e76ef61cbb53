"""The auditor's own reading of the bucket: list, read, digest in constant memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Self, TypeVar

import urllib3
from minio import Minio
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from coldfusion_queue.errors import NotFoundError, StoreUnavailableError
from coldfusion_queue.settings import Settings
from coldfusion_queue.store.connection import Place, connect, mapped_errors

__all__ = ["Bucket", "Listed"]

R = TypeVar("R")

_READ_BYTES = 1 << 20

#: The HTTP pool repeats requests; this repeats answers that break off half-way.
_BODY_ATTEMPTS = 3


@dataclass(frozen=True)
class Listed:
    """An object as a listing tells of it."""

    key: str
    num_bytes: int
    last_modified: datetime | None
    """By the store's clock; None if the store does not say."""


class Bucket:
    """Reads one bucket and never writes.

    All methods raise ``StoreUnavailableError`` when the store does not answer,
    ``AccessDeniedError`` when it refuses the credentials and ``NotFoundError`` when there is no
    such bucket.
    """

    def __init__(self, client: Minio, pool: urllib3.PoolManager, settings: Settings) -> None:
        self._client = client
        self._pool = pool
        self._bucket = settings.s3_bucket
        self._threads = settings.transfer_threads
        self._place = Place(settings.s3_endpoint, settings.s3_bucket)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Make a reader from settings; nothing is sent yet."""
        return cls(*connect(settings), settings)

    def now(self) -> datetime:
        """The store's clock, to the second."""
        with mapped_errors(self._place, "reach", self._bucket):
            url = self._client.get_presigned_url("HEAD", self._bucket, ".clock")
            answer = self._pool.request("HEAD", url)
        return parsedate_to_datetime(answer.headers["Date"])

    def list(self, prefix: str) -> Iterator[Listed]:
        """Objects whose key begins with ``prefix``, in the order of their keys."""
        with mapped_errors(self._place, "list", prefix):
            for item in self._client.list_objects(self._bucket, prefix, recursive=True):
                key = item.object_name or ""
                # Some stores list directories, the prefix itself among them, as objects.
                if key != prefix and not key.endswith("/"):
                    yield Listed(key, item.size or 0, item.last_modified)

    def read(self, keys: Collection[str]) -> dict[str, bytes]:
        """Contents of small objects by key; those that are not there are left out."""
        found = self._each(lambda key: self._whole(key, b"".join), keys)
        return {key: data for key, data in found.items() if data is not None}

    def digest(
        self, keys: Collection[str], progress: Callable[[int], None] | None = None
    ) -> dict[str, str | None]:
        """Digests of large objects, several at a time, one MiB of each in memory.

        Args:
            keys: which objects.
            progress: called, from several threads, with the number of bytes of each piece.

        Returns:
            sha256 in lower-case hex by key, None for an object that is not there.
        """

        def digest(chunks: Iterator[bytes]) -> str:
            total = hashlib.sha256()
            for chunk in chunks:
                total.update(chunk)
                if progress is not None:
                    progress(len(chunk))
            return total.hexdigest()

        return self._each(lambda key: self._whole(key, digest), keys)

    def _each(self, function: Callable[[str], R], keys: Collection[str]) -> dict[str, R]:
        with ThreadPoolExecutor(self._threads) as threads:
            try:
                return dict(zip(keys, threads.map(function, keys), strict=True))
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise

    def _whole(self, key: str, consume: Callable[[Iterator[bytes]], R]) -> R | None:
        retrying = Retrying(
            retry=retry_if_exception_type(StoreUnavailableError),
            stop=stop_after_attempt(_BODY_ATTEMPTS),
            reraise=True,
        )
        try:
            return retrying(lambda: consume(self._chunks(key)))
        except NotFoundError as error:
            if error.what == "bucket":
                raise
            return None

    def _chunks(self, key: str) -> Iterator[bytes]:
        with mapped_errors(self._place, "read", key):
            answer = self._client.get_object(self._bucket, key)
            try:
                yield from answer.stream(_READ_BYTES)
            finally:
                answer.close()
                answer.release_conn()
