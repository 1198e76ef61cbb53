"""What methods share that sort the deltas of each element: equal weights and others."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coldfusion_queue.fusion.dtypes import Floats
from coldfusion_queue.fusion.methods.method import (
    Block,
    ElementMethod,
    eta_and_weights,
    held_block_elements,
)

__all__ = ["OrderedMethod"]

#: Numbers of all deltas together that are sorted with their weights at a time; these take twice
#: the memory, and a sort goes through all of it many times.
_PART_NUMBERS = 1 << 17
_MIN_PART_ELEMENTS = 1 << 11


@dataclass(frozen=True)
class OrderedMethod(ElementMethod):
    """A method that picks or averages numbers by their rank among the K deltas of an element."""

    hides_non_finite: ClassVar[bool] = True

    def combine(self, block: Block) -> Floats:
        """See ``Combination.combine``.

        Raises:
            UsageError: a coefficient below 0, or none above.
        """
        eta, weights = eta_and_weights(block.coefficients)
        if min(block.coefficients) == max(block.coefficients):
            combined = self._of_equal([np.array(delta) for delta in block.deltas])
        else:
            combined = self._in_parts(list(block.deltas), weights)
        combined *= eta
        combined += 0.0  # a minimum of 0.0 and -0.0 is either; now it is 0.0
        return combined

    def block_elements(self, num_contributions: int) -> int:
        """See ``held_block_elements``."""
        return held_block_elements(num_contributions)

    def _in_parts(self, rows: list[Floats], weights: Floats) -> Floats:
        combined = np.empty_like(rows[0])
        size = max(_MIN_PART_ELEMENTS, _PART_NUMBERS // len(rows))
        for first in range(0, len(combined), size):
            part = slice(first, first + size)
            combined[part] = self._of_weighted([row[part] for row in rows], weights)
        return combined

    @abstractmethod
    def _of_equal(self, rows: list[Floats]) -> Floats:
        """The result for equal weights and eta = 1.

        Args:
            rows: K arrays of shape (n,), which may be overwritten.

        Returns:
            Shape (n,); may be one of the rows.
        """

    @abstractmethod
    def _of_weighted(self, rows: list[Floats], weights: Floats) -> Floats:
        """The result for any weights and eta = 1.

        Args:
            rows: K arrays of shape (n,), not to be written to.
            weights: shape (K,), float64; 0 or more, with sum 1.

        Returns:
            Shape (n,), dtype of the rows.
        """
