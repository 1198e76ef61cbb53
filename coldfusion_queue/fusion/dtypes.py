"""The dtypes of tensor files: their sizes, bytes to floating-point arrays and back.

Sums are kept in float32, and in float64 where the base model's own tensor is F64, so that no
base model loses precision by being fused. All files are little-endian, as safetensors says.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DTYPE_BYTES", "FLOAT_DTYPES", "Floats", "accumulator", "decode", "encode", "is_finite"]

#: A one-dimensional array of float32 or float64.
Floats = NDArray[np.floating[Any]]

#: Every dtype that is taken, by its safetensors name, with its size in bytes.
DTYPE_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "F64": 8,
        "F32": 4,
        "F16": 2,
        "BF16": 2,
        "I64": 8,
        "U64": 8,
        "I32": 4,
        "U32": 4,
        "I16": 2,
        "U16": 2,
        "I8": 1,
        "U8": 1,
        "BOOL": 1,
    }
)

#: The dtypes that are fused; tensors of all others are buffers, copied from the base model.
FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})

_NUMPY_FLOATS: Mapping[str, np.dtype[np.floating[Any]]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
}
_BF16_NAN = 0x7FC0


def accumulator(dtype: str) -> np.dtype[np.floating[Any]]:
    """The dtype in which sums for a base tensor of ``dtype`` are kept."""
    return np.dtype(np.float64) if dtype == "F64" else np.dtype(np.float32)


def decode(data: bytes | bytearray, dtype: str, position: int, num_elements: int) -> Floats:
    """Read numbers from bytes; exact for every dtype.

    Args:
        data: bytes that hold the numbers.
        dtype: one of ``FLOAT_DTYPES``.
        position: offset of the first number, in bytes; any alignment.
        num_elements: how many to read.

    Returns:
        float64 for F64, else float32, of shape (num_elements,). F32 and F64 are views into
        ``data``, not copies: they must not be written to.
    """
    if dtype == "BF16":
        halves = np.frombuffer(data, np.dtype("<u2"), num_elements, position)
        bits = halves.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    values = np.frombuffer(data, _NUMPY_FLOATS[dtype], num_elements, position)
    return values.astype(accumulator(dtype), copy=False)


def encode(values: Floats, dtype: str) -> bytes:
    """Write numbers as bytes, rounded to nearest, ties to even.

    Args:
        values: shape (n,), of dtype ``accumulator(dtype)``.
        dtype: one of ``FLOAT_DTYPES``.

    Returns:
        n numbers of ``dtype``. What is too large for it becomes an infinity; see ``is_finite``.
    """
    if dtype == "BF16":
        return _round_to_bfloat16(values.astype(np.float32, copy=False)).tobytes()
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(_NUMPY_FLOATS[dtype], copy=False).tobytes()


def is_finite(data: bytes, dtype: str) -> NDArray[np.bool_]:
    """Which of the encoded numbers are neither NaN nor infinite, of shape (n,)."""
    return np.isfinite(decode(data, dtype, 0, len(data) // DTYPE_BYTES[dtype]))


def _round_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = values.view(np.uint32)
    # Half of the last kept place, or just below it where that place is even: ties go to even.
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    halves = rounded.astype(np.dtype("<u2"))
    halves[np.isnan(values)] = _BF16_NAN  # the carry could turn a NaN into a number
    return halves
