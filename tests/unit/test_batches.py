from __future__ import annotations

import numpy as np
import pytest
import torch

from coldfusion_queue.finetune.batches import micro_batches, shuffled_batches
from coldfusion_queue.finetune.model import pool


@pytest.mark.parametrize("number", [1, 7, 64, 1000])
@pytest.mark.parametrize("batch_size", [1, 8, 256])
def test_an_epoch_sees_every_example_once(number: int, batch_size: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 60, number)

    batches = list(shuffled_batches(lengths, batch_size, torch.Generator().manual_seed(1)))

    assert sorted(index for batch in batches for index in batch) == list(range(number))
    assert len(batches) == -(-number // batch_size)
    assert max(map(len, batches)) <= batch_size


def test_epochs_differ_and_seeds_repeat_them() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    generator = torch.Generator().manual_seed(1)
    first, second = (list(shuffled_batches(lengths, 16, generator)) for _ in range(2))
    again = list(shuffled_batches(lengths, 16, torch.Generator().manual_seed(1)))

    assert first == again
    assert first != second


def test_batches_hold_examples_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 1000)

    batches = list(shuffled_batches(lengths, 16, torch.Generator().manual_seed(1)))

    padded = sum(len(batch) * max(lengths[batch]) for batch in batches)
    assert padded < 1.15 * lengths.sum()


def test_micro_batches_stay_within_the_budget_and_lose_nothing() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 300)

    pieces = list(micro_batches(range(300), lengths, budget=256))

    assert sorted(index for piece in pieces for index in piece) == list(range(300))
    assert all(len(piece) * max(lengths[piece]) <= 256 for piece in pieces)


def test_an_example_beyond_the_budget_goes_alone() -> None:
    assert list(micro_batches([0, 1, 2], np.array([1000, 1, 1]), budget=64)) == [[1, 2], [0]]


def test_pooling_ignores_padding() -> None:
    hidden = torch.tensor(
        [[[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]], [[5.0, 6.0], [7.0, 8.0], [9.0, 1.0]]]
    )
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])

    assert pool(hidden, mask, "mean").tolist() == [[2.0, 3.0], [7.0, 5.0]]
    assert pool(hidden, mask, "first").tolist() == [[1.0, 2.0], [5.0, 6.0]]
    assert pool(hidden, mask, "last").tolist() == [[3.0, 4.0], [9.0, 1.0]]
