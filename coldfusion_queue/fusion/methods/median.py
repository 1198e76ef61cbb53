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
from coldfusion_queue.fusion.methods.sorting import select_ranks, sort_with_origins

__all__ = ["Median"]

#: Weights are counted in units of 1 / this, so that their sums are exact in any order.
_UNITS = 1 << 40


@dataclass(frozen=True)
class Median(OrderedMethod):
    """The weighted median.

    Cost: O(K * log(K)^2 * n) time in minima and maxima, with unequal weights several times as much
    as with equal ones; see ``sort_with_origins``. Memory for K + 1 arrays of shape (n,).
    """

    def _of_equal(self, rows: list[Floats]) -> Floats:
        middle = len(rows) // 2
        if len(rows) % 2:
            return select_ranks(rows, [middle])[0]
        a, b = select_ranks(rows, [middle - 1, middle])
        return _midpoint(a, b)

    def _of_weighted(self, rows: list[Floats], weights: Floats) -> Floats:
        units = np.rint(weights * _UNITS).astype(np.int64)
        a, b = np.empty_like(rows[0]), np.empty_like(rows[0])
        # Twice what the deltas so far weigh above half of the whole. Weights are rounded quotients,
        # so half is met to rounding.
        excess = np.full(len(a), -units.sum())
        for numbers, origins in sort_with_origins(rows, range(len(rows))):
            np.copyto(a, numbers, where=excess < -len(rows))
            np.copyto(b, numbers, where=excess <= len(rows))
            excess += (2 * units)[origins]
        return _midpoint(a, b)


def _midpoint(a: Floats, b: Floats) -> Floats:
    """(a + b) / 2, exactly a where both are the same; in place of ``a``."""
    a += b
    a *= 0.5
    return a
