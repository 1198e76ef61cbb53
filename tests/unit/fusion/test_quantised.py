"""Quantised groups, against a reading of their description that shares no code with them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coldfusion_queue.errors import UsageError
from coldfusion_queue.fusion.quantised import (
    GROUP_BYTES,
    GROUP_ELEMENTS,
    blocks_of,
    decode_elements,
    encode_groups,
    num_groups,
    scales_of,
)

LEVELS = (-2.1520, -1.3439, -0.7560, -0.2451, 0.2451, 0.7560, 1.3439, 2.1520)


def numbers(size: int, seed: int = 0, scale: float = 1e-4) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(size) * scale).astype(np.float32)


def oracle(data: bytes, num_elements: int) -> list[float]:
    """The description in the module's docstring, number by number."""
    values: list[float] = []
    for start in range(0, len(data), 50):
        (scale,) = struct.unpack("<f", bytes(2) + data[start : start + 2])
        codes = int.from_bytes(data[start + 2 : start + 50], "little")
        for j in range(128):
            level = np.float32(LEVELS[codes >> 3 * j & 7])
            values.append(float(np.float32(scale) * level))
    return values[:num_elements]


def decoded(values: np.ndarray) -> np.ndarray:
    return decode_elements(encode_groups(values).tobytes(), 0, 0, values.size)


# --- the format -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 1000])
def test_groups_are_what_their_description_says(size: int) -> None:
    values = numbers(size)
    groups = encode_groups(values)

    assert groups.shape == (num_groups(size), GROUP_BYTES) == (-(-size // 128), 50)
    data = groups.tobytes()
    assert decode_elements(data, 0, 0, size).tolist() == oracle(data, size)


def test_bytes_that_no_encoder_wrote_are_read_as_the_description_says() -> None:
    data = bytearray(np.random.default_rng(5).integers(0, 256, 50 * 4, dtype=np.uint8).tobytes())
    for start in range(0, len(data), 50):
        data[start + 1] = 0x3A  # a finite scale

    assert decode_elements(data, 0, 0, 512).tolist() == oracle(bytes(data), 512)
    assert scales_of(data).shape == (4,)
    assert scales_of(data)[2] == pytest.approx(
        oracle(bytes(data), 512)[256] / LEVELS[data[102] & 7]
    )


@pytest.mark.parametrize("first", [0, 1, 127, 128, 130, 300, 383])
@pytest.mark.parametrize("count", [0, 1, 2, 128, 129, 200])
@pytest.mark.parametrize("position", [0, 3])
def test_any_range_of_elements_is_read_as_the_whole_is(
    first: int, count: int, position: int
) -> None:
    data = encode_groups(numbers(600)).tobytes()
    whole = decode_elements(data, 0, 0, 600)

    part = decode_elements(bytes(position) + data, position, first, count)

    assert part.tolist() == whole[first : first + count].tolist()


def test_a_model_takes_less_than_a_tenth_of_its_float32_bytes() -> None:
    assert encode_groups(numbers(1 << 16)).nbytes * 10 < (1 << 16) * 4


# --- what is lost -----------------------------------------------------------------------------


def test_normal_numbers_lose_as_much_as_the_source_says() -> None:
    values = numbers(1 << 18, scale=3e-5)
    error = np.linalg.norm(decoded(values) - values) / np.linalg.norm(values)
    assert (
        0.17 < error < np.sqrt(0.03454)
    )  # the table's distortion; the fitted scale gains a little


@settings(deadline=None)
@given(arrays(np.float32, st.integers(1, 300), elements=st.floats(-(2.0**50), 2.0**50, width=32)))
def test_a_group_never_loses_more_than_itself(values: np.ndarray) -> None:
    for start in range(0, values.size, GROUP_ELEMENTS):
        group = values[start : start + GROUP_ELEMENTS].astype(np.float64)
        error = np.linalg.norm(decoded(values)[start : start + GROUP_ELEMENTS] - group)
        # bfloat16 rounds the scale by up to 2^-9, and does not reach below 2^-133.
        assert error <= np.linalg.norm(group) * (1 + 2**-8) + 2.0**-128


def test_each_number_gets_the_nearest_level_under_the_scale_that_is_written() -> None:
    values = numbers(1280)
    groups = encode_groups(values)
    scales, got = scales_of(groups.tobytes()), decoded(values)
    for index, value in enumerate(values):
        levels = np.float64(scales[index // 128]) * np.array(LEVELS)
        nearest = np.abs(levels - value).min()
        assert abs(got[index] - value) <= nearest * (1 + 1e-6) + 1e-6 * abs(value)


def test_another_scale_would_not_be_much_better() -> None:
    values = numbers(128 * 50)
    got = decoded(values).reshape(-1, 128).astype(np.float64)
    rows = values.reshape(-1, 128).astype(np.float64)
    best = (rows * got).sum(axis=1) / (got * got).sum(axis=1)
    assert np.abs(best - 1).max() < 0.05


def test_a_group_of_zeros_stays_zero() -> None:
    values = numbers(384)
    values[128:256] = 0
    got = decoded(values)
    assert not got[128:256].any()
    assert got[:128].all()
    assert got[256:].all()


def test_one_huge_outlier_spoils_its_own_group_alone() -> None:
    values = numbers(384)
    plain = decoded(values)
    values[200] = 1e6
    got = decoded(values)
    assert got[200] > 1e5
    np.testing.assert_array_equal(
        np.delete(got, slice(128, 256)), np.delete(plain, slice(128, 256))
    )


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e-8, 1.0, 1e20, 1e29])
def test_what_is_lost_does_not_depend_on_the_size_of_the_numbers(scale: float) -> None:
    values = numbers(1280, scale=scale)
    error = np.linalg.norm(decoded(values) / np.float32(scale) - values / np.float32(scale))
    assert error / np.linalg.norm(values / np.float32(scale)) < 0.2


def test_a_single_element_keeps_its_value_to_the_rounding_of_the_scale() -> None:
    assert decoded(np.array([-3e-5], np.float32))[0] == pytest.approx(-3e-5, rel=2**-8)


def test_the_last_short_group_is_fitted_to_its_own_elements_alone() -> None:
    values = numbers(128 + 3)
    alone = decoded(values[128:])
    assert decoded(values)[128:].tolist() == alone.tolist()
    assert np.linalg.norm(alone - values[128:]) < 0.4 * np.linalg.norm(values[128:])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e31])
def test_numbers_that_have_no_scale_are_refused(value: float) -> None:
    values = numbers(300)
    values[299] = value
    with pytest.raises(UsageError, match="quantise"):
        encode_groups(values)


# --- blocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_arrays_are_cut_anew_into_blocks_of_one_size(size: int) -> None:
    parts = [numbers(shape, seed).reshape(-1, 1) for seed, shape in enumerate((3, 0, 1, 9, 4))]
    blocks = [block.copy() for block in blocks_of(parts, size)]

    assert [block.size for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    assert 0 < blocks[-1].size <= size
    assert np.concatenate(blocks).tolist() == np.concatenate(parts).ravel().tolist()


def test_nothing_makes_no_block() -> None:
    assert list(blocks_of([np.empty((0, 3), np.float32)], 8)) == []


def test_blocks_of_whole_groups_are_encoded_as_all_at_once() -> None:
    values = numbers(1000)
    parts = [encode_groups(block) for block in blocks_of([values[:37], values[37:]], 256)]
    assert np.concatenate(parts).tobytes() == encode_groups(values).tobytes()
