"""Quantised deltas: 3 bits an element, in groups of 128 elements with one scale each.

The float elements of a model are taken in the order of the base model's file and cut into groups,
without regard for where a tensor ends; the last group may be shorter. A group has 50 bytes::

    bytes 0-1     scale: bfloat16, little-endian, finite, not negative
    bytes 2-49    code j in bits 3j to 3j+2 of these bytes, read as one little-endian number
    element j     scale * LEVELS[code j], rounded to float32

Scale and codes lie side by side, so that a file is read from beginning to end as its groups are
needed. bfloat16 has the exponents of float32: deltas of 1e-8 keep their scale, which float16 would
lose. Codes of elements that the last group does not have are 0 and never read.

No level is 0: a group that is 0 throughout has scale 0, but a single 0 within a group becomes a
small number.

Source of the levels: Max 1960, Quantizing for Minimum Distortion, table I, N = 8: they minimise the
squared error of normally distributed numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldfusion_queue.errors import UsageError
from coldfusion_queue.fusion.dtypes import Floats, decode, encode

__all__ = [
    "GROUP_BYTES",
    "GROUP_ELEMENTS",
    "LEVELS",
    "blocks_of",
    "decode_elements",
    "encode_groups",
    "num_groups",
    "scales_of",
]

#: Elements that share a scale.
GROUP_ELEMENTS = 128

_BITS = 3
_SCALE_BYTES = 2

#: Bytes of one group: 3.125 bits an element.
GROUP_BYTES = _SCALE_BYTES + GROUP_ELEMENTS * _BITS // 8

#: What the codes 0 to 7 stand for, in units of the group's scale.
LEVELS = np.array(
    [-2.1520, -1.3439, -0.7560, -0.2451, 0.2451, 0.7560, 1.3439, 2.1520], dtype=np.float32
)

#: Larger numbers are refused: a group's scale and sums of squares have to stay within float32.
_LARGEST = np.float32(2.0**100)

_THRESHOLDS = (LEVELS[1:] + LEVELS[:-1]) / 2

#: The four levels that 12 bits stand for: shape (4096, 4).
_FOUR_LEVELS = LEVELS[np.arange(1 << 12)[:, np.newaxis] >> (3 * np.arange(4)) & 7]

Groups = NDArray[np.uint8]
Float32s = np.ndarray[Any, np.dtype[np.float32]]


def num_groups(num_elements: int) -> int:
    """Groups that so many elements make."""
    return -(-num_elements // GROUP_ELEMENTS)


def encode_groups(values: Float32s) -> Groups:
    """Quantise numbers: for each the nearest level under its group's scale.

    The scale is the one with the least squared error for the levels that are nearest under the
    group's root mean square. So the error of a group is never larger than the group itself, but
    for the rounding of the scale.

    Args:
        values: shape (n,), float32; but in the last block of a model, n is a multiple of 128.

    Returns:
        Shape (ceil(n / 128), 50).

    Raises:
        UsageError: a number is NaN or beyond 2^100.
    """
    if not (np.abs(values) <= _LARGEST).all():
        raise UsageError("delta to quantise", "NaN or beyond 2^100", "finite numbers")
    whole = values.size - values.size % GROUP_ELEMENTS
    encoded = _encode_rows(values[:whole].reshape(-1, GROUP_ELEMENTS))
    if whole == values.size:
        return encoded
    return np.concatenate([encoded, _encode_rows(values[whole:].reshape(1, -1))])


def decode_elements(data: bytes | bytearray, position: int, first: int, count: int) -> Float32s:
    """Read numbers out of groups.

    Args:
        data: bytes that hold the groups.
        position: offset of the first group, in bytes.
        first: the first element to read, counted from that group's first.
        count: how many to read; they may begin and end within a group.

    Returns:
        Shape (count,), an array of its own or a view of one.
    """
    skipped_groups, skipped = divmod(first, GROUP_ELEMENTS)
    groups = _groups_at(data, position + skipped_groups * GROUP_BYTES, num_groups(skipped + count))
    values = np.take(_FOUR_LEVELS, _twelves(groups), axis=0, mode="clip")
    values = values.reshape(len(groups), GROUP_ELEMENTS)
    values *= _scales(groups)[:, np.newaxis]
    decoded: Float32s = values.reshape(-1)[skipped : skipped + count]
    return decoded


def scales_of(data: bytes | bytearray) -> Float32s:
    """The scale of each group, in bytes that hold groups and nothing else."""
    return _scales(_groups_at(data, 0, len(data) // GROUP_BYTES))


def blocks_of(arrays: Iterable[Float32s], num_elements: int) -> Iterator[Float32s]:
    """Cut a sequence of arrays anew: the same numbers in blocks of one size, but the last.

    Args:
        arrays: of any shape and size; read one after the other.
        num_elements: size of a block.

    Yields:
        Arrays of shape (num_elements,), the last one shorter and not empty. Each is overwritten
        by the next.
    """
    block, filled = np.empty(num_elements, dtype=np.float32), 0
    for array in arrays:
        rest = array.reshape(-1)
        while rest.size:
            taken = min(rest.size, num_elements - filled)
            block[filled : filled + taken] = rest[:taken]
            rest, filled = rest[taken:], filled + taken
            if filled == num_elements:
                yield block
                filled = 0
    if filled:
        yield block[:filled]


def _encode_rows(rows: Float32s) -> Groups:
    """Encode groups of up to 128 elements: shape (G, w) to (G, 50)."""
    largest = np.abs(rows).max(axis=1, initial=0)
    # Squares of small deltas would vanish in float32, those of large numbers leave its range.
    unit = rows / np.where(largest > 0, largest, np.float32(1))[:, np.newaxis]
    root_mean_square = np.sqrt(np.sum(unit * unit, axis=1) / rows.shape[1])
    nearest = LEVELS[_nearest(unit, root_mean_square)]
    fitted = np.sum(unit * nearest, axis=1) / np.sum(nearest * nearest, axis=1)
    scale_bytes = encode(fitted * largest, "BF16")
    codes = _nearest(rows, decode(scale_bytes, "BF16", 0, len(rows)))
    groups = np.zeros((len(rows), GROUP_BYTES), dtype=np.uint8)
    groups[:, :_SCALE_BYTES] = np.frombuffer(scale_bytes, np.uint8).reshape(-1, _SCALE_BYTES)
    packed = _pack(codes)
    groups[:, _SCALE_BYTES : _SCALE_BYTES + packed.shape[1]] = packed
    return groups


def _nearest(rows: Floats, scales: Floats) -> Groups:
    """Code of the nearest level for each number: shape (G, w)."""
    codes = np.zeros(rows.shape, dtype=np.uint8)
    for threshold in _THRESHOLDS:
        codes += rows > threshold * scales[:, np.newaxis]
    return codes


def _pack(codes: Groups) -> Groups:
    bits = codes[:, :, np.newaxis] >> np.arange(_BITS, dtype=np.uint8) & 1
    return np.packbits(bits.reshape(len(codes), codes.shape[1] * _BITS), axis=1, bitorder="little")


def _twelves(groups: Groups) -> NDArray[np.intp]:
    """The codes of groups, four in a number of 12 bits: shape (16 G, 2) for (G, 50)."""
    eights = np.zeros((len(groups) * GROUP_ELEMENTS // 8, 4), dtype=np.uint8)
    eights[:, :3] = groups[:, _SCALE_BYTES:].reshape(len(eights), 3)
    numbers = eights.view(np.dtype("<u4"))
    fours = np.empty((len(eights), 2), dtype=np.intp)  # the type of an index, so none is copied
    fours[:, :1] = numbers & 0xFFF
    fours[:, 1:] = numbers >> 12
    return fours


def _groups_at(data: bytes | bytearray, position: int, number: int) -> Groups:
    values = np.frombuffer(data, np.uint8, number * GROUP_BYTES, position)
    return values.reshape(number, GROUP_BYTES)


def _scales(groups: Groups) -> Float32s:
    return decode(groups[:, :_SCALE_BYTES].tobytes(), "BF16", 0, len(groups))
