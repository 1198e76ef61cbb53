from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from coldfusion_queue.fusion.methods.sorting import comparators, select_ranks


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
