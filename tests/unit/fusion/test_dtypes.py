from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coldfusion_queue.fusion.dtypes import DTYPE_BYTES, accumulator, decode, encode, is_finite

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

float32_numbers = st.lists(st.floats(width=32), min_size=1, max_size=50)


def torch_bytes(values: np.ndarray, dtype: str) -> bytes:
    tensor = torch.from_numpy(values.copy()).to(TORCH[dtype])
    return tensor.view(torch.uint8).numpy().tobytes()


@settings(deadline=None)
@given(float32_numbers)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_encoding_rounds_as_torch_does(dtype: str, numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    values[np.isnan(values)] = 0  # there are many NaNs, and each may choose its own

    assert encode(values, dtype) == torch_bytes(values, dtype)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_decoding_and_encoding_gives_every_number_of_a_dtype_back(dtype: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).tobytes()
    numbers = decode(every, dtype, 0, 1 << 16)
    known = ~np.isnan(numbers)

    again = np.frombuffer(encode(numbers, dtype), np.uint16)

    assert np.array_equal(again[known], np.frombuffer(every, np.uint16)[known])
    expected = torch.frombuffer(bytearray(every), dtype=TORCH[dtype]).to(torch.float32).numpy()
    assert np.array_equal(numbers, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        pytest.param(0x3F80_7FFF, 0x3F80, id="just below the tie goes down"),
        pytest.param(0x3F80_8000, 0x3F80, id="tie above an even place goes down"),
        pytest.param(0x3F81_8000, 0x3F82, id="tie above an odd place goes up"),
        pytest.param(0x3F80_8001, 0x3F81, id="just above the tie goes up"),
        pytest.param(0xBF81_8000, 0xBF82, id="negative tie goes away from zero to even"),
        pytest.param(0x7F7F_FFFF, 0x7F80, id="largest float32 becomes infinity"),
        pytest.param(0x7FFF_FFFF, 0x7FC0, id="NaN that a carry would turn into a number"),
        pytest.param(0x0000_0001, 0x0000, id="smallest subnormal becomes zero"),
    ],
)
def test_bfloat16_rounds_to_nearest_even(bits: int, expected: int) -> None:
    values = np.array([bits], np.uint32).view(np.float32)
    assert np.frombuffer(encode(values, "BF16"), np.uint16)[0] == expected


@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_decoding_full_width_floats_copies_nothing_at_any_alignment(dtype: str) -> None:
    numbers = np.array([1.5, -2.25, 3.125], accumulator(dtype))
    data = bytearray(b"abc" + numbers.tobytes())

    decoded = decode(data, dtype, 3, 3)
    data[3:] = (numbers * 2).tobytes()

    assert np.array_equal(decoded, numbers * 2)


def test_sums_are_kept_in_float64_for_float64_only() -> None:
    kept = {dtype: accumulator(dtype) for dtype in ("F64", "F32", "F16", "BF16")}
    assert kept == {"F64": np.float64, "F32": np.float32, "F16": np.float32, "BF16": np.float32}


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_only_nan_and_infinities_are_not_finite(dtype: str) -> None:
    values = np.array([0.0, np.nan, 1.0, np.inf, -np.inf, -1.0], accumulator(dtype))
    finite = is_finite(encode(values, dtype), dtype)
    assert finite.tolist() == [True, False, True, False, False, True]


def test_what_is_too_large_for_float16_becomes_an_infinity_without_a_warning() -> None:
    assert not is_finite(encode(np.array([65520.0], np.float32), "F16"), "F16").any()


def test_dtype_sizes_are_those_that_safetensors_writes() -> None:
    assert {name: size for name, size in DTYPE_BYTES.items() if name in TORCH} == {
        name: torch.empty((), dtype=dtype).element_size() for name, dtype in TORCH.items()
    }
