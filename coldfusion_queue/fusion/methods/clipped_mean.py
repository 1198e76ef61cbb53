"""The mean of deltas none of which is longer than the others are.

::

    C = clip_factor * median_k ||Delta_k||
    u = sum_k(c_k * Delta_k * min(1, C / ||Delta_k||))

Norms are those of whole deltas, over all tensors. The median, of even K the mean of the middle two,
counts every contribution once, so that a contribution of much weight cannot set it.

Source: Sun et al. 2019, Can You Really Backdoor Federated Learning?, arXiv:1911.07963, where the
limit is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coldfusion_queue.fusion.methods.gram import GramMethod, Matrix, clip_factors

__all__ = ["ClippedMean"]


@dataclass(frozen=True)
class ClippedMean(GramMethod):
    """The weighted mean of clipped deltas.

    Cost: one survey, and the mean.
    """

    clip_factor: float = 1.0
    """The limit as a multiple of the median norm; > 0."""

    def _factors(self, gram: Matrix, weights: Matrix) -> Matrix:
        norms = np.sqrt(gram.diagonal())
        return weights * clip_factors(norms, self.clip_factor * float(np.median(norms)))
