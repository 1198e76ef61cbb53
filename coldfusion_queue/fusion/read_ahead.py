"""Reads the files of a pass chunk by chunk, one chunk ahead of what is worked on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

from coldfusion_queue.fusion.chunks import LARGEST_ELEMENT, Chunk
from coldfusion_queue.fusion.reader import ChunkData, Reader

__all__ = ["ReadAhead", "Waiting", "share_of"]

#: Makes a context that is entered while a fusion's own thread waits for bytes.
Waiting = Callable[[], AbstractContextManager[object]]

#: Stores keep large objects in pieces of some MiB (SeaweedFS 4, MinIO 1). A range that begins
#: within one makes them read it twice: that was a fifth of a whole fusion's time with SeaweedFS.
_STORED_PIECE = 4 << 20


class ReadAhead:
    """Reads a chunk of all files at the same time, while the one before is worked on.

    Args:
        readers: the files, which are read from their beginning.
        chunks: of the base model's files, or of one of them, in order; one or more.
        pool: threads to read with.
        waiting: entered by ``take``, until the chunk is there.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        chunks: Sequence[Chunk],
        pool: ThreadPoolExecutor,
        waiting: Waiting = nullcontext,
    ) -> None:
        self._readers = readers
        self._remaining = iter(chunks)
        self._pool = pool
        self._waiting = waiting
        self._pending: list[Future[ChunkData]] = []
        for reader in readers:
            reader.rewind()
        self._start_next()

    def take(self) -> dict[Reader, ChunkData]:
        """What all files hold for the next chunk; after the last, all digests are verified."""
        with self._waiting():
            ready = [future.result() for future in self._pending]
        if not self._start_next():
            for reader in self._readers:
                reader.verify()
        return dict(zip(self._readers, ready, strict=True))

    def _start_next(self) -> bool:
        chunk = next(self._remaining, None)
        if chunk is None:
            self._pending = []
            return False
        self._pending = [self._pool.submit(reader.read, chunk) for reader in self._readers]
        return True


def share_of(read_ahead_bytes: int, num_files: int) -> int:
    """Size of a chunk of which each of some files can hold two, the one worked on and the next.

    Args:
        read_ahead_bytes: what all files may hold together.
        num_files: how many are read at a time.
    """
    share = max(read_ahead_bytes // (2 * num_files), LARGEST_ELEMENT)
    return share if share < _STORED_PIECE else share - share % _STORED_PIECE
