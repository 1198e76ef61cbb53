"""The mean of each element without its smallest and its largest deltas.

::

    f = floor(trim_fraction * K)
    u = eta * sum_k(w_k * Delta_k) / sum_k(w_k)    over the deltas of ranks f to K - f - 1

Source: Yin et al. 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates,
arXiv:1803.01498, where all weights are equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from coldfusion_queue.fusion.dtypes import Floats
from coldfusion_queue.fusion.methods.mean import weighted_sum
from coldfusion_queue.fusion.methods.ordered import OrderedMethod
from coldfusion_queue.fusion.methods.sorting import select_ranks

__all__ = ["TrimmedMean"]

#: 0.29 * 100 is a little less than 29 in floating-point numbers.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class TrimmedMean(OrderedMethod):
    """The trimmed mean; of equal deltas the one with the smaller contribution id ranks first.

    Cost: that of the median.
    """

    trim_fraction: float = 0.2
    """Share of the contributions that is left out at either end; 0 or more, below 0.5."""

    def num_trimmed(self, num_contributions: int) -> int:
        """f, the number of deltas that are left out at either end; 2 * f < K."""
        trimmed = math.floor(self.trim_fraction * num_contributions + _ROUNDING)
        return min(trimmed, (num_contributions - 1) // 2)

    def _of_equal(self, rows: list[Floats]) -> Floats:
        kept = self._kept(len(rows))
        return weighted_sum(select_ranks(rows, kept), [1 / len(kept)] * len(kept))

    def _of_weighted(self, rows: Floats, weights: Floats) -> Floats:
        kept = self._kept(len(rows))
        order = np.argsort(rows, axis=0, kind="stable")[kept.start : kept.stop]
        ordered = np.take_along_axis(rows, order, axis=0)
        shares = weights[order]
        shares /= _sum(shares)
        ordered *= shares.astype(rows.dtype)
        return _sum(ordered)

    def _kept(self, num_contributions: int) -> range:
        trimmed = self.num_trimmed(num_contributions)
        return range(trimmed, num_contributions - trimmed)


def _sum(rows: Floats) -> Floats:
    """Sum of the rows from the first on; ``numpy.sum`` takes another order for some shapes."""
    total: Floats = rows[0].copy()
    for row in rows[1:]:
        total += row
    return total
