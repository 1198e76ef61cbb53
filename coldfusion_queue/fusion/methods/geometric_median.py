"""The geometric median: the point whose weighted distances to all deltas sum to the least.

::

    u = eta * argmin_v sum_k(w_k * ||Delta_k - v||)

Distances are those of whole deltas, over all tensors. It is found by smoothed Weiszfeld iterations
from the weighted mean:

::

    b_k = w_k / max(nu, ||Delta_k - v||),    v = sum_k(b_k * Delta_k) / sum_k(b_k)

Source: Pillutla et al. 2019, Robust Aggregation for Federated Learning, arXiv:1912.13445. There nu
is 1e-6; here it is a share of the median norm, so that the scale of the deltas does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coldfusion_queue.fusion.methods.gram import GramMethod, Matrix, norms_of

__all__ = ["GeometricMedian"]

#: nu as a share of the median norm; distances below 1e-8 of a norm are rounding errors.
_SMOOTHING = 1e-5
#: It has converged when no delta's share changes by more than this.
_CONVERGED = 1e-10
_MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class GeometricMedian(GramMethod):
    """The weighted geometric median; v is kept as the factors of its deltas.

    Cost: one survey, at most 1,000 iterations of O(K^3) time, and the mean.
    """

    def _factors(self, gram: Matrix, weights: Matrix) -> Matrix:
        norms = np.sqrt(gram.diagonal())
        if not norms.any():
            return weights
        nearest = _SMOOTHING * float(np.median(norms[norms > 0]))
        unit, center = np.eye(len(weights)), weights
        for _ in range(_MAX_ITERATIONS):
            before = center
            shares = weights / np.maximum(norms_of(unit - center, gram), nearest)
            center = shares / shares.sum()
            if np.abs(center - before).max() <= _CONVERGED:
                break
        return center
