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

from coldfusion_queue.fusion.dtypes import Floats

__all__ = ["comparators", "select_ranks"]


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
