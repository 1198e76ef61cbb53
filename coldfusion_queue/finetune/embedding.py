"""The rows of an embedding table that a dataset uses, trained without the others.

A dataset of some thousand examples uses a tenth of a vocabulary or less. The rows of all other
tokens never get a gradient: AdamW only shrinks them, all by the same known factor. Left in the
table they would cost the optimizer, the norm of the gradients and every checkpoint their full
size, which is a third of BERT's parameters and half of a multilingual model's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["UsedEmbedding", "shrink_embedding"]


class UsedEmbedding(nn.Module):
    """Looks up tokens as the whole table would, in the rows that it kept.

    Args:
        table: the whole one.
        used: (R,) int64 token ids, sorted, no id twice; no other may be looked up.
    """

    def __init__(self, table: nn.Embedding, used: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(table.weight.detach()[used].clone())
        # No buffer: it follows from the data, so that no checkpoint needs it.
        self._row_of = torch.full((table.num_embeddings,), -1, device=used.device)
        self._row_of[used] = torch.arange(len(used), device=used.device)
        padding = table.padding_idx
        self._padding_row = None if padding is None else int(self._row_of[padding])
        if self._padding_row == -1:
            self._padding_row = None

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings of (B, L) token ids: (B, L, H)."""
        return nn.functional.embedding(
            self._row_of[ids], self.weight, padding_idx=self._padding_row
        )


@dataclass(frozen=True)
class ShrunkEmbedding:
    """A model whose table is put away for the time of a training."""

    body: nn.Module
    table: nn.Embedding
    used: Tensor

    def restore(self, shrinkage: float) -> None:
        """Put the whole table back, with the trained rows in it.

        Args:
            shrinkage: what weight decay has multiplied every row with that had no gradient.
        """
        trained: UsedEmbedding = self.body.get_input_embeddings()  # type: ignore[operator]
        with torch.no_grad():
            self.table.weight.mul_(shrinkage)
            self.table.weight[self.used] = trained.weight
        self.body.set_input_embeddings(self.table)  # type: ignore[operator]


def shrink_embedding(body: nn.Module, ids: Tensor) -> ShrunkEmbedding | None:
    """Leave of a model's table of token embeddings the rows that a dataset uses.

    Args:
        body: a model of transformers, on the device it trains on.
        ids: (R,) int64, sorted: every token that occurs, or pads; none of them twice.

    Returns:
        What puts the table back; None if it was left as it is: it is frozen, or not an ordinary
        table, or shared with another layer.
    """
    table = body.get_input_embeddings()  # type: ignore[operator]
    if (
        type(table) is not nn.Embedding
        or not table.weight.requires_grad
        or table.max_norm is not None
        or table.scale_grad_by_freq
        or sum(item is table for item in body.modules()) != 1
        or _num_users(body, table.weight) != 1
    ):
        return None
    used = ids.to(table.weight.device)
    body.set_input_embeddings(UsedEmbedding(table, used))  # type: ignore[operator]
    return ShrunkEmbedding(body, table, used)


def _num_users(body: nn.Module, weight: Tensor) -> int:
    """Number of modules that hold a parameter as their own."""
    return sum(
        item is weight for module in body.modules() for item in module.parameters(recurse=False)
    )
