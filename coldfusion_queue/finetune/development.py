"""The development split that the paper cuts from the ends of a training split."""

from __future__ import annotations

import numpy as np

__all__ = ["cut_development", "thinned"]

_LARGE = 10_000
_LARGE_END = 500
_SMALL_END = 0.05

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


def cut_development(num_examples: int) -> tuple[Indices, Indices]:
    """Positions to train on, and positions to develop on, of a split in its own order.

    From 10,000 examples on, the first and the last 500 are for development; below, the first and
    the last 5 percent, rounded half to even. Ten examples or fewer have none.

    Source: Don-Yehiya et al. 2023, section 4; the rounding gives the training sizes of the authors'
    code, such as 2,242 of RTE's 2,490.
    """
    if num_examples >= _LARGE:
        first, last = _LARGE_END, num_examples - _LARGE_END
    else:
        first = round(num_examples * _SMALL_END)
        last = round(num_examples * (1 - _SMALL_END))
    positions = np.arange(num_examples)
    return positions[first:last], np.concatenate([positions[:first], positions[last:]])


def thinned(indices: Indices, limit: int) -> Indices:
    """At most so many of the indices, evenly spaced; the same ones every time."""
    if len(indices) <= limit:
        return indices
    return indices[np.arange(limit) * len(indices) // limit]
