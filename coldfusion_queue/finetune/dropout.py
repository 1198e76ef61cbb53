"""Dropout that a CPU can afford: 16 random bits for each element instead of 64.

torch draws the random numbers of a CPU one after the other, in one thread, and takes 64 bits for
each element of a dropout mask, which is a large part of the training of a small transformer. Four
elements can share one draw, at the price of a probability in steps of 1/65536.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["FastDropout", "dropout", "use_fast_dropout"]

_LEVELS = 2**16
_LEVELS_PER_DRAW = 4  # an int64 of torch's generator is cut into four int16


def dropout(values: Tensor, probability: float) -> Tensor:
    """Set elements to 0 with a probability, and scale the others up so that the mean stays.

    Args:
        values: any shape and floating dtype, on the CPU.
        probability: 0 to 1, rounded to a multiple of 1/65536.

    Returns:
        As ``values``; differentiable.

    Source: Srivastava et al. 2014, section 4; the scaling is done in training ("inverted dropout").
    """
    dropped = round(probability * _LEVELS)
    if dropped == 0:
        return values
    if dropped == _LEVELS:
        return values * 0
    num_draws = -(-values.numel() // _LEVELS_PER_DRAW)
    draws = torch.empty(num_draws, dtype=torch.int64).random_(-(2**63), None)
    levels = draws.view(torch.int16)[: values.numel()].view(values.shape)
    kept = (levels >= dropped - _LEVELS // 2).to(values.dtype)
    return values * kept.mul_(_LEVELS / (_LEVELS - dropped))


class FastDropout(nn.Dropout):
    """``nn.Dropout`` for training on a CPU."""

    def forward(self, values: Tensor) -> Tensor:
        """See ``dropout``; outside of training the values as they are."""
        return dropout(values, self.p) if self.training else values


def use_fast_dropout(model: nn.Module) -> None:
    """Replace every ``nn.Dropout`` of a model that trains on the CPU."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                fast = FastDropout(child.p)
                setattr(parent, name, fast.train(child.training))
