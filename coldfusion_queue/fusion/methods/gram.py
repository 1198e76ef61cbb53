"""What methods share whose result is a weighted sum of the deltas, once all norms are known.

Norms and distances of whole deltas, and of sums of them, all follow from the K x K inner products
of the deltas, the Gram matrix. One survey finds it; what remains is arithmetic with K numbers,
and a pass that costs as much as the mean.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from coldfusion_queue.errors import IncompatibleModelError
from coldfusion_queue.fusion.dtypes import Floats
from coldfusion_queue.fusion.faults import ContributionFault
from coldfusion_queue.fusion.methods.mean import weighted_sum
from coldfusion_queue.fusion.methods.method import (
    Block,
    Combination,
    Method,
    Survey,
    Tally,
    eta_and_weights,
)

__all__ = ["GramMethod", "GramSurvey", "WeightedSum", "clip_factors", "norms_of"]

Matrix = NDArray[np.float64]

#: Blocks of a survey whose inner products are added up before they join the whole sum.
_BLOCKS_PER_SEGMENT = 1 << 8


@dataclass(frozen=True)
class WeightedSum(Combination):
    """sum_k(a_k * Delta_k) with numbers of its own."""

    factors: tuple[float, ...]

    def combine(self, block: Block) -> Floats:
        """See ``Combination.combine``."""
        return weighted_sum(block.deltas, self.factors)


@dataclass(frozen=True)
class GramMethod(Method):
    """A method that derives the factor of each delta from the inner products of all."""

    def begin(self, ids: Sequence[str], coefficients: Sequence[float]) -> Survey:
        """See ``Method.begin``.

        Raises:
            UsageError: a coefficient below 0, or none above.
        """
        eta, weights = eta_and_weights(coefficients)

        def combination(gram: Matrix) -> WeightedSum:
            # Rounded, so that inner products which another BLAS adds up in another order, and
            # that differ in their last bits, give the same model.
            factors = (eta * self._factors(gram, weights)).astype(np.float32)
            return WeightedSum(tuple(factors.tolist()))

        return GramSurvey(ids, combination)

    @abstractmethod
    def _factors(self, gram: Matrix, weights: Matrix) -> Matrix:
        """The factor of each delta, for eta = 1.

        Args:
            gram: shape (K, K), the inner product of each two deltas.
            weights: shape (K,); 0 or more, with sum 1.

        Returns:
            Shape (K,).
        """


class GramSurvey(Survey):
    """Inner products of all pairs of deltas, in float64.

    Cost: O(K^2 * P) time.
    """

    dtype: ClassVar[np.dtype[np.floating[Any]]] = np.dtype(np.float64)

    def __init__(self, ids: Sequence[str], finish: Callable[[Matrix], Combination]) -> None:
        self._ids = ids
        self._finish = finish

    def begin(self) -> Tally:
        """See ``Survey.begin``."""
        return _GramTally(len(self._ids))

    def result(self, counts: Sequence[Matrix]) -> Combination:
        """See ``Survey.result``.

        Raises:
            ContributionFault: a delta whose norm leaves the range of float64.
        """
        gram = np.zeros((len(self._ids), len(self._ids)))
        with np.errstate(over="ignore", invalid="ignore"):
            for part in counts:
                gram += part
        for contribution_id, square in zip(self._ids, gram.diagonal(), strict=True):
            if not np.isfinite(square):
                raise _too_large(contribution_id)
        return self._finish(gram)


class _GramTally(Tally):
    """The inner products of what one file holds, summed up in segments for the digits' sake."""

    def __init__(self, num_contributions: int) -> None:
        self._segment = np.zeros((num_contributions, num_contributions))
        self._sum = np.zeros_like(self._segment)
        self._num_blocks = 0

    def observe(self, deltas: Floats) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # the result is looked at
            self._segment += deltas @ deltas.T
            self._num_blocks += 1
            if self._num_blocks % _BLOCKS_PER_SEGMENT == 0:
                self._sum += self._segment
                self._segment[:] = 0

    def counts(self) -> Matrix:
        with np.errstate(over="ignore", invalid="ignore"):
            total: Matrix = self._sum + self._segment
        return total


def norms_of(combinations: Matrix, gram: Matrix) -> Matrix:
    """Norms of sums of deltas.

    Args:
        combinations: shape (m, K); row i stands for sum_k(combinations[i, k] * Delta_k).
        gram: shape (K, K), the inner product of each two deltas.

    Returns:
        Shape (m,). The error is about 1e-8 of the norms of what is added up: half of the digits
        go where vectors cancel.
    """
    squares = np.sum((combinations @ gram) * combinations, axis=1)
    norms: Matrix = np.sqrt(np.maximum(squares, 0.0))  # rounding may leave less than 0
    return norms


def clip_factors(norms: Matrix, limit: float) -> Matrix:
    """min(1, limit / norm) of each; 1 for a norm of 0."""
    factors: Matrix = np.divide(limit, norms, out=np.ones_like(norms), where=norms > limit)
    return factors


def _too_large(contribution_id: str) -> ContributionFault:
    error = IncompatibleModelError(
        f"contribution {contribution_id}",
        "the norm of its delta",
        "beyond the range of float64",
        "a finite number",
        "its finetune diverged, lower the learning rate and submit again",
    )
    return ContributionFault(contribution_id, error)
