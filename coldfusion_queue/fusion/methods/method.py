"""What a method is: deltas in, the combined delta out, perhaps after a look at all of them.

::

    Method  --begin-->  Combination                        each element by itself: one pass
    Method  --begin-->  Survey  --result-->  Combination   needs to know all deltas: two or three

A method says what a policy asks for and never changes. What it needs to know of the deltas of one
fusion is asked by a ``Survey``, and counted in a pass over all files that writes nothing: by one
``Tally`` for each of the base model's files. The survey's result is another survey, or the
``Combination`` that gives the numbers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from coldfusion_queue.errors import UsageError
from coldfusion_queue.fusion.dtypes import Floats

__all__ = [
    "BLOCK_ELEMENTS",
    "Block",
    "Combination",
    "ElementMethod",
    "Method",
    "Survey",
    "Tally",
    "eta_and_weights",
    "held_block_elements",
]

#: Elements that are worked on at a time, so that intermediate results stay in the cache.
BLOCK_ELEMENTS = 1 << 16

#: Numbers of all deltas together, where all are held at a time.
_HELD_NUMBERS = 1 << 18
_MIN_BLOCK_ELEMENTS = 1 << 11


@dataclass(frozen=True)
class Block:
    """Consecutive elements of the model: what all contributions hold for them."""

    deltas: Iterable[Floats]
    """K >= 1 arrays of shape (n,), all float32 or all float64, in the order of the contribution
    ids; not to be written to. A delta is computed when it is asked for, so a method that keeps
    none of them needs no memory for K."""
    coefficients: Sequence[float]
    """K numbers c_k = eta * w_k / sum(w); they sum to eta."""
    ids: Sequence[str]
    """K contribution ids, ascending."""
    first: int
    """Index of the first element among all floating-point elements of the base model's file."""


class Combination(ABC):
    """How the deltas of one fusion are combined, with all known that it takes.

    Every element is computed on its own, in one order of operations, so the result does not
    depend on how a model was cut.
    """

    hides_non_finite: ClassVar[bool] = False
    """A NaN or an infinity in a delta need not show in the result, so that deltas have to be
    looked at beforehand; not so where a survey has looked at them."""

    @abstractmethod
    def combine(self, block: Block) -> Floats:
        """The combined delta, which is added to the base model.

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


class Tally(ABC):
    """What one pass over one of the base model's files counts."""

    @abstractmethod
    def observe(self, deltas: Floats) -> None:
        """Take the next elements into account.

        Args:
            deltas: shape (K, n), in the order of the contribution ids, of ``Survey.dtype``. They
                are finite, unless rounded from float64. The array is used again afterwards.
        """

    @abstractmethod
    def counts(self) -> NDArray[Any]:
        """What was counted, as numbers that can be kept and sent."""


class Survey(ABC):
    """Something that has to be known of all deltas of a fusion.

    Each file is cut for it at fixed elements, so what it finds depends on neither chunks nor
    threads, nor on which process looks at which file.
    """

    block_elements: ClassVar[int] = 1 << 14
    """Elements that ``Tally.observe`` is given at a time; the last ones may be fewer."""
    dtype: ClassVar[np.dtype[np.floating[Any]]]
    """What deltas are rounded to before they are observed."""

    @abstractmethod
    def begin(self) -> Tally:
        """Count one of the files."""

    @abstractmethod
    def result(self, counts: Sequence[NDArray[Any]]) -> Survey | Combination:
        """What comes next.

        Args:
            counts: ``Tally.counts`` of all files, in their order.

        Raises:
            ContributionFault: a contribution whose deltas cannot be counted.
        """


@dataclass(frozen=True)
class Method(ABC):
    """A way to combine deltas; its fields are the policy's fields of the same name."""

    @abstractmethod
    def begin(self, ids: Sequence[str], coefficients: Sequence[float]) -> Survey | Combination:
        """The first step of one fusion.

        Args:
            ids: K >= 1 contribution ids, ascending.
            coefficients: of each, as in ``Block``.

        Raises:
            UsageError: coefficients that the method has no meaning for.
        """

    @property
    def decay(self) -> float | None:
        """What the model's displacement is multiplied by before the model goes on by it.

        None for a method without momentum; one with momentum has a state, see
        ``fusion.momentum``.
        """
        return None


@dataclass(frozen=True)
class ElementMethod(Method, Combination):
    """A method that needs the numbers of one element at a time, so that one pass will do."""

    def begin(self, ids: Sequence[str], coefficients: Sequence[float]) -> Combination:
        """See ``Method.begin``; the method itself has all that it takes."""
        del ids, coefficients  # they come with each block
        return self


def eta_and_weights(coefficients: Sequence[float]) -> tuple[float, NDArray[np.float64]]:
    """Coefficients as a step and shares of it.

    Returns:
        eta > 0, and w_k / sum(w) >= 0 of shape (K,), which sum to 1.

    Raises:
        UsageError: a coefficient below 0, or none above.
    """
    eta = math.fsum(coefficients)
    if min(coefficients) < 0 or eta <= 0:
        raise UsageError("coefficients", str(list(coefficients)), "0 or more, one above 0")
    return eta, np.array(coefficients, np.float64) / eta


def held_block_elements(num_contributions: int) -> int:
    """``Combination.block_elements`` where all deltas are held: fewer for more contributions."""
    return max(_MIN_BLOCK_ELEMENTS, min(BLOCK_ELEMENTS, _HELD_NUMBERS // num_contributions))
