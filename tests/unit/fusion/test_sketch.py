"""Sketches against their definition, element by element, and against exact cosines."""

from __future__ import annotations

import base64
import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldfusion_queue.fusion.sketch import SKETCH_SIZE, Sketch, decode_sketch, encode_sketch

NUM_SIGNS = 1_048_583


def sketch_of(values: np.ndarray, first: int = 0) -> np.ndarray:
    sketch = Sketch()
    sketch.add(first, values)
    return sketch.numbers


def by_definition(values: np.ndarray, first: int = 0) -> np.ndarray:
    """Element i goes to number i mod 4096; its sign is bit i mod 1,048,583 of a hash's output."""
    output = hashlib.shake_256(b"coldfusion sketch").digest(NUM_SIGNS // 8 + 1)
    numbers = np.zeros(SKETCH_SIZE)
    for index, value in enumerate(values, first):
        bit = index % NUM_SIGNS
        is_negative = output[bit // 8] >> (7 - bit % 8) & 1
        numbers[index % SKETCH_SIZE] += -value if is_negative else value
    return numbers


@pytest.mark.parametrize("first", [0, 5, SKETCH_SIZE - 1, NUM_SIGNS - 3000, 3 * NUM_SIGNS + 17])
def test_a_sketch_is_what_its_definition_says(first: int) -> None:
    values = np.random.default_rng(0).standard_normal(9000).astype(np.float32)

    np.testing.assert_allclose(
        sketch_of(values, first), by_definition(values, first), rtol=0, atol=1e-6
    )


@given(cuts=st.lists(st.integers(0, 20_000), max_size=5))
def test_it_does_not_matter_how_a_delta_was_cut(cuts: list[int]) -> None:
    values = np.random.default_rng(1).standard_normal(20_000).astype(np.float32)
    edges = [0, *sorted(cuts), len(values)]
    sketch = Sketch()

    for start, end in pairwise(edges):
        sketch.add(start, values[start:end])

    np.testing.assert_allclose(sketch.numbers, sketch_of(values), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cosine", [-1.0, -0.5, 0.0, 0.1, 0.9, 1.0])
def test_the_cosine_of_two_sketches_is_that_of_the_deltas(cosine: float) -> None:
    left, other = np.random.default_rng(2).standard_normal((2, 300_000))
    other -= left * (left @ other) / (left @ left)
    right = cosine * left / np.linalg.norm(left)
    right = right + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)

    a, b = (sketch_of(values.astype(np.float32)) for values in (left, right))

    got = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert got == pytest.approx(cosine, abs=5 / np.sqrt(SKETCH_SIZE))


def test_the_sketch_of_a_sum_is_the_sum_of_the_sketches() -> None:
    left, right = np.random.default_rng(3).standard_normal((2, 10_000)).astype(np.float32)

    got = sketch_of(left + 2 * right)

    np.testing.assert_allclose(got, sketch_of(left) + 2 * sketch_of(right), rtol=0, atol=1e-4)


def test_what_leaves_the_range_of_float32_is_at_no_angle_to_anything() -> None:
    assert not sketch_of(np.full(3 * SKETCH_SIZE, 3e38, np.float32)).any()
    assert not sketch_of(np.full(3, 1e300)).any()


def test_a_sketch_is_the_same_after_it_was_written_and_read() -> None:
    numbers = sketch_of(np.random.default_rng(4).standard_normal(5000).astype(np.float32))

    np.testing.assert_array_equal(decode_sketch(encode_sketch(numbers)), numbers)


@pytest.mark.parametrize("text", ["", "abcd", "no base64!", base64.b64encode(bytes(4)).decode()])
def test_text_that_is_no_sketch_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of three kinds
        decode_sketch(text)
