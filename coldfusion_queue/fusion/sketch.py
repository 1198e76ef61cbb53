"""A count sketch: a delta of any length as a few thousand numbers that keep its angles to others.

Element i is added to number i mod 4096 with a sign that is + or - at random, but the same for every
delta. Sums of signed elements keep inner products on average: the cosine of two sketches is that of
the deltas with a standard deviation of at most 1 / sqrt(4096) = 0.016. The sketch of a sum is the
sum of the sketches.

Source: Charikar, Chen and Farach-Colton 2002, Finding Frequent Items in Data Streams; the signs are
those of Alon, Matias and Szegedy 1996.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from coldfusion_queue.fusion.dtypes import Floats

__all__ = ["SKETCH_SIZE", "Sketch", "decode_sketch", "encode_sketch"]

#: Numbers of a sketch. It is part of what is stored: sketches of two sizes cannot be compared.
SKETCH_SIZE = 1 << 12
#: Signs repeat after so many elements. A prime, so that those which share a number and a sign are
#: four billion elements apart.
_NUM_SIGNS = 1_048_583


class Sketch:
    """Adds a delta up, some elements at a time."""

    def __init__(self) -> None:
        self._sums = np.zeros(SKETCH_SIZE, np.float64)

    def add(self, first: int, values: Floats) -> None:
        """Add consecutive elements.

        Args:
            first: index of the first one, counted over all float elements of the model.
            values: shape (n,), finite.
        """
        lead = first % SKETCH_SIZE
        num_rows = -(-(lead + len(values)) // SKETCH_SIZE)
        signed = np.zeros(num_rows * SKETCH_SIZE, np.float32)
        place = signed[lead : lead + len(values)]
        with np.errstate(over="ignore", invalid="ignore"):  # see ``numbers``
            np.multiply(values, _signs(first, len(values)), out=place, casting="same_kind")
            self._sums += signed.reshape(num_rows, SKETCH_SIZE).sum(axis=0)

    @property
    def numbers(self) -> NDArray[np.float32]:
        """The sketch of what was added, of shape (SKETCH_SIZE,).

        All 0, which is at no angle to anything, if it leaves the range of float32.
        """
        with np.errstate(over="ignore"):
            numbers = self._sums.astype(np.float32)
        return numbers if np.isfinite(numbers).all() else np.zeros_like(numbers)


def encode_sketch(numbers: NDArray[np.float32]) -> str:
    """A sketch as text: base64 of little-endian float32."""
    return base64.b64encode(numbers.astype("<f4").tobytes()).decode("ascii")


def decode_sketch(text: str) -> NDArray[np.float32]:
    """A sketch from its text, of shape (SKETCH_SIZE,).

    Raises:
        ValueError: the text is no sketch of this size.
    """
    numbers = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    if numbers.shape != (SKETCH_SIZE,):
        raise ValueError(f"got {len(numbers)} numbers, expected {SKETCH_SIZE}")
    return numbers.astype(np.float32)


def _signs(first: int, count: int) -> NDArray[np.float32]:
    """The signs of consecutive elements, of shape (count,)."""
    table, start = _table(), first % _NUM_SIGNS
    if start + count <= _NUM_SIGNS:
        return table[start : start + count]
    return np.take(table, np.arange(start, start + count), mode="wrap")


@lru_cache(maxsize=1)
def _table() -> NDArray[np.float32]:
    # A hash, because the streams of random generators may change between versions of numpy.
    digest = hashlib.shake_256(b"coldfusion sketch").digest(-(-_NUM_SIGNS // 8))
    bits = np.unpackbits(np.frombuffer(digest, np.uint8), count=_NUM_SIGNS)
    return (1 - 2 * bits.astype(np.float32)).astype(np.float32)
