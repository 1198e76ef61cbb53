"""Whether the tensors of a contribution fit those of the base model."""

from __future__ import annotations

from coldfusion_queue.errors import IncompatibleModelError
from coldfusion_queue.fusion.dtypes import FLOAT_DTYPES
from coldfusion_queue.fusion.layout import TensorInfo, TensorLayout

__all__ = ["check_layout"]

_REMEDY = "it was finetuned from another model, finetune this repository's base model"


def check_layout(contribution_id: str, layout: TensorLayout, base_layout: TensorLayout) -> None:
    """Refuse a contribution whose tensors are not those of the base model.

    The order of the tensors and which float dtype they have may differ.

    Args:
        contribution_id: whose file it is, for the message.
        layout: of the contribution's shared parameters.
        base_layout: of the base model.

    Raises:
        IncompatibleModelError: a tensor is missing, is not the base model's, has another shape,
            or holds integers where the base model has floats; names contribution and tensor.
    """
    for name, expected in base_layout.tensors.items():
        problem = _problem(layout.tensors.get(name), expected)
        if problem is not None:
            raise _refusal(contribution_id, name, *problem)
    for name in layout.tensors:
        if name not in base_layout.tensors:
            raise _refusal(contribution_id, name, "present", "no such tensor")


def _problem(got: TensorInfo | None, expected: TensorInfo) -> tuple[str, str] | None:
    """What was got and what was expected, or None if they go together."""
    if got is None:
        return "missing", f"{expected.dtype} of shape {expected.shape}"
    if got.shape != expected.shape:
        return f"of shape {got.shape}", f"shape {expected.shape}"
    if expected.dtype in FLOAT_DTYPES and got.dtype not in FLOAT_DTYPES:
        return f"of dtype {got.dtype}", "one of " + ", ".join(sorted(FLOAT_DTYPES))
    return None


def _refusal(contribution_id: str, name: str, got: str, expected: str) -> IncompatibleModelError:
    shown = repr(name) if len(name) <= 120 else f"{name[:120]!r}..."
    return IncompatibleModelError(
        f"contribution {contribution_id}", f"tensor {shown}", got, expected, _REMEDY
    )
