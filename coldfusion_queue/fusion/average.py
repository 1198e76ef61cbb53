"""The arithmetic of a fusion; no I/O."""

from __future__ import annotations

import numpy as np

from coldfusion_queue.fusion.dtypes import Floats

__all__ = ["add_delta", "delta_of"]

#: Elements that are worked on at a time, so that intermediate results stay in the cache.
_BLOCK_ELEMENTS = 1 << 16


def add_delta(total: Floats, coefficient: float, values: Floats, reference: Floats | None) -> None:
    """Add one contribution's share to the sum, in place: total += coefficient * Delta.

    Every element is computed on its own, in one order of operations, so the result does not
    depend on how a model was cut into chunks. NaN and infinities pass through to the sum.

    Args:
        total: shape (n,), float32 or float64; the sum so far, changed.
        coefficient: unitless.
        values: shape (n,), dtype of ``total``; Delta itself, or the finetuned parameters.
        reference: shape (n,), dtype of ``total``; what the finetuned parameters started from.
            None if ``values`` is Delta.

    Cost: O(n) time; memory for one block of 65,536 elements.
    """
    scratch = np.empty(min(len(total), _BLOCK_ELEMENTS), total.dtype)
    for first in range(0, len(total), _BLOCK_ELEMENTS):
        block = slice(first, first + _BLOCK_ELEMENTS)
        part = total[block]
        delta = scratch[: len(part)]
        if reference is None:
            np.multiply(values[block], coefficient, out=delta)
        else:
            np.subtract(values[block], reference[block], out=delta)
            delta *= coefficient
        part += delta


def delta_of(values: Floats, reference: Floats | None) -> Floats:
    """Delta as ``add_delta`` sees it, of shape (n,)."""
    return values if reference is None else values - reference
