"""Fusions by every method, from files to a file."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load
from safetensors.torch import load as load_torch

from coldfusion_queue.errors import IncompatibleModelError, NonFiniteTensorError
from coldfusion_queue.fusion.stream import ContributionFault

from .files import MemorySource, bfloat16, contribution, file_of, fuse_bytes, model, pack
from .methods_oracle import (
    AVERAGES,
    NAMES,
    STEPS,
    WEIGHTS,
    a_method,
    oracle,
    tolerance_of,
    weights_of,
)

SHAPES = {"a": (7, 5), "scale": (), "b": (4, 3, 2)}
#: Relative rounding of each dtype, of the sum and of what is stored.
TOLERANCES = {"bfloat16": 2**-8, "float16": 2**-10, "float32": 2**-21, "float64": 2**-48}


def exact(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers that bfloat16 holds, near those given."""
    return {name: np.round(array * 32).astype(np.float32) / 32 for name, array in arrays.items()}


def a_file(arrays: dict[str, np.ndarray], dtype: str) -> bytes:
    if dtype == "bfloat16":
        return pack({name: bfloat16(array) for name, array in arrays.items()})
    return file_of({name: array.astype(dtype) for name, array in arrays.items()})


def as_float64(data: bytes, dtype: str) -> dict[str, np.ndarray]:
    if dtype == "bfloat16":
        return {name: tensor.double().numpy() for name, tensor in load_torch(data).items()}
    found = load(data)
    assert all(tensor.dtype == dtype for tensor in found.values())
    return {name: tensor.astype(np.float64) for name, tensor in found.items()}


def flat(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """All elements in the order of the file."""
    return np.concatenate([arrays[name].ravel() for name in SHAPES])


# --- against the oracle -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("weights", ["equal", "distinct"])
@pytest.mark.parametrize("number", [1, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_the_base_model_moves_by_what_the_method_gives(
    name: str, number: int, weights: str, dtype: str
) -> None:
    base, old = exact(model(0, SHAPES)), exact(model(1, SHAPES))
    models = [exact(model(2 + index, SHAPES)) for index in range(number)]
    coefficients = weights_of(weights, number, 0.7)
    own_base = MemorySource("old", a_file(old, dtype))
    inputs = [
        contribution(f"c{index}", a_file(each, dtype), coefficient, "full", own_base)
        if index % 2
        else contribution(f"c{index}", a_file(each, dtype), coefficient)
        for index, (each, coefficient) in enumerate(zip(models, coefficients, strict=True))
    ]

    data = fuse_bytes(a_file(base, dtype), inputs, method=a_method(name))

    deltas = [
        flat(each) - flat(old) if index % 2 else flat(each) for index, each in enumerate(models)
    ]
    expected = flat(base) + STEPS.get(name, 1) * oracle(name, deltas, coefficients)
    tolerance = tolerance_of(name, TOLERANCES[dtype])
    fused = flat(as_float64(data, dtype))
    np.testing.assert_allclose(fused, expected, rtol=tolerance, atol=3 * tolerance)


# --- laws -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("number", [1, 2, 3, 8])
@pytest.mark.parametrize("name", AVERAGES)
def test_contributions_that_are_one_and_the_same_model_give_that_model(
    name: str, number: int, weights: str
) -> None:
    base, finetuned = model(0, SHAPES), model(1, SHAPES)
    inputs = [
        contribution(f"c{index}", file_of(finetuned), coefficient, "full")
        for index, coefficient in enumerate(weights_of(weights, number, 1.0))
    ]

    fused = load(fuse_bytes(file_of(base), inputs, method=a_method(name)))

    for tensor, values in finetuned.items():
        np.testing.assert_allclose(fused[tensor], values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weights", ["equal", "distinct"])
@pytest.mark.parametrize("name", NAMES)
def test_bits_depend_on_neither_chunks_nor_threads_nor_the_order_of_the_inputs(
    name: str, weights: str
) -> None:
    size = (1 << 16) + 1000  # more than a method is given at a time
    shapes = {"first": (3,), "w": (size,), "wide": (301,)}
    buffer = ("I64", (5,), np.arange(5).tobytes())
    start = model(0, shapes)
    base = pack(
        {
            "first": ("F32", (3,), start["first"].tobytes()),
            "buffer": buffer,
            "w": ("F32", (size,), start["w"].tobytes()),
            "wide": ("F64", (301,), start["wide"].astype(np.float64).tobytes()),
        }
    )
    number = 5
    mixed = [
        pack(
            {
                "w": ("F64", (size,), each["w"].tobytes()),
                "buffer": buffer,
                "first": ("F16", (3,), each["first"].astype(np.float16).tobytes()),
                "wide": ("F32", (301,), each["wide"].astype(np.float32).tobytes()),
            }
        )
        for each in (model(1 + index, shapes, "float64") for index in range(number))
    ]
    inputs = [
        contribution(f"c{index}", data, coefficient, "full" if index % 2 else "delta")
        for index, (data, coefficient) in enumerate(
            zip(mixed, weights_of(weights, number, 0.9), strict=True)
        )
    ]
    method = a_method(name)

    whole = fuse_bytes(base, inputs, 1 << 24, 1, method)

    assert fuse_bytes(base, inputs[::-1], 9999, 4, method) == whole
    assert fuse_bytes(base, inputs[2:] + inputs[:2], 1 << 17, 2, method) == whole
    assert fuse_bytes(base, inputs, 1 << 24, 3, method, read_ahead_bytes=1 << 19) == whole


# --- whose fault it is ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weights", ["equal", "distinct"])
@pytest.mark.parametrize("form", ["delta", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_a_number_that_is_not_finite_refuses_its_contribution(
    name: str, form: str, weights: str, value: float
) -> None:
    base = model(0, SHAPES)
    models = [model(1 + index, SHAPES) for index in range(5)]
    models[3]["b"][2, 1, 1] = value
    inputs = [
        contribution(f"c{index}", file_of(each), coefficient, form)
        for index, (each, coefficient) in enumerate(
            zip(models, weights_of(weights, 5, 1.0), strict=True)
        )
    ]

    with pytest.raises(ContributionFault) as caught:
        fuse_bytes(file_of(base), inputs, 40, method=a_method(name))

    assert caught.value.contribution_id == "c3"
    assert isinstance(caught.value.cause, NonFiniteTensorError)
    assert caught.value.cause.tensor == "b"


@pytest.mark.parametrize("name", NAMES)
def test_a_number_that_is_not_finite_far_into_the_file_is_named_by_its_own_tensor(
    name: str,
) -> None:
    honest = {"a": np.ones(1 << 17, np.float32), "b": np.ones(9, np.float32)}
    broken = honest | {"b": np.full(9, np.nan, np.float32)}
    inputs = [
        contribution("c1", file_of(honest), 0.5),
        contribution("c2", file_of(broken), 0.5),
    ]

    with pytest.raises(ContributionFault) as caught:
        fuse_bytes(file_of(honest), inputs, 1 << 24, method=a_method(name))

    assert caught.value.contribution_id == "c2"
    assert isinstance(caught.value.cause, NonFiniteTensorError)
    assert caught.value.cause.tensor == "b"


@pytest.mark.parametrize("name", NAMES)
def test_a_result_beyond_the_dtypes_range_refuses_the_largest_contribution(name: str) -> None:
    base = file_of({"w": np.full(3, 60000.0, np.float16)})
    inputs = [
        contribution(f"c{index}", file_of({"w": np.full(3, size, np.float16)}), 1 / 3)
        for index, size in enumerate((30000.0, 50000.0, 40000.0))
    ]

    with pytest.raises(ContributionFault) as caught:
        fuse_bytes(base, inputs, method=a_method(name))

    assert caught.value.contribution_id == "c1"
    assert isinstance(caught.value.cause, IncompatibleModelError)
