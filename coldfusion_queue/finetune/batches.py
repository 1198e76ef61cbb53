"""Which examples go together: batches of like lengths, cut to a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["micro_batches", "shuffled_batches"]

_WINDOW_BATCHES = 50

Lengths = np.ndarray[Any, np.dtype[np.int64]]


def shuffled_batches(
    lengths: Lengths, batch_size: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """Indices of one epoch in random order, examples of like length together.

    The order is random, then sorted by length within windows of 50 batches, cut into batches, and
    the batches are shuffled: little padding, and still a different composition in each epoch.

    Args:
        lengths: (N,) tokens of each example.
        batch_size: examples per batch; the last of a window may be shorter.
        generator: of the order.
    """
    order = torch.randperm(len(lengths), generator=generator).tolist()
    batches: list[list[int]] = []
    for start in range(0, len(order), _WINDOW_BATCHES * batch_size):
        window = order[start : start + _WINDOW_BATCHES * batch_size]
        window.sort(key=lambda index: int(lengths[index]))
        batches += [
            window[first : first + batch_size] for first in range(0, len(window), batch_size)
        ]
    for index in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[index]


def micro_batches(indices: Sequence[int], lengths: Lengths, budget: int) -> Iterator[list[int]]:
    """Cut a batch into pieces whose padded size stays within a budget of tokens.

    Examples of like length go together, so that little padding is computed.
    """
    piece: list[int] = []
    for index in sorted(indices, key=lambda item: (int(lengths[item]), item)):
        if piece and (len(piece) + 1) * int(lengths[index]) > budget:
            yield piece
            piece = []
        piece.append(index)
    if piece:
        yield piece
