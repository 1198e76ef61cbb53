"""The weighted mean of the deltas.

::

    u = sum_k(c_k * Delta_k)

Source: Don-Yehiya et al. 2023, ColD Fusion, arXiv:2212.01378, where all weights are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from coldfusion_queue.fusion.dtypes import Floats
from coldfusion_queue.fusion.methods.method import Block, ElementMethod

__all__ = ["Mean", "weighted_sum"]


@dataclass(frozen=True)
class Mean(ElementMethod):
    """The weighted mean; NaN and infinities pass through to the result."""

    def combine(self, block: Block) -> Floats:
        """See ``Combination.combine``; any coefficients will do.

        Cost: O(K * n) time, memory for two arrays of shape (n,) and one delta.
        """
        return weighted_sum(block.deltas, block.coefficients)


def weighted_sum(deltas: Iterable[Floats], coefficients: Sequence[float]) -> Floats:
    """sum_k(c_k * Delta_k): each product is rounded, then added, in the order given.

    Args:
        deltas: K >= 1 arrays of shape (n,) and one dtype; not written to.
        coefficients: K numbers.

    Returns:
        Shape (n,), dtype of the deltas. It holds no negative zero.
    """
    pairs = zip(deltas, coefficients, strict=True)
    first, coefficient = next(pairs)
    total: Floats = np.multiply(first, coefficient)
    total += 0.0  # -0.0 becomes 0.0
    share = np.empty_like(total)
    for delta, coefficient in pairs:
        np.multiply(delta, coefficient, out=share)
        total += share
    return total
