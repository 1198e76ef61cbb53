"""The K thresholds above which each contribution has its largest numbers, exactly, in two surveys.

The bits of a float32 without its sign order numbers by magnitude. The first survey counts the
upper 15 of these 31 bits, which tells those of the threshold; the second counts the lower 16 bits
of the numbers that begin with them. Counts are whole numbers, so any order gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from coldfusion_queue.fusion.dtypes import Floats
from coldfusion_queue.fusion.methods.method import Combination, Survey, Tally

__all__ = ["TopSurvey"]

Counts = NDArray[np.int64]
Finish = Callable[[Sequence[np.float32]], Combination]

_MAGNITUDE = 0x7FFF_FFFF
_LOW_BITS = 16
_LOW = (1 << _LOW_BITS) - 1
_NUM_UPPER = (_MAGNITUDE >> _LOW_BITS) + 1


class TopSurvey(Survey):
    """The first survey; its result is the second one.

    Cost: O(K * P) time, memory for 256 KiB a contribution, and in the second survey 512 KiB.
    """

    #: Numbers of a float64 tensor are ranked as what they are in float32, infinities included.
    dtype: ClassVar[np.dtype[np.floating[Any]]] = np.dtype(np.float32)

    def __init__(self, num_contributions: int, share: float, finish: Finish) -> None:
        """A survey of K contributions.

        Args:
            num_contributions: K.
            share: how many of a contribution's numbers are above its threshold or at it: the
                nearest whole number to this share, at least 1. More of them if several are the
                same as the threshold.
            finish: makes a combination of K thresholds.
        """
        self._num_contributions = num_contributions
        self._share = share
        self._finish = finish

    def begin(self) -> Tally:
        """See ``Survey.begin``."""
        return _UpperTally(self._num_contributions)

    def result(self, counts: Sequence[Counts]) -> Survey:
        """See ``Survey.result``."""
        found = []
        for row in _sum_of(counts):
            total = int(row.sum())
            wanted = min(max(round(self._share * total), 1), total)
            found.append(_bin_of(row, wanted))
        return _LowerSurvey(found, self._finish)


class _UpperTally(Tally):
    """How many numbers have which upper bits."""

    def __init__(self, num_contributions: int) -> None:
        self._counts = np.zeros((num_contributions, _NUM_UPPER), np.int64)

    def observe(self, deltas: Floats) -> None:
        for counts, bits in zip(self._counts, _magnitudes(deltas), strict=True):
            np.add.at(counts, bits >> _LOW_BITS, 1)

    def counts(self) -> Counts:
        return self._counts


class _LowerSurvey(Survey):
    """Counts the lower bits of numbers whose upper bits are those of the threshold."""

    dtype: ClassVar[np.dtype[np.floating[Any]]] = TopSurvey.dtype

    def __init__(self, upper: Sequence[tuple[int, int]], finish: Finish) -> None:
        """A survey of K contributions.

        Args:
            upper: of each, the upper bits of the threshold, and which of the numbers that begin
                with them the threshold is, 1 being the largest.
            finish: as in ``TopSurvey``.
        """
        self._upper = upper
        self._finish = finish

    def begin(self) -> Tally:
        return _LowerTally([upper for upper, _ in self._upper])

    def result(self, counts: Sequence[Counts]) -> Combination:
        bits = [
            upper << _LOW_BITS | _bin_of(row, rank)[0]
            for row, (upper, rank) in zip(_sum_of(counts), self._upper, strict=True)
        ]
        return self._finish(list(np.array(bits, np.uint32).view(np.float32)))


class _LowerTally(Tally):
    """How many of the numbers with the threshold's upper bits have which lower bits."""

    def __init__(self, upper: Sequence[int]) -> None:
        self._upper = upper
        self._counts = np.zeros((len(upper), _LOW + 1), np.int64)

    def observe(self, deltas: Floats) -> None:
        rows = zip(self._counts, self._upper, _magnitudes(deltas), strict=True)
        for counts, upper, bits in rows:
            np.add.at(counts, bits[bits >> _LOW_BITS == upper] & _LOW, 1)

    def counts(self) -> Counts:
        return self._counts


def _sum_of(counts: Sequence[Counts]) -> Counts:
    total: Counts = np.sum(counts, axis=0)
    return total


def _magnitudes(deltas: Floats) -> NDArray[np.uint32]:
    """The bits of float32 numbers without their signs, of the same shape."""
    return deltas.view(np.uint32) & np.uint32(_MAGNITUDE)


def _bin_of(counts: Counts, rank: int) -> tuple[int, int]:
    """The bin that holds the number of a rank, and the rank among the numbers in that bin.

    Args:
        counts: how many numbers each bin holds, smaller numbers first.
        rank: 1 is the largest number; 0, if there are none, gives the last bin.
    """
    up_to = np.cumsum(counts[::-1])
    index = int(np.searchsorted(up_to, rank))
    return len(counts) - 1 - index, rank - int(up_to[index] - counts[::-1][index])
