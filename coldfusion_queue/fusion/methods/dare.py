"""DARE: most numbers of each delta are dropped at random, the others scaled up in their place.

::

    m_k = 0 with probability dare_drop, else 1 / (1 - dare_drop), for each element by itself
    u   = sum_k(c_k * m_k * Delta_k)

so that u is that of the mean in expectation. Chance is the Philox generator with a key from the
contribution id and the element's index in the model as its counter: a contribution drops the same
numbers wherever the model is cut, and whatever else is fused with it.

Source: Yu et al. 2023, Language Models are Super Mario: Absorbing Abilities from Homologous Models
as a Free Lunch, arXiv:2311.03099; Philox: Salmon et al. 2011, Parallel Random Numbers: As Easy as
1, 2, 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coldfusion_queue.fusion.dtypes import Floats
from coldfusion_queue.fusion.methods.mean import weighted_sum
from coldfusion_queue.fusion.methods.method import Block, ElementMethod

__all__ = ["Dare"]

#: One state of the counter gives 256 random bits, of which an element takes 32.
_ELEMENTS_PER_COUNT = 8


@dataclass(frozen=True)
class Dare(ElementMethod):
    """Drop and rescale; NaN and infinities pass through to the result, even where dropped.

    Cost: that of the mean, and one random number for each number of each delta.
    """

    dare_drop: float = 0.9
    """Probability that a number is dropped, to 2^-32; 0 or more, below 1."""

    def combine(self, block: Block) -> Floats:
        """See ``Combination.combine``; any coefficients will do."""
        scale = 1 / (1 - self.dare_drop)
        return weighted_sum(self._kept(block), [scale * each for each in block.coefficients])

    def _kept(self, block: Block) -> Iterator[Floats]:
        threshold = int(self.dare_drop * 2**32)
        for contribution_id, delta in zip(block.ids, block.deltas, strict=True):
            kept: Floats = delta * (_random(contribution_id, block.first, len(delta)) >= threshold)
            yield kept


def _random(contribution_id: str, first: int, num_elements: int) -> NDArray[np.uint32]:
    """32 random bits for each of some consecutive elements."""
    digest = hashlib.sha256(contribution_id.encode()).digest()
    count, skipped = divmod(first, _ELEMENTS_PER_COUNT)
    generator = np.random.Philox(key=int.from_bytes(digest[:16], "little"), counter=count)
    words = generator.random_raw((skipped + num_elements + 1) // 2)
    # On every machine the lower half of each word comes first.
    halves = words.astype("<u8", copy=False).view("<u4")
    return halves[skipped : skipped + num_elements].astype(np.uint32, copy=False)
