"""Whether a contribution that can be fused should be: its delta among those of others.

Judged by four limits of the policy. The others are what was fused lately and what would be fused
together with it. All of it is a function of inspections: nothing is read here.

::

    r_i      = ||Delta_i|| / ||theta_t||                            relative_norm
    z_i      = (ln(r_i) - median(ln(r))) / max(1.4826 * MAD(ln(r)), 0.25)    norm_z
    cosine_i = cos(Delta_i, sum_j(Delta_j / ||Delta_j||))           cosine

with median, median absolute deviation (MAD) and sum over the others. A median is not moved by a
few contributions, whatever they hold, and unit vectors let none of them count for more than one.

What exceeds a limit is refused one by one, the worst first, and the rest is judged anew without it:
two that work against all others would else make these look as if they pointed away.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coldfusion_queue.fusion.sketch import SKETCH_SIZE, decode_sketch
from coldfusion_queue.records import Inspection, Policy, Rule

__all__ = ["Update", "Verdict", "judge"]

#: With fewer others there is nothing to compare with.
_MIN_OTHERS = 4
#: Makes the median absolute deviation of normal numbers their standard deviation.
_MAD_TO_DEVIATION = 1.4826
#: Least deviation of ln(r), however much the others are alike.
_MIN_DEVIATION = 0.25
#: Shorter deltas are not refused for being longer than others, because they may have trained for a
#: hundred epochs while the others trained for one.
_ORDINARY_NORM = 0.1

_REMEDY = "an operator can fuse it nevertheless, with 'coldfusion contribute ID --override REASON'"


@dataclass(frozen=True)
class Update:
    """An inspected contribution."""

    contribution_id: str
    contributor_id: str
    inspection: Inspection


@dataclass(frozen=True)
class Verdict:
    """What a contribution's delta is like among the others."""

    numbers: Mapping[str, float]
    """``relative_norm``; if there are enough others ``norm_z`` and ``cosine``; if another
    contributor's came before it ``copy_cosine``, the largest cosine to one of those."""
    rule: Rule | None = None
    """The limit that it exceeds, the first one; None if it may be fused."""
    reason: str = ""
    """Got, expected, and what to do; empty if it may be fused."""


def judge(
    policy: Policy, candidates: Sequence[Update], recent: Sequence[Update]
) -> dict[str, Verdict]:
    """Judge what would be fused together.

    Args:
        policy: its limits.
        candidates: in the order of their arrival, so that of two copies the first stays.
        recent: what was fused lately; none of the candidates.

    Returns:
        A verdict for each candidate, by contribution id. It depends on the order of the
        candidates for copies alone.

    Cost: O((R + C)^2) for C candidates and R recent ones, in sketches.
    """
    updates = [*recent, *candidates]
    crowd = _Crowd(updates)
    left = list(range(len(recent), len(updates)))
    verdicts: dict[int, Verdict] = {}
    while left:
        verdicts |= {index: _verdict(policy, crowd, index) for index in left}
        offenders = [index for index in left if verdicts[index].rule is not None]
        if not offenders:
            break
        worst = min(offenders, key=lambda index: _order(verdicts[index]))
        left.remove(worst)
        crowd.leave(worst)
    return {updates[index].contribution_id: verdict for index, verdict in verdicts.items()}


def _verdict(policy: Policy, crowd: _Crowd, index: int) -> Verdict:
    numbers = crowd.numbers(index)
    return Verdict(numbers, *_exceeded(policy, numbers, crowd.earlier_twin(index)))


def _order(verdict: Verdict) -> tuple[int, float]:
    """Who is refused first: what is wrong by itself, the longest, who points away most."""
    if verdict.rule is Rule.NORM_Z:
        return 1, -verdict.numbers["norm_z"]
    if verdict.rule is Rule.COSINE:
        return 2, verdict.numbers["cosine"]
    return 0, 0.0


class _Crowd:
    """Deltas, each of which is compared with all the others that are still there."""

    def __init__(self, updates: Sequence[Update]) -> None:
        self._updates = updates
        units = _unit_sketches([update.inspection for update in updates])
        self._cosines = units @ units.T
        norms = [max(update.inspection.relative_norm, sys.float_info.min) for update in updates]
        self._logarithms = np.log(norms)
        self._is_there = np.ones(len(updates), bool)

    def leave(self, index: int) -> None:
        """Compare no other with this one any more, but for copies of it."""
        self._is_there[index] = False

    def numbers(self, index: int) -> dict[str, float]:
        """The figures of one of them."""
        numbers = {"relative_norm": self._updates[index].inspection.relative_norm}
        others = self._is_there.copy()
        others[index] = False
        if np.count_nonzero(others) >= _MIN_OTHERS:
            numbers["norm_z"] = self._norm_z(index, others)
            numbers["cosine"] = self._cosine(index, others)
        twin = self.earlier_twin(index)
        if twin is not None:
            numbers["copy_cosine"] = _bounded(self._cosines[index, self._updates.index(twin)])
        return numbers

    def earlier_twin(self, index: int) -> Update | None:
        """The most similar one of those that came before it from another contributor."""
        own = self._updates[index].contributor_id
        earlier = [each for each in range(index) if self._updates[each].contributor_id != own]
        if not earlier:
            return None
        return self._updates[max(earlier, key=lambda each: float(self._cosines[index, each]))]

    def _norm_z(self, index: int, others: NDArray[np.bool_]) -> float:
        logarithms = self._logarithms[others]
        center = np.median(logarithms)
        deviation = _MAD_TO_DEVIATION * np.median(np.abs(logarithms - center))
        return float((self._logarithms[index] - center) / max(deviation, _MIN_DEVIATION))

    def _cosine(self, index: int, others: NDArray[np.bool_]) -> float:
        # Of the sum of their unit vectors, all by inner products of each two.
        shares = others.astype(np.float64)
        length = math.sqrt(max(float(shares @ self._cosines @ shares), 0.0))
        return _bounded(self._cosines[index] @ shares / length) if length else 0.0


def _exceeded(
    policy: Policy, numbers: Mapping[str, float], twin: Update | None
) -> tuple[Rule | None, str]:
    """The first limit that is exceeded, and the sentence for it."""
    whose = f"{twin.contribution_id} of {twin.contributor_id}" if twin else ""
    is_long = numbers["relative_norm"] > _ORDINARY_NORM
    limits = (
        (
            Rule.RELATIVE_NORM,
            "relative_norm",
            policy.max_relative_norm,
            "its delta is so many times as long as the base model",
        ),
        (
            Rule.NORM_Z,
            "norm_z",
            policy.max_norm_z if is_long else None,
            "its delta is longer than others by so many robust standard deviations",
        ),
        (
            Rule.COPY,
            "copy_cosine",
            policy.max_copy_cosine,
            f"its delta is that of {whose}, which came first",
        ),
    )
    for rule, name, limit, meaning in limits:
        if limit is not None and numbers.get(name, limit) > limit:
            return rule, _sentence(name, numbers[name], f"at most {limit:g}", meaning)
    floor = policy.min_cosine
    if floor is not None and numbers.get("cosine", floor) < floor:
        meaning = "its delta points away from those of others"
        return Rule.COSINE, _sentence("cosine", numbers["cosine"], f"at least {floor:g}", meaning)
    return None, ""


def _sentence(name: str, got: float, expected: str, meaning: str) -> str:
    return f"{name} is {got:.4g}, expected {expected}: {meaning}; {_REMEDY}"


def _unit_sketches(inspections: Sequence[Inspection]) -> NDArray[np.float64]:
    """Sketches scaled to length 1, of shape (n, SKETCH_SIZE); one without length stays 0."""
    sketches = np.zeros((len(inspections), SKETCH_SIZE))
    for row, inspection in zip(sketches, inspections, strict=True):
        row[:] = decode_sketch(inspection.sketch)
    lengths = np.linalg.norm(sketches, axis=1, keepdims=True)
    np.divide(sketches, lengths, out=sketches, where=lengths > 0)
    return sketches


def _bounded(cosine: float) -> float:
    """A cosine without what rounding added to it."""
    return float(np.clip(cosine, -1.0, 1.0))
