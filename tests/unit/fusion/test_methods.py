"""Every method against an oracle of its own, and the laws that it keeps."""

from __future__ import annotations

import numpy as np
import pytest

from coldfusion_queue.errors import UsageError
from coldfusion_queue.fusion.methods import METHODS, make_method
from coldfusion_queue.fusion.methods.method import Block
from coldfusion_queue.fusion.methods.trimmed_mean import TrimmedMean

from .methods_oracle import (
    AVERAGES,
    FACTORED,
    NAMES,
    SCALE,
    WEIGHTS,
    a_method,
    combined,
    ids_of,
    oracle,
    surveyed,
    tolerance_of,
    weights_of,
)

ROBUST = ("median", "trimmed_mean")
SIZE = 201


def deltas_of(number: int, dtype: type = np.float64, size: int = SIZE) -> list[np.ndarray]:
    generator = np.random.default_rng(100 + number)
    lengths = [1.0 + index % 3 for index in range(number)]
    found = [generator.normal(0.1, length, size).astype(dtype) for length in lengths]
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

    result = combined(a_method(name), deltas, coefficients)

    assert result.dtype == dtype
    expected = oracle(name, deltas, coefficients)
    tolerance = tolerance_of(name, tolerance)
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=3 * tolerance)


def test_the_median_of_half_and_half_is_between_the_two() -> None:
    values = [np.array([1.0]), np.array([2.0]), np.array([4.0])]

    assert combined(a_method("median"), values, [0.25, 0.25, 0.5]).tolist() == [3.0]
    assert combined(a_method("median"), values, [0.25, 0.5, 0.25]).tolist() == [2.0]
    assert combined(a_method("median"), values, [0.5, 0.25, 0.25]).tolist() == [1.5]


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

    result = combined(a_method("median"), values, coefficients)

    assert result.tolist() == pytest.approx([eta * expected])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mean_rounds_each_product_and_adds_them_in_order(dtype: type) -> None:
    deltas, coefficients = deltas_of(9, dtype), weights_of("distinct", 9, 0.7)

    expected = [dtype(0)] * SIZE
    for delta, coefficient in zip(deltas, coefficients, strict=True):
        expected = [x + dtype(coefficient) * y for x, y in zip(expected, delta, strict=True)]

    result = combined(a_method("mean"), deltas, coefficients)
    assert result.tobytes() == np.array(expected, dtype).tobytes()


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

    result = combined(a_method(name), [delta] * number, weights_of(weights, number, 1.0))

    np.testing.assert_allclose(result, delta, rtol=tolerance_of(name, 1e-14))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_contributions_does_not_matter(name: str, weights: str) -> None:
    deltas, coefficients = deltas_of(7), weights_of(weights, 7, 0.9)
    order = np.random.default_rng(5).permutation(7)

    one = combined(a_method(name), deltas, coefficients)
    other = combined(
        a_method(name),
        [deltas[each] for each in order],
        [coefficients[each] for each in order],
        [ids_of(7)[each] for each in order],
    )

    tolerance = tolerance_of(name, 1e-14)
    np.testing.assert_allclose(one, other, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("factor", [-3.0, 0.25])
@pytest.mark.parametrize("name", NAMES)
def test_scaled_deltas_give_the_scaled_result(name: str, factor: float) -> None:
    deltas, coefficients = deltas_of(6), weights_of("distinct", 6, 1.0)

    one = combined(a_method(name), deltas, coefficients)
    other = combined(a_method(name), [factor * delta for delta in deltas], coefficients)

    tolerance = tolerance_of(name, 1e-14)
    np.testing.assert_allclose(other, factor * one, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", ["mean", *ROBUST, "geometric_median"])
def test_the_result_lies_between_the_smallest_and_the_largest(
    name: str, weights: str, number: int
) -> None:
    deltas = deltas_of(number)

    result = combined(a_method(name), deltas, weights_of(weights, number, 1.0))

    slack = tolerance_of(name, 1e-14)
    assert (result >= np.min(deltas, axis=0) - slack).all()
    assert (result <= np.max(deltas, axis=0) + slack).all()


@pytest.mark.parametrize("weights", ["equal", "distinct"])
@pytest.mark.parametrize("name", ROBUST)
def test_one_outlier_moves_the_result_no_further_than_the_others_reach(
    name: str, weights: str
) -> None:
    deltas = deltas_of(7)
    outlier = np.full(SIZE, 1e9)

    result = combined(a_method(name), [*deltas, outlier], weights_of(weights, 8, 1.0))

    assert (result <= np.max(deltas, axis=0)).all()


def test_task_arithmetic_with_a_scale_of_one_over_k_is_the_mean() -> None:
    deltas, coefficients = deltas_of(8), weights_of("distinct", 8, 1.0)
    method = make_method("task_arithmetic", {"task_arithmetic_scale": 1 / 8})

    expected = combined(a_method("mean"), deltas, coefficients)

    assert combined(method, deltas, coefficients).tobytes() == expected.tobytes()


def test_task_arithmetic_of_equal_weights_is_the_scaled_sum() -> None:
    deltas = deltas_of(5)
    result = combined(a_method("task_arithmetic"), deltas, [0.2] * 5)
    np.testing.assert_allclose(result, SCALE * np.sum(deltas, axis=0), rtol=1e-12, atol=1e-14)


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

    whole = combined(method, deltas, coefficients)
    for size in (1, 2, 17):
        assert combined(method, deltas, coefficients, size=size).tobytes() == whole.tobytes()


@pytest.mark.parametrize("coefficients", [[1.0], [0.5, 0.5], [0.3, 0.7]])
@pytest.mark.parametrize("name", NAMES)
def test_no_result_is_a_negative_zero(name: str, coefficients: list[float]) -> None:
    result = combined(a_method(name), [np.full(9, -0.0)] * len(coefficients), coefficients)
    assert not np.signbit(result).any()


@pytest.mark.parametrize("number", [3, 7])
def test_half_of_the_weight_is_met_though_the_weights_are_rounded(number: int) -> None:
    # In binary, 3 * (1 / 6) counts a little more than 1 / 2 and 7 * (1 / 14) a little less.
    coefficients = [0.5 / number] * number + [0.5]
    deltas = [np.full(4, float(index)) for index in range(number + 1)]

    result = combined(a_method("median"), deltas, coefficients)

    assert result.tolist() == [number - 0.5] * 4


# --- what a method is given -------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_deltas_are_not_written_to_and_the_result_is_none_of_them(name: str) -> None:
    deltas = [np.ones(4), np.full(4, 2.0), np.full(4, 3.0)]

    for coefficients in ([1 / 3] * 3, [0.2, 0.3, 0.5]):
        combination = surveyed(a_method(name), deltas, coefficients, ids_of(3))
        result = combination.combine(Block(iter(deltas), coefficients, ids_of(3), 0))
        result += 100

    assert [delta.tolist() for delta in deltas] == [[1.0] * 4, [2.0] * 4, [3.0] * 4]


@pytest.mark.parametrize("coefficients", [[-0.5, 1.5], [0.0, 0.0]])
@pytest.mark.parametrize("name", [*ROBUST, *FACTORED, "ties"])
def test_weights_that_have_no_rank_or_share_are_refused(
    name: str, coefficients: list[float]
) -> None:
    with pytest.raises(UsageError, match="coefficients"):
        combined(a_method(name), deltas_of(2), coefficients)


def test_a_method_that_there_is_not_is_refused_with_the_names_of_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=", ".join(NAMES)):
        make_method("mode", {})


@pytest.mark.parametrize("name", [*ROBUST, "ties"])
def test_methods_that_hold_all_deltas_hold_no_more_of_them_for_more_contributions(
    name: str,
) -> None:
    one = surveyed(a_method(name), deltas_of(1), [1.0], ["c"])
    sizes = [number * one.block_elements(number) for number in (1, 8, 64, 128)]
    assert max(sizes) <= 1 << 18
