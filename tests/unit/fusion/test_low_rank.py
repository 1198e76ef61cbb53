"""The numbers that low-rank factors stand for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from coldfusion_queue.fusion import low_rank
from coldfusion_queue.fusion.low_rank import MAX_RANK, expand, saves_bytes
from coldfusion_queue.records import Hyperparameters


def factors(rows: int, rank: int, columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    left = generator.standard_normal((rows, rank)).astype(np.float32)
    return left, generator.standard_normal((rank, columns)).astype(np.float32)


def by_the_definition(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """One number after the other, as the format says."""
    product = np.zeros((len(left), right.shape[1]), np.float32)
    for row, column in np.ndindex(product.shape):
        total = left[row, 0] * right[0, column]
        for index in range(1, len(right)):
            total = total + left[row, index] * right[index, column]
        product[row, column] = total
    return product


def expanded(left: np.ndarray, right: np.ndarray, first: int = 0, count: int = -1) -> np.ndarray:
    count = len(left) * right.shape[1] - first if count < 0 else count
    out = np.full(count, np.nan, np.float32)
    expand(left, right, first, out)
    return out


@pytest.mark.parametrize(
    ("rows", "rank", "columns"), [(9, 1, 4), (7, 3, 31), (3, 5, 8), (40, 8, 1)]
)
def test_a_product_is_added_up_from_left_to_right_in_float32(
    rows: int, rank: int, columns: int
) -> None:
    left, right = factors(rows, rank, columns)
    product = expanded(left, right)
    np.testing.assert_array_equal(product, by_the_definition(left, right).ravel())


@pytest.mark.parametrize("rank", [1, 8, 64, MAX_RANK])
def test_a_product_is_that_of_float64_to_rounding(rank: int) -> None:
    left, right = factors(300, rank, 500)
    exact = left.astype(np.float64) @ right.astype(np.float64)
    terms = np.abs(left).astype(np.float64) @ np.abs(right).astype(np.float64)
    error = np.abs(expanded(left, right).reshape(exact.shape) - exact)
    assert (error <= 2.0**-24 * (rank + 1) * terms).all()


def cuts(size: int, step: int) -> Iterator[tuple[int, int]]:
    for first in range(0, size, step):
        yield first, min(step, size - first)


@pytest.mark.parametrize("tile", [1, 5, 64, 1 << 16])
@pytest.mark.parametrize("step", [1, 7, 29, 30, 58, 100, 10_000])
def test_the_bits_depend_neither_on_where_it_is_cut_nor_on_the_tiles(
    step: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = factors(23, 6, 29)
    whole = expanded(left, right)
    monkeypatch.setattr(low_rank, "_TILE_ELEMENTS", tile)

    parts = []
    for first, count in cuts(whole.size, step):
        row, skipped = divmod(first, 29)
        parts.append(expanded(left[row:], right, skipped, count))

    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_factors_save_bytes_only_if_they_have_fewer_elements_than_the_matrix() -> None:
    assert saves_bytes((768, 768), 8)
    assert saves_bytes((10, 10), 4)
    assert not saves_bytes((10, 10), 5)  # as many
    assert not saves_bytes((768, 1), 1)
    assert not saves_bytes((768,), 1)
    assert not saves_bytes((8, 8, 8), 1)


def test_what_a_worker_may_be_asked_for_is_what_a_fusion_takes() -> None:
    Hyperparameters(lora_rank=MAX_RANK)
    with pytest.raises(ValueError, match="lora_rank"):
        Hyperparameters(lora_rank=MAX_RANK + 1)
