"""The attention that models train with: torch's SDPA, without what makes it wait.

Two things of the stock one cost time. On a GPU, ``transformers`` asks each batch's mask whether it
masks anything, and the host waits for the answer; here the host knows it beforehand and passes no
mask then. On a CPU, SDPA has no fused kernel with dropout, and draws its masks slowly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from coldfusion_queue.finetune.dropout import dropout as fast_dropout

__all__ = ["use_fast_attention"]

_NAME = "coldfusion"


def use_fast_attention(body: nn.Module) -> None:
    """Let a model attend by this module, if its attention can be chosen; DeBERTa's cannot."""
    if getattr(body, "_supports_attention_backend", False) and getattr(
        body, "_supports_sdpa", False
    ):
        _register()
        body.set_attn_implementation(_NAME)  # type: ignore[operator]


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, _mask)


def _mask(*, attention_mask: Tensor | None = None, **arguments: Any) -> Tensor | None:
    """As for SDPA, but a mask that was given is never looked into: that would be a host sync."""
    from transformers.masking_utils import sdpa_mask

    if attention_mask is not None:
        arguments |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Tensor | None = sdpa_mask(attention_mask=attention_mask, **arguments)
    return mask


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[Tensor, Tensor | None]:
    """What ``transformers`` calls: (B, heads, L, D) each; returns (B, L, heads, D).

    The mask is boolean, (B, 1, L, L), true where a query may look; None masks nothing beyond what
    the module says of causality.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    is_causal = attention_mask is None and getattr(module, "is_causal", True)
    if dropout == 0 or query.device.type != "cpu" or is_causal or key.shape[1] != query.shape[1]:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **arguments
        )
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = fast_dropout(scores.softmax(dim=-1).to(value.dtype), dropout)
    return (weights @ value).transpose(1, 2), weights
