"""The mean with server momentum, DiLoCo's outer optimizer.

::

    u = sum_k(c_k * Delta_k), as the mean's; then the model goes on by momentum * its displacement

The displacement is that of the models without the momentum's last term; ``fusion.momentum`` has the
recurrence and the state that it needs.

Source: Douillard et al. 2023, DiLoCo: Distributed Low-Communication Training of Language Models,
arXiv:2311.08105, with eta = 0.7 and momentum 0.9.
"""

from __future__ import annotations

from dataclasses import dataclass

from coldfusion_queue.fusion.methods.mean import Mean

__all__ = ["Nesterov"]


@dataclass(frozen=True)
class Nesterov(Mean):
    """The weighted mean, and momentum; ``combine`` gives u alone."""

    momentum: float = 0.9
    """mu; 0 or more, below 1. 0 gives the mean's bits."""

    @property
    def decay(self) -> float:
        """See ``Method.decay``."""
        return self.momentum
