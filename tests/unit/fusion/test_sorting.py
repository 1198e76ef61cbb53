from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from coldfusion_queue.fusion.methods import sorting
from coldfusion_queue.fusion.methods.sorting import comparators, select_ranks, sort_with_origins

from .methods_oracle import a_method, combined, weights_of


@pytest.mark.parametrize("num_rows", range(1, 11))
def test_the_network_sorts_every_vector_of_zeros_and_ones(num_rows: int) -> None:
    # The 0-1 principle: a network that sorts these sorts everything.
    vectors = np.array(list(product([0.0, 1.0], repeat=num_rows)), np.float32).T

    found = select_ranks([row.copy() for row in vectors], range(num_rows))

    np.testing.assert_array_equal(np.stack(found), np.sort(vectors, axis=0))


@pytest.mark.parametrize("num_rows", range(1, 11))
def test_any_ranks_are_found_without_the_comparisons_that_they_do_not_need(num_rows: int) -> None:
    vectors = np.array(list(product([0.0, 1.0], repeat=num_rows)), np.float32).T
    ordered = np.sort(vectors, axis=0)

    for first in range(num_rows):
        for last in range(first, num_rows):
            ranks = [last, first]
            found = select_ranks([row.copy() for row in vectors], ranks)
            np.testing.assert_array_equal(np.stack(found), ordered[ranks])


@pytest.mark.parametrize("num_rows", [11, 16, 33, 64, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_rows_are_sorted(num_rows: int, dtype: type) -> None:
    rows = np.random.default_rng(num_rows).normal(size=(num_rows, 501)).astype(dtype)

    found = np.stack(select_ranks([row.copy() for row in rows], range(num_rows)))

    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.sort(rows, axis=0))


def test_eight_rows_take_the_nineteen_comparisons_of_batchers_network() -> None:
    assert len(list(comparators(8))) == 19
    assert all(a < b for a, b in comparators(100))


@pytest.mark.parametrize("place", range(5))
def test_a_nan_is_not_lost(place: int) -> None:
    rows = [np.full(3, float(row)) for row in range(5)]
    rows[place][1] = np.nan

    found = np.stack(select_ranks(rows, range(5)))

    assert np.isnan(found[:, 1]).any()
    assert not np.isnan(found[:, [0, 2]]).any()


#: Numbers next to each other, ties, zeros of both signs, and both ends of the range.
SPECIAL = [0.0, -0.0, 1.0, 1.0000001, -1.0, -1.0000001, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38]


def special(num_rows: int, dtype: type) -> list[np.ndarray]:
    generator = np.random.default_rng(num_rows)
    return [generator.choice(SPECIAL, 501).astype(dtype) for _ in range(num_rows)]


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 8, 9, 33, 64, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_are_sorted_with_the_rows_that_they_are_from(num_rows: int, dtype: type) -> None:
    rows = special(num_rows, dtype)
    for row in rows:
        row.flags.writeable = False
    columns = [
        sorted((float(value), index) for index, value in enumerate(column))
        for column in zip(*rows, strict=True)
    ]

    for ranks in (range(num_rows), range(num_rows // 3, num_rows - num_rows // 3)):
        found = list(sort_with_origins(rows, ranks))

        assert len(found) == len(ranks)
        for rank, (numbers, origins) in zip(ranks, found, strict=True):
            assert numbers.dtype == dtype
            assert numbers.tolist() == [column[rank][0] for column in columns]
            assert origins.tolist() == [column[rank][1] for column in columns]


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
@pytest.mark.parametrize("num_rows", [2, 5, 8, 64])
def test_bits_do_not_depend_on_how_numbers_were_sorted(
    name: str, num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, coefficients = special(num_rows, np.float32), weights_of("ties", num_rows, 0.7)
    with np.errstate(over="ignore"):  # two of the largest numbers make an infinity, either way
        expected = combined(a_method(name), rows, coefficients)
        monkeypatch.setattr(sorting, "_by_tags", sorting._by_argsort)
        again = combined(a_method(name), rows, coefficients)

    assert again.tobytes() == expected.tobytes()
