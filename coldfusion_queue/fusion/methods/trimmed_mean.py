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
from coldfusion_queue.fusion.methods.sorting import select_ranks, sort_with_origins

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

    def _of_weighted(self, rows: list[Floats], weights: Floats) -> Floats:
        total, whole = np.zeros_like(rows[0]), np.zeros(len(rows[0]))
        ordered = [
            (numbers, weights[origins])
            for numbers, origins in sort_with_origins(rows, self._kept(len(rows)))
        ]
        for _, shares in ordered:
            whole += shares
        for numbers, shares in ordered:
            shares /= whole
            total += numbers * shares.astype(total.dtype)
        return total

    def _kept(self, num_contributions: int) -> range:
        trimmed = self.num_trimmed(num_contributions)
        return range(trimmed, num_contributions - trimmed)
