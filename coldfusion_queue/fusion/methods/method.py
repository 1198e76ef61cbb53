"""What a method is: K deltas of each element in, the combined delta out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from coldfusion_queue.fusion.dtypes import Floats

__all__ = ["BLOCK_ELEMENTS", "Method"]

#: Elements that are worked on at a time, so that intermediate results stay in the cache.
BLOCK_ELEMENTS = 1 << 16


@dataclass(frozen=True)
class Method(ABC):
    """A way to combine deltas that needs the numbers of one element at a time.

    The fields of a method are the policy's fields of the same name. Every element is computed on
    its own, in one order of operations, so the result does not depend on how a model was cut.
    """

    hides_non_finite: ClassVar[bool] = False
    """A NaN or an infinity in a delta need not show in the result, so that deltas have to be
    looked at beforehand."""

    @abstractmethod
    def combine(self, deltas: Iterable[Floats], coefficients: Sequence[float]) -> Floats:
        """The combined delta, which is added to the base model.

        Args:
            deltas: K >= 1 arrays of shape (n,), all float32 or all float64, in the order of the
                contribution ids; not to be written to. A delta is computed when it is asked for,
                so a method that keeps none of them needs no memory for K.
            coefficients: K numbers c_k = eta * w_k / sum(w); they sum to eta.

        Returns:
            An array of its own, of shape (n,) and the dtype of the deltas, in which everything
            is accumulated. What leaves the range of the dtype becomes an infinity or NaN.

        Raises:
            UsageError: coefficients that the method has no meaning for.
        """

    def block_elements(self, num_contributions: int) -> int:
        """Elements that ``combine`` is best given at a time, for K contributions."""
        del num_contributions  # methods that keep all deltas need it
        return BLOCK_ELEMENTS
