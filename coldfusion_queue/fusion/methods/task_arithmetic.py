"""Task arithmetic: the deltas are added up, not averaged, and scaled by one number.

::

    u = eta * scale * sum_k(K * w_k / sum(w) * Delta_k) = scale * K * sum_k(c_k * Delta_k)

With equal weights this is eta * scale * sum_k(Delta_k); scale = 1 / K gives the mean.

Source: Ilharco et al. 2022, Editing Models with Task Arithmetic, arXiv:2212.04089.
"""

from __future__ import annotations

from dataclasses import dataclass

from coldfusion_queue.fusion.dtypes import Floats
from coldfusion_queue.fusion.methods.mean import weighted_sum
from coldfusion_queue.fusion.methods.method import Block, ElementMethod

__all__ = ["TaskArithmetic"]


@dataclass(frozen=True)
class TaskArithmetic(ElementMethod):
    """The scaled sum; NaN and infinities pass through to the result."""

    task_arithmetic_scale: float = 0.3
    """What the sum is multiplied by; > 0."""

    def combine(self, block: Block) -> Floats:
        """See ``Combination.combine``; any coefficients will do.

        Cost: that of the mean.
        """
        factor = self.task_arithmetic_scale * len(block.coefficients)
        return weighted_sum(block.deltas, [factor * each for each in block.coefficients])
