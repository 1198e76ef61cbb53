"""Sorts K arrays element by element, with a fixed network of minima and maxima.

Every element goes through the same comparisons, so whole arrays are compared at a time, at the
speed of memory. Comparisons that no wanted rank depends on are left out.

Source: Batcher 1968, Sorting networks and their applications (merge exchange, any K; Knuth, The
Art of Computer Programming, volume 3, algorithm 5.2.2M).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from coldfusion_queue.fusion.dtypes import Floats

__all__ = ["comparators", "select_ranks", "sort_with_origins"]


def comparators(num_rows: int) -> Iterator[tuple[int, int]]:
    """The network for K rows: pairs (a, b), a < b, to be put in order one after the other."""
    width = 1
    while width < num_rows:
        distance = width
        while distance >= 1:
            for start in range(distance % width, num_rows - distance, 2 * distance):
                for a in range(start, min(start + distance, num_rows - distance)):
                    b = a + distance
                    if a // (2 * width) == b // (2 * width):
                        yield a, b
            distance //= 2
        width *= 2


def select_ranks(rows: list[Floats], ranks: Collection[int]) -> list[Floats]:
    """The smallest, second smallest, ... of K numbers, for each element.

    Args:
        rows: K >= 1 arrays of shape (n,) that the caller has no use for any more: they are
            overwritten, and the list is changed.
        ranks: which ones, 0 being the smallest.

    Returns:
        One array of shape (n,) for each rank, in the order of ``ranks``; some of the ``rows``.
        A NaN makes the results of its element NaN or leaves them unsorted. Which of 0.0 and -0.0
        is the smaller is not defined.

    Cost: O(K * log(K)^2 * n) time, memory for one more row.
    """
    spare = np.empty_like(rows[0])
    for a, b, low, high in _network(len(rows), frozenset(ranks)):
        if low and high:
            np.minimum(rows[a], rows[b], out=spare)
            np.maximum(rows[a], rows[b], out=rows[b])
            rows[a], spare = spare, rows[a]
        elif low:
            np.minimum(rows[a], rows[b], out=rows[a])
        else:
            np.maximum(rows[a], rows[b], out=rows[b])
    return [rows[rank] for rank in ranks]


def sort_with_origins(
    rows: list[Floats], ranks: range
) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
    """The same, with the row that each number is from; equal numbers rank in the order of rows.

    float32 numbers are sorted by the network as float64, whose last bits hold the row and go with
    its number. float64 has no bits to spare: such numbers are sorted one element after the other,
    which takes several times as long.

    Args:
        rows: K >= 1 arrays of finite numbers, of shape (n,); not written to.
        ranks: which ones, 0 being the smallest.

    Yields:
        For each rank the numbers and the indices of their rows, both of shape (n,). A number
        that is -0.0 ranks as 0.0 and may be given as that.

    Cost: O(K * log(K)^2 * n) time for float32, memory for 2 * K + 1 rows.
    """
    return _by_tags(rows, ranks) if rows[0].dtype == np.float32 else _by_argsort(rows, ranks)


def _by_argsort(rows: list[Floats], ranks: range) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
    stacked = np.stack(rows)
    for order in np.argsort(stacked, axis=0, kind="stable")[ranks.start : ranks.stop]:
        yield np.take_along_axis(stacked, order[np.newaxis], axis=0)[0], order


def _by_tags(rows: list[Floats], ranks: range) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
    tag_bits = (1 << (len(rows) - 1).bit_length()) - 1
    keys: list[Floats] = [_tagged(row, index, tag_bits) for index, row in enumerate(rows)]
    for key in select_ranks(keys, ranks):
        bits = key.view(np.int64)
        origins = bits >> 63
        origins ^= bits
        origins &= tag_bits
        bits &= ~tag_bits
        yield key.astype(np.float32), origins


def _tagged(row: Floats, index: int, tag_bits: int) -> NDArray[np.float64]:
    """Numbers as float64 with an index in their last bits, so that equal ones order by it."""
    key: NDArray[np.float64] = np.add(row, 0.0, dtype=np.float64)  # -0.0 becomes 0.0
    bits = key.view(np.int64)
    # Of a negative number, larger bits make it smaller, so it has the index with all bits flipped.
    tag = bits >> 63
    tag &= tag_bits
    tag ^= index
    bits |= tag
    return key


@lru_cache(maxsize=256)
def _network(num_rows: int, ranks: frozenset[int]) -> tuple[tuple[int, int, bool, bool], ...]:
    """(a, b, whether a minimum is needed, whether a maximum is) of each needed comparison."""
    needed = set(ranks)
    kept: list[tuple[int, int, bool, bool]] = []
    for a, b in reversed(list(comparators(num_rows))):
        if a in needed or b in needed:
            kept.append((a, b, a in needed, b in needed))
            needed |= {a, b}
    return tuple(reversed(kept))
