"""Low-rank deltas: two small factors for each matrix that changed, and the numbers they stand for.

::

    delta = B @ A           B: (rows, r), A: (r, columns), the scale of the adapter folded into B
    delta[i, j] = B[i, 0] * A[0, j] + ... + B[i, r-1] * A[r-1, j]

added up from left to right, each product and each sum rounded to float32. So a number depends on
its row of B and its column of A alone: the bits are the same wherever chunks begin and end, and on
every machine. A product by BLAS would be faster, and its bits depend on the processor's kernel and
on how many rows it is given.

Source: Hu et al. 2021, LoRA, arXiv:2106.09685, equation 3: h = W_0 x + B A x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["MAX_RANK", "expand", "saves_bytes"]

#: The most that is taken. The time that a number takes grows with the rank: this one makes it 30
#: times what rank 8 takes, and bounds what a hostile file can cost.
MAX_RANK = 256

#: Numbers that are worked on at a time, so that they stay in the cache.
_TILE_ELEMENTS = 1 << 16

Float32s = np.ndarray[Any, np.dtype[np.float32]]


def saves_bytes(shape: Sequence[int], rank: int) -> bool:
    """Whether a tensor is a matrix that has more elements than factors of that rank."""
    return len(shape) == 2 and rank * (shape[0] + shape[1]) < shape[0] * shape[1]


def expand(left: Float32s, right: Float32s, first: int, out: Float32s) -> None:
    """Write some numbers of a product, in row-major order.

    Args:
        left: rows of B, shape (m, r), r >= 1.
        right: A, shape (r, columns).
        first: elements of the first of these rows that are left out.
        out: shape (n,), overwritten; n at most m * columns - first.
    """
    columns = right.shape[1]
    scratch = np.empty(min(_TILE_ELEMENTS, out.size), np.float32)
    filled = 0
    while filled < out.size:
        row, column = divmod(first + filled, columns)
        width = min(columns - column, out.size - filled, _TILE_ELEMENTS)
        rows = min(out.size - filled, _TILE_ELEMENTS) // columns if width == columns else 1
        tile = out[filled : filled + rows * width].reshape(rows, width)
        product = scratch[: tile.size].reshape(tile.shape)
        _add_up(left[row : row + rows], right[:, column : column + width], tile, product)
        filled += tile.size


def _add_up(left: Float32s, right: Float32s, tile: Float32s, product: Float32s) -> None:
    """Shapes (m, r), (r, c), and (m, c) for the result and for what is needed meanwhile."""
    np.multiply(left[:, :1], right[0], out=tile)
    for index in range(1, len(right)):
        np.multiply(left[:, index : index + 1], right[index], out=product)
        tile += product
