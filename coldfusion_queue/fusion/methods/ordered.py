"""What methods share that sort the deltas of each element: equal weights and others."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coldfusion_queue.errors import UsageError
from coldfusion_queue.fusion.dtypes import Floats
from coldfusion_queue.fusion.methods.method import BLOCK_ELEMENTS, Method

__all__ = ["OrderedMethod"]

#: Numbers of all deltas together that are sorted at a time.
_SORTED_NUMBERS = 1 << 18
_MIN_BLOCK_ELEMENTS = 1 << 11


@dataclass(frozen=True)
class OrderedMethod(Method):
    """A method that picks or averages numbers by their rank among the K deltas of an element."""

    hides_non_finite: ClassVar[bool] = True

    def combine(self, deltas: Iterable[Floats], coefficients: Sequence[float]) -> Floats:
        """See ``Method.combine``.

        Raises:
            UsageError: a coefficient below 0, or none above.
        """
        eta = math.fsum(coefficients)
        if min(coefficients) < 0 or eta <= 0:
            raise UsageError("coefficients", str(list(coefficients)), "0 or more, one above 0")
        rows = [np.array(delta) for delta in deltas]
        if min(coefficients) == max(coefficients):
            combined = self._of_equal(rows)
        else:
            combined = self._of_weighted(np.stack(rows), np.array(coefficients) / eta)
        combined *= eta
        combined += 0.0  # a minimum of 0.0 and -0.0 is either; now it is 0.0
        return combined

    def block_elements(self, num_contributions: int) -> int:
        """Fewer for more contributions, because all of their deltas are held."""
        fitting = _SORTED_NUMBERS // num_contributions
        return max(_MIN_BLOCK_ELEMENTS, min(BLOCK_ELEMENTS, fitting))

    @abstractmethod
    def _of_equal(self, rows: list[Floats]) -> Floats:
        """The result for equal weights and eta = 1.

        Args:
            rows: K arrays of shape (n,), which may be overwritten.

        Returns:
            Shape (n,); may be one of the rows.
        """

    @abstractmethod
    def _of_weighted(self, rows: Floats, weights: Floats) -> Floats:
        """The result for any weights and eta = 1.

        Args:
            rows: shape (K, n).
            weights: shape (K,), float64; 0 or more, with sum 1.

        Returns:
            Shape (n,), dtype of the rows.
        """
