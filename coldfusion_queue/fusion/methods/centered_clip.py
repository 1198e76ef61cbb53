"""A mean whose deltas are clipped around the mean itself, not around zero.

::

    tau = clip_factor * median_k ||Delta_k||
    v_0 = 0
    v_i = v_{i-1} + sum_k(w_k * (Delta_k - v_{i-1}) * min(1, tau / ||Delta_k - v_{i-1}||))
    u   = eta * v_n                  with sum_k(w_k) = 1 and n = clip_iterations

One iteration is the clipped mean. The source starts from the aggregate of the round before, which
need not be near where contributors finetune different datasets. Zero, where the base model stays as
it is, needs no memory of earlier fusions.

Source: Karimireddy et al. 2021, Learning from History for Byzantine Robust Optimization,
arXiv:2012.10333.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coldfusion_queue.fusion.methods.gram import GramMethod, Matrix, clip_factors, norms_of

__all__ = ["CenteredClip"]


@dataclass(frozen=True)
class CenteredClip(GramMethod):
    """Centered clipping; v is kept as the factors of its deltas.

    Cost: that of the clipped mean.
    """

    clip_factor: float = 1.0
    """tau as a multiple of the median norm; > 0."""
    clip_iterations: int = 3
    """n; 1 or more."""

    def _factors(self, gram: Matrix, weights: Matrix) -> Matrix:
        unit = np.eye(len(weights))
        limit = self.clip_factor * float(np.median(np.sqrt(gram.diagonal())))
        center = np.zeros(len(weights))
        for _ in range(self.clip_iterations):
            offsets = unit - center
            shares = weights * clip_factors(norms_of(offsets, gram), limit)
            center = center + shares @ offsets
        return center
