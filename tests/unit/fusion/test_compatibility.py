from __future__ import annotations

import numpy as np
import pytest

from coldfusion_queue.errors import IncompatibleModelError
from coldfusion_queue.fusion.compatibility import check_layout
from coldfusion_queue.fusion.layout import TensorLayout, read_layout

from .files import MemorySource, bfloat16, file_of, pack

BASE = {"a.weight": np.zeros((2, 3), np.float32), "position_ids": np.zeros(4, np.int64)}


def layout_of(data: bytes) -> TensorLayout:
    return read_layout(MemorySource("m", data))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(file_of(BASE), id="the same"),
        pytest.param(file_of(dict(reversed(BASE.items()))), id="another order"),
        pytest.param(
            pack(
                {
                    "a.weight": bfloat16(np.zeros((2, 3))),
                    "position_ids": ("I32", [4], bytes(16)),
                }
            ),
            id="other dtypes of the same kind",
        ),
    ],
)
def test_a_contribution_with_the_base_models_tensors_is_taken(other: bytes) -> None:
    check_layout("c1", layout_of(other), layout_of(file_of(BASE)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"a.weight": None},
            "contribution c1: tensor 'a.weight' is missing, expected F32 of shape (2, 3)",
            id="missing",
        ),
        pytest.param(
            {"b.weight": np.zeros(2, np.float32)},
            "contribution c1: tensor 'b.weight' is present, expected no such tensor",
            id="extra",
        ),
        pytest.param(
            {"a.weight": np.zeros((3, 2), np.float32)},
            "contribution c1: tensor 'a.weight' is of shape (3, 2), expected shape (2, 3)",
            id="transposed",
        ),
        pytest.param(
            {"position_ids": np.zeros(5, np.int64)},
            "tensor 'position_ids' is of shape (5,), expected shape (4,)",
            id="buffer of another shape",
        ),
        pytest.param(
            {"a.weight": np.zeros((2, 3), np.int32)},
            "tensor 'a.weight' is of dtype I32, expected one of BF16, F16, F32, F64",
            id="integers where the base model has floats",
        ),
    ],
)
def test_a_contribution_with_other_tensors_is_refused_by_name(
    change: dict[str, np.ndarray | None], message: str
) -> None:
    changed = {name: array for name, array in (BASE | change).items() if array is not None}

    with pytest.raises(IncompatibleModelError) as caught:
        check_layout("c1", layout_of(file_of(changed)), layout_of(file_of(BASE)))

    assert message in str(caught.value)


def test_a_long_tensor_name_does_not_make_a_long_message() -> None:
    extra = BASE | {"w" * 10_000: np.zeros(1, np.float32)}
    with pytest.raises(IncompatibleModelError) as caught:
        check_layout("c1", layout_of(file_of(extra)), layout_of(file_of(BASE)))
    assert len(str(caught.value)) < 400
