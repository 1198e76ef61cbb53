"""Every method against an oracle of its own, and the laws that it keeps."""

from __future__ import annotations

import numpy as np
import pytest

from coldfusion_queue.errors import UsageError
from coldfusion_queue.fusion.methods import METHODS, make_method
from coldfusion_queue.fusion.methods.trimmed_mean import TrimmedMean

from .methods_oracle import NAMES, SCALE, WEIGHTS, a_method, oracle, weights_of

ROBUST = ("median", "trimmed_mean")
AVERAGES = ("mean", *ROBUST)
SIZE = 201


def deltas_of(number: int, dtype: type = np.float64, size: int = SIZE) -> list[np.ndarray]:
    generator = np.random.default_rng(100 + number)
    found = [generator.normal(0.1, 1.0, size).astype(dtype) for _ in range(number)]
    for delta in found:
        delta.flags.writeable = False
    return found


def test_the_oracle_knows_every_method() -> None:
    assert tuple(METHODS) == NAMES


# --- against the oracle -----------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("name", NAMES)
def test_a_method_gives_what_its_definition_says(
    name: str, number: int, weights: str, dtype: type, tolerance: float
) -> None:
    deltas, coefficients = deltas_of(number, dtype), weights_of(weights, number, 0.7)

    combined = a_method(name).combine(deltas, coefficients)

    assert combined.dtype == dtype
    expected = oracle(name, deltas, coefficients)
    np.testing.assert_allclose(combined, expected, rtol=tolerance, atol=tolerance)


def test_the_median_of_half_and_half_is_between_the_two() -> None:
    values = [np.array([1.0]), np.array([2.0]), np.array([4.0])]

    assert a_method("median").combine(values, [0.25, 0.25, 0.5]).tolist() == [3.0]
    assert a_method("median").combine(values, [0.25, 0.5, 0.25]).tolist() == [2.0]
    assert a_method("median").combine(values, [0.5, 0.25, 0.25]).tolist() == [1.5]


@pytest.mark.parametrize("eta", [1.0, 0.7, 0.1])
@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        pytest.param((3, 7, 4, 6), 4.0, id="9 of 20 up to the 2"),
        pytest.param((3, 7, 2, 6), 3.0, id="9 of 18 up to the 2"),
        pytest.param((3, 5, 2, 6), 2.0, id="9 of 16 up to the 2"),
    ],
)
def test_half_is_met_although_coefficients_are_rounded(
    weights: tuple[int, ...], expected: float, eta: float
) -> None:
    values = [np.array([1.0]), np.array([4.0]), np.array([8.0]), np.array([2.0])]
    coefficients = [eta * (weight / sum(weights)) for weight in weights]

    combined = a_method("median").combine(values, coefficients)

    assert combined.tolist() == pytest.approx([eta * expected])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mean_rounds_each_product_and_adds_them_in_order(dtype: type) -> None:
    deltas, coefficients = deltas_of(9, dtype), weights_of("distinct", 9, 0.7)

    expected = [dtype(0)] * SIZE
    for delta, coefficient in zip(deltas, coefficients, strict=True):
        expected = [x + dtype(coefficient) * y for x, y in zip(expected, delta, strict=True)]

    combined = a_method("mean").combine(deltas, coefficients)
    assert combined.tobytes() == np.array(expected, dtype).tobytes()


@pytest.mark.parametrize(
    ("fraction", "number", "trimmed"),
    [
        (0.0, 5, 0),
        (0.2, 4, 0),
        (0.2, 5, 1),
        (0.29, 100, 29),
        (0.1, 30, 3),
        (0.49, 3, 1),
        (0.49, 1, 0),
        (0.4999999999, 2, 0),
    ],
)
def test_the_trimmed_share_is_rounded_down_and_leaves_one(
    fraction: float, number: int, trimmed: int
) -> None:
    assert TrimmedMean(fraction).num_trimmed(number) == trimmed


# --- laws -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", AVERAGES)
def test_copies_of_one_delta_give_that_delta(name: str, weights: str, number: int) -> None:
    (delta,) = deltas_of(1)

    combined = a_method(name).combine([delta] * number, weights_of(weights, number, 1.0))

    np.testing.assert_allclose(combined, delta, rtol=1e-14)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_contributions_does_not_matter(name: str, weights: str) -> None:
    deltas, coefficients = deltas_of(7), weights_of(weights, 7, 0.9)
    order = np.random.default_rng(5).permutation(7)

    one = a_method(name).combine(deltas, coefficients)
    other = a_method(name).combine(
        [deltas[each] for each in order], [coefficients[each] for each in order]
    )

    np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("factor", [-3.0, 0.25])
@pytest.mark.parametrize("name", NAMES)
def test_scaled_deltas_give_the_scaled_result(name: str, factor: float) -> None:
    deltas, coefficients = deltas_of(6), weights_of("distinct", 6, 1.0)

    one = a_method(name).combine(deltas, coefficients)
    other = a_method(name).combine([factor * delta for delta in deltas], coefficients)

    np.testing.assert_allclose(other, factor * one, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", AVERAGES)
def test_the_result_lies_between_the_smallest_and_the_largest(
    name: str, weights: str, number: int
) -> None:
    deltas = deltas_of(number)

    combined = a_method(name).combine(deltas, weights_of(weights, number, 1.0))

    assert (combined >= np.min(deltas, axis=0) - 1e-14).all()
    assert (combined <= np.max(deltas, axis=0) + 1e-14).all()


@pytest.mark.parametrize("weights", ["equal", "distinct"])
@pytest.mark.parametrize("name", ROBUST)
def test_one_outlier_moves_the_result_no_further_than_the_others_reach(
    name: str, weights: str
) -> None:
    deltas = deltas_of(7)
    outlier = np.full(SIZE, 1e9)

    combined = a_method(name).combine([*deltas, outlier], weights_of(weights, 8, 1.0))

    assert (combined <= np.max(deltas, axis=0)).all()


def test_task_arithmetic_with_a_scale_of_one_over_k_is_the_mean() -> None:
    deltas, coefficients = deltas_of(8), weights_of("distinct", 8, 1.0)
    method = make_method("task_arithmetic", {"task_arithmetic_scale": 1 / 8})

    expected = a_method("mean").combine(deltas, coefficients)

    assert method.combine(deltas, coefficients).tobytes() == expected.tobytes()


def test_task_arithmetic_of_equal_weights_is_the_scaled_sum() -> None:
    deltas = deltas_of(5)
    combined = a_method("task_arithmetic").combine(deltas, [0.2] * 5)
    np.testing.assert_allclose(combined, SCALE * np.sum(deltas, axis=0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("number", [1, 2, 3, 8, 9, 20])
@pytest.mark.parametrize("weights", ["equal", "distinct"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_bits_do_not_depend_on_where_a_model_is_cut(
    name: str, number: int, weights: str, dtype: type
) -> None:
    method, coefficients = a_method(name), weights_of(weights, number, 0.9)
    deltas = [delta.copy() for delta in deltas_of(number, dtype)]
    for index, delta in enumerate(deltas):  # zeros of both signs, and ties
        delta[::3] = -0.0 if index % 2 else 0.0
        delta[1::7] = 0.5

    whole = method.combine(deltas, coefficients)
    for size in (1, 2, 17):
        cut = [
            method.combine([delta[first : first + size] for delta in deltas], coefficients)
            for first in range(0, SIZE, size)
        ]
        assert np.concatenate(cut).tobytes() == whole.tobytes()


@pytest.mark.parametrize("coefficients", [[1.0], [0.5, 0.5], [0.3, 0.7]])
@pytest.mark.parametrize("name", NAMES)
def test_no_result_is_a_negative_zero(name: str, coefficients: list[float]) -> None:
    combined = a_method(name).combine([np.full(9, -0.0)] * len(coefficients), coefficients)
    assert not np.signbit(combined).any()


@pytest.mark.parametrize("number", [3, 7])
def test_half_of_the_weight_is_met_though_the_weights_are_rounded(number: int) -> None:
    # In binary, 3 * (1 / 6) counts a little more than 1 / 2 and 7 * (1 / 14) a little less.
    coefficients = [0.5 / number] * number + [0.5]
    deltas = [np.full(4, float(index)) for index in range(number + 1)]

    combined = a_method("median").combine(deltas, coefficients)

    assert combined.tolist() == [number - 0.5] * 4


# --- what a method is given -------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_deltas_are_not_written_to_and_the_result_is_none_of_them(name: str) -> None:
    deltas = [np.ones(4), np.full(4, 2.0), np.full(4, 3.0)]

    for coefficients in ([1 / 3] * 3, [0.2, 0.3, 0.5]):
        combined = a_method(name).combine(iter(deltas), coefficients)
        combined += 100

    assert [delta.tolist() for delta in deltas] == [[1.0] * 4, [2.0] * 4, [3.0] * 4]


@pytest.mark.parametrize("coefficients", [[-0.5, 1.5], [0.0, 0.0]])
@pytest.mark.parametrize("name", ROBUST)
def test_weights_that_have_no_rank_are_refused(name: str, coefficients: list[float]) -> None:
    with pytest.raises(UsageError, match="coefficients"):
        a_method(name).combine(deltas_of(2), coefficients)


def test_a_method_that_there_is_not_is_refused_with_the_names_of_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="mean, median, trimmed_mean, task_arithmetic"):
        make_method("mode", {})


@pytest.mark.parametrize("name", ROBUST)
def test_methods_that_hold_all_deltas_hold_no_more_of_them_for_more_contributions(
    name: str,
) -> None:
    sizes = [number * a_method(name).block_elements(number) for number in (1, 8, 64, 128)]
    assert max(sizes) <= 1 << 18
