"""Reads a file of factors, and gives a fusion the numbers that they stand for, chunk by chunk.

A chunk needs some rows of B and the whole of A, so A is read once more for each further chunk that
a matrix lies in. That is not from beginning to end, hence the digest is verified beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from coldfusion_queue.fusion.chunks import Chunk, Piece, ReadPlan, Span, join_ranges
from coldfusion_queue.fusion.dtypes import decode
from coldfusion_queue.fusion.faults import attributed
from coldfusion_queue.fusion.layout import TensorInfo, TensorLayout
from coldfusion_queue.fusion.low_rank import Float32s, expand
from coldfusion_queue.fusion.low_rank_file import Factors, check_factors
from coldfusion_queue.fusion.reader import ChunkData, SourceReader

__all__ = ["LowRankReader"]

_NUMBER = np.dtype("<f4")


class LowRankReader(SourceReader):
    """One open file of a fusion that holds a low-rank delta.

    What it gives for a chunk are the numbers of the delta, in float32: so much memory as a file
    that holds these itself, and while it reads, also what it needs of the factors.
    """

    _factors: Mapping[str, Factors]

    def align(self, base: TensorLayout) -> None:
        """See ``SourceReader.align``.

        Raises:
            InvalidTensorFileError: see ``check_factors``; as ``ContributionFault``.
            IncompatibleModelError: the same.
        """
        with attributed(self.blamed):
            self._factors = check_factors(str(self.blamed), self.name, self.layout, base)
        self.read_in_parts()
        self.forget_header()

    def read(self, chunk: Chunk) -> ChunkData:
        """See ``SourceReader.read``; runs of integers have no numbers in what is returned."""
        raw = bytearray(chunk.num_floats * _NUMBER.itemsize)
        wanted = list(self._wanted(chunk, np.frombuffer(raw, _NUMBER)))
        ranges, positions = join_ranges(
            place for factors, piece, _ in wanted for place in factors.places(piece)
        )
        with attributed(self.blamed):
            data = self._read_ranges(ReadPlan(ranges, ()))
        # What leaves the range, or is no number, is found by whoever adds it up.
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for factors, piece, out in wanted:
                _expand(factors, piece, data, positions, out)
        return ChunkData(raw, ReadPlan((), tuple(_spans(chunk))))

    def _wanted(self, chunk: Chunk, numbers: Float32s) -> Iterator[tuple[Factors, Piece, Float32s]]:
        """The pieces that are not all 0, their factors, and where their numbers belong."""
        first = 0
        for run in chunk.runs:
            for piece in run.pieces if run.num_floats else ():
                stop = first + piece.num_elements
                if piece.tensor in self._factors:
                    yield self._factors[piece.tensor], piece, numbers[first:stop]
                first = stop


def _spans(chunk: Chunk) -> Iterator[tuple[Span, ...]]:
    """Where the numbers of each run are, those of one after those of the other."""
    position = 0
    for run in chunk.runs:
        yield (Span("F32", position, run.num_floats),) if run.num_floats else ()
        position += run.num_floats * _NUMBER.itemsize


def _expand(
    factors: Factors,
    piece: Piece,
    data: bytes | bytearray,
    positions: Mapping[int, int],
    out: Float32s,
) -> None:
    """Write the numbers of a piece.

    Args:
        factors: of its matrix.
        piece: n numbers of it.
        data: what was read.
        positions: where in it the places of the factors are, by their start in the file.
        out: shape (n,), overwritten.
    """
    (left_start, _), (right_start, _) = factors.places(piece)
    first, stop = factors.rows_of(piece)
    left = _decoded(data, factors.left, positions[left_start], stop - first)
    right = _decoded(data, factors.right, positions[right_start], factors.right.shape[0])
    expand(left, right, piece.first - first * right.shape[1], out)


def _decoded(data: bytes | bytearray, factor: TensorInfo, position: int, num_rows: int) -> Float32s:
    """Rows of a factor: shape (num_rows, the factor's columns)."""
    columns = factor.shape[1]
    numbers = decode(data, factor.dtype, position, num_rows * columns)
    return numbers.astype(np.float32, copy=False).reshape(num_rows, columns)
