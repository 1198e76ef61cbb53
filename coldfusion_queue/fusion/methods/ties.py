"""TIES: of each delta only the largest numbers, and of those only the ones that agree in sign.

::

    T_k = Delta_k where |Delta_k| is among the ties_density * P largest of contribution k, else 0
    s   = sign(sum_k(w_k * T_k))
    u   = eta * ties_scale * sum_k(w_k * T_k) / sum_k(w_k)    over the k with sign(T_k) = s

for each element; u is 0 where nothing is left or the sum is exactly 0. P counts all elements of all
tensors. Numbers as large as the smallest one that is kept are kept.

Source: Yadav et al. 2023, TIES-Merging: Resolving Interference When Merging Models,
arXiv:2306.01708, where all weights are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coldfusion_queue.fusion.dtypes import Floats
from coldfusion_queue.fusion.methods.mean import weighted_sum
from coldfusion_queue.fusion.methods.method import (
    Block,
    Combination,
    Method,
    Survey,
    eta_and_weights,
    held_block_elements,
)
from coldfusion_queue.fusion.methods.top import TopSurvey

__all__ = ["Ties"]


@dataclass(frozen=True)
class Ties(Method):
    """Trim, elect sign and merge.

    Cost: two surveys, and a pass of about a dozen operations for each delta.
    """

    ties_density: float = 0.2
    """Share of each contribution's numbers that is kept; above 0, up to 1."""
    ties_scale: float = 1.0
    """What the result is multiplied by; > 0."""

    def begin(self, ids: Sequence[str], coefficients: Sequence[float]) -> Survey:
        """See ``Method.begin``.

        Raises:
            UsageError: a coefficient below 0, or none above.
        """
        eta, weights = eta_and_weights(coefficients)

        def combination(thresholds: Sequence[np.float32]) -> Combination:
            return _Elected(tuple(thresholds), tuple(weights.tolist()), eta * self.ties_scale)

        return TopSurvey(len(ids), self.ties_density, combination)


@dataclass(frozen=True)
class _Elected(Combination):
    """Merges what reaches the thresholds; the surveys looked for NaN and infinities."""

    thresholds: tuple[np.float32, ...]
    weights: tuple[float, ...]
    step: float

    def combine(self, block: Block) -> Floats:
        """See ``Combination.combine``."""
        pairs = zip(block.deltas, self.thresholds, strict=True)
        trimmed = [_trimmed(delta, threshold) for delta, threshold in pairs]
        sign = np.sign(weighted_sum(trimmed, self.weights))
        total, share = np.zeros_like(sign), np.zeros_like(sign)
        for numbers, weight in zip(trimmed, self.weights, strict=True):
            agrees = numbers * sign > 0
            numbers *= weight
            total += numbers * agrees
            share += np.multiply(agrees, weight, dtype=share.dtype)
        combined: Floats = np.divide(total, share, out=np.zeros_like(total), where=share > 0)
        combined *= self.step
        combined += 0.0  # -0.0 becomes 0.0
        return combined

    def block_elements(self, num_contributions: int) -> int:
        """See ``held_block_elements``."""
        return held_block_elements(num_contributions)


def _trimmed(delta: Floats, threshold: np.float32) -> Floats:
    """The numbers that reach the threshold as float32, and 0 for the others; a new array."""
    kept = np.abs(delta).astype(np.float32, copy=False) >= threshold
    numbers: Floats = delta * kept
    return numbers
