from __future__ import annotations

import numpy as np
import pytest

from coldfusion_queue.fusion.average import add_delta, delta_of

#: More elements than are worked on at a time, and no multiple of that.
SIZE = 3 * (1 << 16) + 17


@pytest.mark.parametrize("size", [0, 1, 5, SIZE])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_finetuned_model_adds_its_difference_times_the_coefficient(
    size: int, dtype: type
) -> None:
    generator = np.random.default_rng(0)
    total, values, reference = (generator.normal(size=size).astype(dtype) for _ in range(3))
    expected = total.astype(np.float64) + 0.3 * (values.astype(np.float64) - reference)

    add_delta(total, 0.3, values, reference)

    assert total.dtype == dtype
    tolerance = 1e-6 if dtype is np.float32 else 1e-15
    np.testing.assert_allclose(total, expected, rtol=tolerance, atol=tolerance)


def test_a_delta_is_added_times_the_coefficient() -> None:
    total = np.array([1.0, 2.0], np.float32)
    add_delta(total, -0.5, np.array([4.0, 8.0], np.float32), None)
    assert total.tolist() == [-1.0, -2.0]


def test_values_that_must_not_be_written_are_not_written() -> None:
    values, reference = np.ones(SIZE, np.float32), np.zeros(SIZE, np.float32)
    values.flags.writeable = reference.flags.writeable = False

    add_delta(np.zeros(SIZE, np.float32), 2.0, values, reference)

    assert (values == 1).all()
    assert (reference == 0).all()


def test_results_do_not_depend_on_where_a_model_is_cut() -> None:
    generator = np.random.default_rng(1)
    total, values, reference = (generator.normal(size=SIZE).astype(np.float32) for _ in range(3))
    whole, cut = total.copy(), total.copy()

    add_delta(whole, 0.7, values, reference)
    for first in range(0, SIZE, 999):
        part = slice(first, first + 999)
        add_delta(cut[part], 0.7, values[part], reference[part])

    assert whole.tobytes() == cut.tobytes()


def test_delta_is_the_difference_or_what_was_sent() -> None:
    values, reference = np.array([3.0]), np.array([1.0])
    assert delta_of(values, reference).tolist() == [2.0]
    assert delta_of(values, None) is values
