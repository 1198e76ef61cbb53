"""The rows of an embedding table that a dataset uses, trained without the others.

A dataset of some thousand examples uses a tenth of a vocabulary or less. The rows of all other
tokens never get a gradient: AdamW only shrinks them, all by the same known factor. Left in the
table they would cost the optimizer, the norm of the gradients and every checkpoint their full
size: a third of RoBERTa-base's parameters, and two thirds of its multilingual sibling's.
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

    parent: nn.Module
    name: str
    """Under which the parent has the table."""
    table: nn.Embedding
    trained: UsedEmbedding
    used: Tensor

    def restore(self, shrinkage: float) -> None:
        """Put the whole table back, with the trained rows in it.

        Args:
            shrinkage: what weight decay has multiplied every row with that had no gradient.
        """
        with torch.no_grad():
            self.table.weight.mul_(shrinkage)
            self.table.weight[self.used] = self.trained.weight
        setattr(self.parent, self.name, self.table)


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
    paths = [
        path for path, item in body.named_modules(remove_duplicate=False) if item is table and path
    ]
    if len(paths) != 1 or not _is_ordinary(table) or _num_users(body, table.weight) != 1:
        return None
    used = ids.to(table.weight.device)
    trained = UsedEmbedding(table, used)
    parent, _, name = paths[0].rpartition(".")
    setattr(body.get_submodule(parent), name, trained)
    return ShrunkEmbedding(body.get_submodule(parent), name, table, trained, used)


def _is_ordinary(table: object) -> bool:
    return (
        type(table) is nn.Embedding
        and table.weight.requires_grad
        and table.max_norm is None
        and not table.scale_grad_by_freq
    )


def _num_users(body: nn.Module, weight: Tensor) -> int:
    """Number of modules that hold a parameter as their own."""
    return sum(
        item is weight for module in body.modules() for item in module.parameters(recurse=False)
    )
