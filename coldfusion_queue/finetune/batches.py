"""Examples as the model sees them: token ids, in batches cut to a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coldfusion_queue.intake.examples import Examples

__all__ = ["MICRO_BATCH_TOKENS", "TokenizedExamples", "micro_batches", "shuffled_batches"]

#: Tokens, padding included, of one forward pass. RoBERTa-base trains within 8 GB with this.
MICRO_BATCH_TOKENS = 16_384

_WINDOW_BATCHES = 50

Lengths = np.ndarray[Any, np.dtype[np.int64]]


class TokenizedExamples:
    """All examples of a split, tokenised once and not padded.

    Args:
        examples: texts and labels.
        tokenizer: of the base version.
        max_length: tokens per example; the rest is cut off.
        labels: float32 regression targets or int64 class indices, one per example.
    """

    def __init__(self, examples: Examples, tokenizer: Any, max_length: int, labels: Tensor) -> None:
        encoded = tokenizer(
            examples.texts,
            _set_apart(examples.pairs, tokenizer),
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
        )
        self._tokenizer = tokenizer
        self._columns: dict[str, list[list[int]]] = dict(encoded)
        _fill_empty(self._columns, tokenizer)
        self.labels = labels
        self.lengths: Lengths = np.array([len(ids) for ids in self._columns["input_ids"]])

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Some examples, padded on the right to the longest of them: (B, L) int64 each."""
        picked = {name: [rows[index] for index in indices] for name, rows in self._columns.items()}
        padded = self._tokenizer.pad(picked, padding_side="right", return_tensors="pt")
        return dict(padded)


def _set_apart(pairs: list[str] | None, tokenizer: Any) -> list[str] | None:
    """Begin second texts with a new line if the tokenizer puts nothing between first and second.

    Those of some decoders do not, and the two would run into each other.
    """
    has_mark = tokenizer.num_special_tokens_to_add(pair=True) > (
        tokenizer.num_special_tokens_to_add(pair=False)
    )
    return pairs if pairs is None or has_mark else [f"\n{pair}" for pair in pairs]


def _fill_empty(columns: dict[str, list[list[int]]], tokenizer: Any) -> None:
    """Give texts without any token one that means nothing: no model takes an empty sequence.

    Only tokenizers that add no tokens of their own, as those of some decoders, leave one.
    """
    marks = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    mark = next(token for token in marks if token is not None)
    for index, ids in enumerate(columns["input_ids"]):
        if not ids:
            for name, rows in columns.items():
                rows[index] = [mark if name == "input_ids" else 0]


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


def micro_batches(
    indices: Sequence[int], lengths: Lengths, budget: int = MICRO_BATCH_TOKENS
) -> Iterator[list[int]]:
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
