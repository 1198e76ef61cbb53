"""Files of low-rank deltas: what is in them, checked against the base model.

A safetensors file with two tensors for each matrix of the base model that changed, by its name:
``<name>/B`` of shape (rows, r) and ``<name>/A`` of shape (r, columns), as ``low_rank`` describes.
They may be of any float dtype and the rank may differ from matrix to matrix. The file's metadata
names the scheme and its version. Every tensor that the file does not name has a delta of 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coldfusion_queue.errors import IncompatibleModelError, InvalidTensorFileError
from coldfusion_queue.fusion.chunks import Piece
from coldfusion_queue.fusion.dtypes import DTYPE_BYTES, FLOAT_DTYPES
from coldfusion_queue.fusion.layout import TensorInfo, TensorLayout
from coldfusion_queue.fusion.low_rank import MAX_RANK, saves_bytes

__all__ = ["METADATA", "Factors", "check_factors", "factor_names"]

_KEY = "low_rank"

#: What the tensors are and how they are multiplied; whatever changes what they mean changes this.
_SCHEME = "factors/1"

#: What a file says about itself.
METADATA: Mapping[str, str] = {_KEY: _SCHEME}

_LEFT, _RIGHT = "/B", "/A"
_REMEDY = "finetune this repository's base model, or contribute the delta"


def factor_names(tensor: str) -> tuple[str, str]:
    """What B and A of a tensor of the base model are called in the file."""
    return tensor + _LEFT, tensor + _RIGHT


@dataclass(frozen=True)
class Factors:
    """Where the factors of one matrix are."""

    left: TensorInfo
    """B, of shape (rows, r)."""
    right: TensorInfo
    """A, of shape (r, columns)."""

    def rows_of(self, piece: Piece) -> tuple[int, int]:
        """The rows that a piece of the matrix lies in: the first, and the one after the last."""
        columns = self.right.shape[1]
        return piece.first // columns, -(-(piece.first + piece.num_elements) // columns)

    def places(self, piece: Piece) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where in the file what a piece needs is: (start, end) of rows of B, and of A."""
        row_bytes = self.left.shape[1] * DTYPE_BYTES[self.left.dtype]
        start, end = (self.left.start + row * row_bytes for row in self.rows_of(piece))
        return (start, end), (self.right.start, self.right.end)


def check_factors(
    contribution_id: str, name: str, layout: TensorLayout, base: TensorLayout
) -> Mapping[str, Factors]:
    """The factors of each matrix, after they were found to be what they should be.

    Args:
        contribution_id: whose file it is, for the message.
        name: what messages call the file.
        layout: of the file.
        base: of the base model.

    Raises:
        InvalidTensorFileError: another scheme, or none.
        IncompatibleModelError: a tensor is no factor of a matrix of this base model, or does not
            go with the other one, or is too large; names contribution and tensor.
    """
    scheme = layout.metadata.get(_KEY)
    if scheme != _SCHEME:
        problem = f"it is low-rank as {str(scheme)[:80]!r}, this fusion worker knows {_SCHEME!r}"
        raise InvalidTensorFileError(name, problem)
    found: dict[str, Factors] = {}
    for tensor in layout.tensors:
        target = tensor[: -len(_LEFT)] if tensor.endswith((_LEFT, _RIGHT)) else None
        matrix = base.tensors.get(target) if target is not None else None
        if target is None or matrix is None:
            known = f"{_LEFT!r} or {_RIGHT!r} after the name of a matrix of the base model"
            raise _refusal(contribution_id, tensor, "present", known)
        left, right = (layout.tensors.get(each) for each in factor_names(target))
        if left is None or right is None:
            raise _refusal(contribution_id, tensor, "without the other factor", "both, B and A")
        problem_found = _problem(matrix, left, right)
        if problem_found is not None:
            raise _refusal(contribution_id, tensor, *problem_found)
        found[target] = Factors(left, right)
    return found


def _problem(matrix: TensorInfo, left: TensorInfo, right: TensorInfo) -> tuple[str, str] | None:
    """What was got and what was expected, or None if the product is a delta of the matrix."""
    got = f"{left.dtype} of shape {left.shape} by {right.dtype} of shape {right.shape}"
    if len(matrix.shape) != 2 or not {matrix.dtype, left.dtype, right.dtype} <= FLOAT_DTYPES:
        return got, f"floats by floats for a matrix, not {matrix.dtype} of shape {matrix.shape}"
    rows, columns = matrix.shape
    rank = left.shape[-1] if left.shape else 0
    if rank < 1 or left.shape != (rows, rank) or right.shape != (rank, columns):
        return got, f"shapes ({rows}, r) by (r, {columns}), with r of 1 or more"
    if rank > MAX_RANK or not saves_bytes(matrix.shape, rank):
        return got, f"a rank of at most {MAX_RANK}, and fewer elements than {rows * columns}"
    return None


def _refusal(contribution_id: str, name: str, got: str, expected: str) -> IncompatibleModelError:
    shown = repr(name) if len(name) <= 120 else f"{name[:120]!r}..."
    return IncompatibleModelError(
        f"contribution {contribution_id}", f"tensor {shown}", got[:300], expected, _REMEDY
    )
