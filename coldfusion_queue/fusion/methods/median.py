"""The weighted median of the deltas, for each element.

::

    u = eta * (a + b) / 2

where a is the smallest delta at which the weight of all deltas up to it reaches half of the whole,
and b the smallest at which it exceeds half. They differ only where it is exactly half: with equal
weights, for an even number of contributions.

Source: Yin et al. 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates,
arXiv:1803.01498, where all weights are equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coldfusion_queue.fusion.dtypes import Floats
from coldfusion_queue.fusion.methods.ordered import OrderedMethod
from coldfusion_queue.fusion.methods.sorting import select_ranks

__all__ = ["Median"]

#: Weights are counted in units of 1 / this, so that their sums are exact in any order.
_UNITS = 1 << 40


@dataclass(frozen=True)
class Median(OrderedMethod):
    """The weighted median.

    Cost: with equal weights O(K * log(K)^2 * n) time in minima and maxima, else O(K * log(K) * n)
    in a sort of each element. Memory for K + 1 arrays of shape (n,), else six times as much.
    """

    def _of_equal(self, rows: list[Floats]) -> Floats:
        middle = len(rows) // 2
        if len(rows) % 2:
            return select_ranks(rows, [middle])[0]
        a, b = select_ranks(rows, [middle - 1, middle])
        return _midpoint(a, b)

    def _of_weighted(self, rows: Floats, weights: Floats) -> Floats:
        units = np.rint(weights * _UNITS).astype(np.int64)
        order = np.argsort(rows, axis=0, kind="stable")
        ordered = np.take_along_axis(rows, order, axis=0)
        # Twice what is above half. Weights are rounded quotients, so half is met to rounding.
        excess = 2 * np.cumsum(units[order], axis=0) - units.sum()
        a = _first(ordered, excess >= -len(rows))
        b = _first(ordered, excess > len(rows))
        return _midpoint(a, b)


def _first(ordered: Floats, reached: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Floats:
    """For each column the first number at which ``reached`` is true; both have shape (K, n)."""
    ranks = reached.argmax(axis=0)
    found: Floats = np.take_along_axis(ordered, ranks[np.newaxis], axis=0)[0]
    return found


def _midpoint(a: Floats, b: Floats) -> Floats:
    """(a + b) / 2, exactly a where both are the same; in place of ``a``."""
    a += b
    a *= 0.5
    return a
