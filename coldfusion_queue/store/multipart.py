"""One object written from chunks: cut into parts, several of which are sent at a time.

Parts go through presigned URLs (see ``signed``); beginning, completing and aborting an upload are
the minio client's own methods, which it does not name as public, those of minio 7.2.
"""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Self

from minio.datatypes import Part

from coldfusion_queue.errors import ColdFusionError
from coldfusion_queue.records import FileRecord
from coldfusion_queue.store.connection import Place, mapped_errors, raise_for_code
from coldfusion_queue.store.signed import SignedRequests, code_and_message
from coldfusion_queue.threads import WorkThreads

__all__ = ["Upload"]


class Upload:
    """An object that is being written; it appears when ``finish`` returns, or never.

    As a context manager it is given up when its block ends with an error, Ctrl-C and time limits
    included. What fits into one part is sent as one request. Memory: ``threads + 1`` parts,
    allocated as they are needed.

    Args:
        requests: how parts are sent.
        place: endpoint and bucket, for messages.
        key: a key that is the caller's alone; overwritten if it exists.
        part_bytes: size of a part, 5 MiB or more.
        threads: parts that are sent at a time.
    """

    def __init__(
        self, requests: SignedRequests, place: Place, key: str, part_bytes: int, threads: int
    ) -> None:
        self._requests = requests
        self._place = place
        self._key = key
        self._pool = WorkThreads(threads, thread_name_prefix="upload")
        self._free: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
        for _ in range(threads + 1):
            self._free.put(None)
        self._part_bytes = part_bytes
        self._buffer = bytearray()
        self._filled = 0
        self._upload_id: str | None = None
        self._parts: list[Future[Part]] = []
        self._digest = hashlib.sha256()
        self._num_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.abort()

    def write(self, chunk: bytes | memoryview) -> None:
        """Take more of the content; the chunk may be changed afterwards.

        Waits while all parts that memory allows are under way.

        Raises:
            StoreUnavailableError: a part could not be sent.
        """
        rest = memoryview(chunk).cast("B")
        self._digest.update(rest)
        self._num_bytes += len(rest)
        while len(rest):
            if self._filled == len(self._buffer):
                self._next_buffer()
            taken = min(len(rest), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + taken] = rest[:taken]
            self._filled += taken
            rest = rest[taken:]

    def finish(self) -> FileRecord:
        """Send what is left and make the object appear.

        Raises:
            StoreUnavailableError: it could not be sent; ``abort`` removes what was.
        """
        if self._upload_id is None:
            self._send_whole()
        else:
            self._send_part()
            parts = [future.result() for future in self._parts]
            with self._mapped():
                self._requests.client._complete_multipart_upload(
                    self._requests.bucket, self._key, self._upload_id, parts
                )
        self._pool.shutdown()
        return FileRecord(key=self._key, digest=self._digest.hexdigest(), num_bytes=self._num_bytes)

    def abort(self) -> None:
        """Give up: no object and no part remains, if the store answers."""
        self._pool.shutdown(cancel_futures=True)
        if self._upload_id is not None:
            with suppress(ColdFusionError), self._mapped():
                self._requests.client._abort_multipart_upload(
                    self._requests.bucket, self._key, self._upload_id
                )

    def _next_buffer(self) -> None:
        """Send the full buffer away and wait for another."""
        if len(self._buffer):
            if self._upload_id is None:
                with self._mapped():
                    self._upload_id = self._requests.client._create_multipart_upload(
                        self._requests.bucket, self._key, {}
                    )
            self._send_part()
        self._buffer = self._free.get() or bytearray(self._part_bytes)
        for sent in self._parts:
            if sent.done():
                sent.result()  # a part that failed ends the upload now, not at its end

    def _send_part(self) -> None:
        buffer, filled, number = self._buffer, self._filled, len(self._parts) + 1
        self._buffer, self._filled = bytearray(), 0
        if filled:
            self._parts.append(self._pool.submit(self._part, number, buffer, filled))

    def _part(self, number: int, buffer: bytearray, filled: int) -> Part:
        try:
            query = {"uploadId": self._upload_id or "", "partNumber": str(number)}
            return Part(number, self._put(memoryview(buffer)[:filled], query))
        finally:
            self._free.put(buffer)

    def _send_whole(self) -> None:
        self._put(memoryview(self._buffer)[: self._filled], None)

    def _put(self, body: memoryview, query: Mapping[str, str] | None) -> str:
        """Send bytes and return their ETag."""
        with self._mapped():
            response = self._requests.put(self._key, body, query=query)
            if response.status >= 300:
                code, message = code_and_message(response)
                raise_for_code(self._place, "upload", self._key, code, message, None)
        return response.headers.get("ETag", "").strip('"')

    def _mapped(self) -> AbstractContextManager[None]:
        return mapped_errors(self._place, "upload", self._key)
