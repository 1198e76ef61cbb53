"""Chunks of bytes as a file that the minio client can upload from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

__all__ = ["ChunkReader", "InterruptedUploadError"]


class InterruptedUploadError(Exception):
    """Raised inside an upload to make the client abort it when we are interrupted."""


class ChunkReader:
    """A file to read from, made of chunks; digests and counts what passes."""

    def __init__(self, chunks: Iterable[bytes], progress: Callable[[int], None] | None) -> None:
        self._chunks = iter(chunks)
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self._progress = progress
        self._interrupted = False
        self.failure: Exception | None = None
        self.num_bytes = 0

    def interrupt(self) -> None:
        """Make the next ``read`` raise, and the client that reads abort its upload."""
        self._interrupted = True

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes, fewer only at the end; all that is left if negative."""
        while size < 0 or len(self._buffer) < size:
            if self._interrupted:
                raise InterruptedUploadError
            try:
                chunk = next(self._chunks, None)
            except Exception as error:
                self.failure = error
                raise
            if chunk is None:
                break
            self._digest.update(chunk)
            self.num_bytes += len(chunk)
            self._buffer += chunk
        size = len(self._buffer) if size < 0 else min(size, len(self._buffer))
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        if self._progress is not None and data:
            self._progress(len(data))
        return data

    def hexdigest(self) -> str:
        """sha256 of all that was taken."""
        return self._digest.hexdigest()
