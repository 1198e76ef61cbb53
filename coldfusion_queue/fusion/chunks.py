"""The plan of a fusion: which bytes of the base model, and of every other file, go together.

The base model's data is cut into chunks in file order, without regard for where a tensor ends,
so a chunk holds a part of a large tensor or many small ones. Within a chunk, adjacent pieces of
one dtype form a run, which is fused in one operation: ten thousand tensors of one element cost
no more than one tensor of ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from coldfusion_queue.errors import UsageError
from coldfusion_queue.fusion.dtypes import DTYPE_BYTES, FLOAT_DTYPES, Floats, decode
from coldfusion_queue.fusion.layout import TensorLayout

__all__ = [
    "LARGEST_ELEMENT",
    "Chunk",
    "Numbers",
    "Piece",
    "ReadPlan",
    "Run",
    "Span",
    "is_in_order",
    "join_ranges",
    "plan_chunks",
    "plan_read",
]

#: A chunk holds one element of any dtype, so it has at least so many bytes.
LARGEST_ELEMENT = max(DTYPE_BYTES.values())


@dataclass(frozen=True)
class Piece:
    """Consecutive elements of one tensor, counted in row-major order."""

    tensor: str
    first: int
    num_elements: int


@dataclass(frozen=True)
class Run:
    """Pieces that lie side by side in the base model's file and have one dtype there."""

    dtype: str
    pieces: tuple[Piece, ...]

    @property
    def num_elements(self) -> int:
        """Elements of all pieces."""
        return sum(piece.num_elements for piece in self.pieces)

    @property
    def num_floats(self) -> int:
        """How many of them are fused: all or none."""
        return self.num_elements if self.dtype in FLOAT_DTYPES else 0

    def tensor_at(self, element: int) -> str:
        """Name of the tensor that an element of the run belongs to."""
        for piece in self.pieces:
            if element < piece.num_elements:
                return piece.tensor
            element -= piece.num_elements
        raise UsageError("element", str(element), f"less than {self.num_elements}")


@dataclass(frozen=True)
class Chunk:
    """What is read, fused and written in one go: consecutive bytes of the base model's data."""

    runs: tuple[Run, ...]
    file: int = 0
    """Which of the base model's files the bytes are in."""

    @property
    def num_floats(self) -> int:
        """How many elements of it are fused; the others are copied."""
        return sum(run.num_floats for run in self.runs)


class Numbers(Protocol):
    """Elements of a run that lie side by side in what is read of a file for a chunk."""

    @property
    def position(self) -> int:
        """Offset of the first one in what was read, in bytes."""

    @property
    def num_elements(self) -> int:
        """How many there are."""

    @property
    def num_bytes(self) -> int:
        """Size of what holds them."""

    def decode(self, data: bytes | bytearray, first: int, count: int) -> Floats:
        """Some of them, out of what was read; not to be written to.

        Args:
            data: what was read of the file for the chunk.
            first: the first to decode, counted from 0.
            count: how many, of shape (count,).
        """


@dataclass(frozen=True)
class Span:
    """Numbers of one dtype."""

    dtype: str
    position: int
    num_elements: int

    @property
    def num_bytes(self) -> int:
        """See ``Numbers``."""
        return self.num_elements * DTYPE_BYTES[self.dtype]

    def decode(self, data: bytes | bytearray, first: int, count: int) -> Floats:
        """See ``Numbers``."""
        return decode(data, self.dtype, self.position + first * DTYPE_BYTES[self.dtype], count)


@dataclass(frozen=True)
class ReadPlan:
    """What one file has to give for a chunk."""

    ranges: tuple[tuple[int, int], ...]
    """(start, end) offsets in the file: ascending, disjoint, and as few as there can be. What
    they hold, concatenated, is what is read."""
    spans: tuple[tuple[Numbers, ...], ...]
    """For each run of the chunk, where its elements are in what is read, in the run's order."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all ranges."""
        return sum(end - start for start, end in self.ranges)


def plan_chunks(base: TensorLayout, chunk_bytes: int, file: int = 0) -> tuple[Chunk, ...]:
    """Cut the data of one of the base model's files into chunks.

    Args:
        base: layout of that file.
        chunk_bytes: size of a chunk at most, counted in the base model's dtypes; 8 or more. A
            file with wider dtypes has proportionally more bytes for a chunk.
        file: which one it is.

    Returns:
        Chunks that together hold every element once, in file order. A file without data has
        one chunk without runs.

    Raises:
        UsageError: ``chunk_bytes`` does not hold one element.
    """
    if chunk_bytes < LARGEST_ELEMENT:
        raise UsageError("chunk size", str(chunk_bytes), f"{LARGEST_ELEMENT} bytes or more")
    chunks: list[Chunk] = []
    pending: list[tuple[str, Piece]] = []
    room = chunk_bytes
    for tensor in base.tensors.values():
        size, first = DTYPE_BYTES[tensor.dtype], 0
        while first < tensor.num_elements:
            if room < size:
                chunks.append(_chunk(pending, file))
                pending, room = [], chunk_bytes
            count = min(tensor.num_elements - first, room // size)
            pending.append((tensor.dtype, Piece(tensor.name, first, count)))
            first, room = first + count, room - count * size
    return (*chunks, _chunk(pending, file)) if pending or not chunks else tuple(chunks)


def plan_read(layout: TensorLayout, chunk: Chunk) -> ReadPlan:
    """Where a file has the elements of a chunk.

    Args:
        layout: of a file with the base model's tensor names and shapes; their order and dtypes
            may be others.
        chunk: a chunk of the base model.
    """
    places = {piece: _range(layout, piece) for run in chunk.runs for piece in run.pieces}
    ranges, positions = join_ranges(places.values())

    def span(piece: Piece) -> Span:
        dtype = layout.tensors[piece.tensor].dtype
        return Span(dtype, positions[places[piece][0]], piece.num_elements)

    spans = tuple(tuple(_merged(map(span, run.pieces))) for run in chunk.runs)
    return ReadPlan(ranges, spans)


def join_ranges(
    places: Iterable[tuple[int, int]],
) -> tuple[tuple[tuple[int, int], ...], dict[int, int]]:
    """Put together what lies side by side in a file.

    Args:
        places: (start, end) offsets in the file, disjoint and not empty, in any order.

    Returns:
        ``ReadPlan.ranges``, and for the start of each place its position in what they hold.
    """
    ranges: list[tuple[int, int]] = []
    positions: dict[int, int] = {}
    filled = 0
    for start, end in sorted(places):
        positions[start] = filled
        filled += end - start
        if ranges and ranges[-1][1] == start:
            start, _ = ranges.pop()
        ranges.append((start, end))
    return tuple(ranges), positions


def is_in_order(layout: TensorLayout, base: TensorLayout) -> bool:
    """Whether reading a file chunk by chunk reads its data from beginning to end."""
    return _with_data(layout) == _with_data(base)


def _with_data(layout: TensorLayout) -> list[str]:
    return [tensor.name for tensor in layout.tensors.values() if tensor.num_elements]


def _chunk(pieces: Iterable[tuple[str, Piece]], file: int) -> Chunk:
    runs: list[tuple[str, list[Piece]]] = []
    for dtype, piece in pieces:
        if runs and runs[-1][0] == dtype:
            runs[-1][1].append(piece)
        else:
            runs.append((dtype, [piece]))
    return Chunk(tuple(Run(dtype, tuple(members)) for dtype, members in runs), file)


def _range(layout: TensorLayout, piece: Piece) -> tuple[int, int]:
    tensor = layout.tensors[piece.tensor]
    size = DTYPE_BYTES[tensor.dtype]
    start = tensor.start + piece.first * size
    return start, start + piece.num_elements * size


def _merged(spans: Iterable[Span]) -> Iterator[Span]:
    pending: Span | None = None
    for span in spans:
        if pending is not None and _follows(pending, span):
            count = pending.num_elements + span.num_elements
            pending = Span(span.dtype, pending.position, count)
            continue
        if pending is not None:
            yield pending
        pending = span
    if pending is not None:
        yield pending


def _follows(before: Span, after: Span) -> bool:
    return before.dtype == after.dtype and before.position + before.num_bytes == after.position
