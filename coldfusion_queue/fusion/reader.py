"""Reads one tensor file chunk by chunk and verifies the digest of all of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Protocol, Self

from coldfusion_queue.errors import DigestMismatchError
from coldfusion_queue.fusion.chunks import Chunk, ReadPlan, is_in_order, plan_read
from coldfusion_queue.fusion.compatibility import check_layout
from coldfusion_queue.fusion.faults import attributed
from coldfusion_queue.fusion.layout import ByteSource, TensorLayout, read_layout

__all__ = ["ChunkData", "Reader", "SourceReader"]


#: What is read at a time where a chunk is put together of several ranges, because that much is in
#: memory twice for each thread.
_MAX_COPIED_BYTES = 4 << 20


@dataclass(frozen=True)
class ChunkData:
    """What one file holds for a chunk."""

    raw: bytes | bytearray
    plan: ReadPlan

    def copy_of(self, run: int) -> bytes:
        """Bytes of a run as they are; only of the base model, where a run is one span."""
        (span,) = self.plan.spans[run]
        return bytes(self.raw[span.position : span.position + span.num_bytes])


class Reader(Protocol):
    """What is read chunk by chunk: one file, or those of a base model. See ``SourceReader``."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def verify_beforehand(self, part_bytes: int) -> None:
        """Verify now what cannot be verified on the way."""

    def rewind(self) -> None:
        """Begin to read the chunks, from the first on."""

    def read(self, chunk: Chunk) -> ChunkData:
        """Read what it holds for a chunk."""

    def verify(self) -> None:
        """Verify what was read, after all chunks."""


class SourceReader:
    """One open file of a fusion.

    A file whose tensors are in the base model's order is read from beginning to end, once or
    several times, and hashed on the way each time. Another one, and one that is read in parts, is
    hashed once, by ``verify_beforehand``. The chunks of one reader are read one after the other,
    while other readers read theirs.
    """

    def __init__(
        self, source: ByteSource, digest: str | None, blamed: str | None, layout: TensorLayout
    ) -> None:
        self._source = source
        self._digest = digest
        self._header_hash = hashlib.sha256(layout.header)
        self._hash = self._header_hash.copy()
        self._header_bytes = len(layout.header)
        self._hashed_to = self._header_bytes
        self._is_hashed_on_the_way = True
        self.blamed = blamed
        self.layout = layout

    @classmethod
    def open(cls, source: ByteSource, digest: str | None, blamed: str | None) -> Self:
        """Read a file's header.

        Args:
            source: the file.
            digest: sha256 that the whole file must have, lower-case hex; None checks nothing.
            blamed: id of the contribution that errors in this file are attributed to, if any.

        Raises:
            InvalidTensorFileError: no safetensors file; as ``ContributionFault`` if attributed.
        """
        with attributed(blamed):
            return cls(source, digest, blamed, read_layout(source))

    @property
    def name(self) -> str:
        """What messages call the file."""
        return self._source.name

    def align(self, base: TensorLayout) -> None:
        """Check that the file fits the base model, and get ready to read it.

        Raises:
            IncompatibleModelError: it does not; as ``ContributionFault`` if attributed.
        """
        with attributed(self.blamed):
            check_layout(str(self.blamed), self.layout, base)
        self._is_hashed_on_the_way = is_in_order(self.layout, base)
        self.forget_header()

    def read_in_parts(self) -> None:
        """Be ready for passes that leave out some of the data: the digest is verified before."""
        self._is_hashed_on_the_way = False

    def forget_header(self) -> None:
        """Give its memory back: a hostile one has 16 MiB of blanks, and there may be many."""
        self.layout = replace(self.layout, header=b"", metadata={})

    def verify_beforehand(self, part_bytes: int) -> None:
        """Hash a file that will not be read in order; ``part_bytes`` are held at a time.

        Raises:
            DigestMismatchError: not the recorded bytes; as ``ContributionFault`` if attributed.
        """
        if self._is_hashed_on_the_way or self._digest is None:
            return
        with attributed(self.blamed):
            for start in range(self._header_bytes, self._source.num_bytes, part_bytes):
                end = min(start + part_bytes, self._source.num_bytes)
                self._hash.update(self._read_range(start, end))
        self.verify()

    def rewind(self) -> None:
        """Begin to read the chunks, from the first on."""
        if self._is_hashed_on_the_way:
            self._hash = self._header_hash.copy()
            self._hashed_to = self._header_bytes

    def read(self, chunk: Chunk) -> ChunkData:
        """Read what the file holds for a chunk.

        Raises:
            DigestMismatchError: the file ended early; as ``ContributionFault`` if attributed.
        """
        with attributed(self.blamed):
            plan = self.plan(chunk)
            raw = self._read_ranges(plan)
        if self._is_hashed_on_the_way and self._digest is not None:
            self._hash_new(plan, raw)
        return ChunkData(raw, plan)

    def plan(self, chunk: Chunk) -> ReadPlan:
        """Where the file has what a chunk needs."""
        return plan_read(self.layout, chunk)

    def verify(self) -> None:
        """Compare the digest, after all chunks were read.

        Raises:
            DigestMismatchError: not the recorded bytes; as ``ContributionFault`` if attributed.
        """
        got = self._hash.hexdigest()
        if self._digest is not None and got != self._digest:
            with attributed(self.blamed):
                raise DigestMismatchError(self.name, got, self._digest)

    def _hash_new(self, plan: ReadPlan, raw: bytes | bytearray) -> None:
        """Hash what no chunk before had; read in order, a file has one range for each chunk."""
        for start, end in plan.ranges:
            self._hash.update(memoryview(raw)[self._hashed_to - start :])
            self._hashed_to = max(self._hashed_to, end)

    def _read_ranges(self, plan: ReadPlan) -> bytes | bytearray:
        if len(plan.ranges) == 1:
            return self._read_range(*plan.ranges[0])
        raw, filled = bytearray(plan.num_bytes), 0
        for first, end in plan.ranges:
            for start in range(first, end, _MAX_COPIED_BYTES):
                part = self._read_range(start, min(start + _MAX_COPIED_BYTES, end))
                raw[filled : filled + len(part)] = part
                filled += len(part)
        return raw

    def _read_range(self, start: int, end: int) -> bytes:
        data = self._source.read(start, end - start)
        if len(data) != end - start:
            got = f"{len(data)} bytes at offset {start}"
            raise DigestMismatchError(self.name, got, f"{end - start} bytes")
        return data
