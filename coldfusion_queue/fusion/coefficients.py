"""The scalar that each contribution's delta is multiplied by.

::

    theta_{t+1} = theta_t + eta * sum_c(w_c * Delta_c) / sum_c(w_c)
    w_c         = importance_c * f(s_c) * b_c
    s_c         = t - base_version_c

Deltas are added rather than stale models mixed in: FedAsync's mixing of a stale model would drag
the base model back towards the version that it was finetuned from.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from coldfusion_queue.errors import UsageError
from coldfusion_queue.records import Contribution, Policy

__all__ = ["balance", "coefficients", "importance", "staleness_factor"]

#: Counts beyond this are no counts; it keeps the arithmetic within float64.
_MAX_EXAMPLES = 1 << 63

_NOBODY: Mapping[str, int] = MappingProxyType({})


def staleness_factor(policy: Policy, staleness: int) -> float:
    """f(s): how much a contribution counts that is s base versions old.

    ::

        constant    1
        polynomial  (1 + s)^-a
        hinge       1 if s <= b, else 1 / (a * (s - b) + 1)

    with a = ``staleness_exponent`` and b = ``staleness_grace``.

    Args:
        policy: its ``staleness`` names the shape.
        staleness: s >= 0, in base versions; 0 was finetuned from the current one.

    Returns:
        A number in (0, 1]; exactly 1 for s = 0. It never underflows to 0.

    Raises:
        UsageError: s < 0, a contribution to a base version that does not exist yet.

    Source: Xie et al. 2019, FedAsync, arXiv:1903.03934, whose hinge this is too.
    """
    if staleness < 0:
        raise UsageError("staleness", str(staleness), "0 or more base versions")
    if policy.staleness == "constant":
        return 1.0
    a, b = policy.staleness_exponent, policy.staleness_grace
    if policy.staleness == "hinge":
        factor = 1.0 if staleness <= b else 1.0 / (a * (staleness - b) + 1.0)
    else:
        factor = (1.0 + staleness) ** -a
    return max(factor, sys.float_info.min)


def importance(policy: Policy, num_examples: int) -> float:
    """How much a contribution counts for the size of its dataset.

    Args:
        policy: ``uniform`` (the paper's) counts every contribution once, ``examples`` by its
            examples, ``capped`` by its examples up to ``importance_cap``.
        num_examples: of the training split; an unknown size, 0, counts as 1.

    Returns:
        A number >= 1.
    """
    if policy.importance == "uniform":
        return 1.0
    limit = policy.importance_cap if policy.importance == "capped" else _MAX_EXAMPLES
    return float(min(max(num_examples, 1), limit))


def balance(
    policy: Policy,
    current_version: int,
    contributions: Sequence[Contribution],
    served: Mapping[str, int],
) -> list[float]:
    """How much each contribution counts for how often its contributor contributes.

    ::

        b_c = min(t + 1 - v, l) / m

    with v the newest version that holds something of the contributor, l = ``balance_limit``, and m
    its contributions in this fusion. Who is in each fusion has 1, who is in every fourth has 4.
    Else who is four times as fast counts four times as much. It makes up for a part of that only:
    the coefficients of a fusion have the same sum whether the slow are in it or not.

    Args:
        policy: its ``balance`` says whether contributors count alike; contributions do with 1 each.
        current_version: t, the base version that is fused into.
        contributions: K >= 0 of them, in any order.
        served: v by contributor; who is not in it was in none of the last l versions.

    Returns:
        K numbers above 0 in the order of the contributions.
    """
    if policy.balance == "contributions":
        return [1.0] * len(contributions)
    counts = Counter(item.contributor_id for item in contributions)
    return [
        min(current_version + 1 - served.get(item.contributor_id, 0), policy.balance_limit)
        / counts[item.contributor_id]
        for item in contributions
    ]


def coefficients(
    policy: Policy,
    current_version: int,
    contributions: Sequence[Contribution],
    served: Mapping[str, int] = _NOBODY,
) -> list[float]:
    """The coefficient eta * w_c / sum(w) of every contribution.

    Args:
        policy: eta is its ``server_learning_rate``.
        current_version: t, the base version that is fused into.
        contributions: K >= 0 of them, in any order.
        served: see ``balance``.

    Returns:
        K coefficients in the order of the contributions; they sum to eta. A contribution's
        coefficient does not depend on the order of the others.

    Raises:
        UsageError: a contribution's base version is newer than ``current_version``.

    Source: the weighted mean is ColD Fusion's (arXiv:2212.01378) when all w are equal. FedBuff
    (arXiv:2106.06639) divides by K instead, so that stale contributions shorten the step.
    """
    weights = [
        importance(policy, contribution.num_examples)
        * staleness_factor(policy, current_version - contribution.base_version)
        * share
        for contribution, share in zip(
            contributions, balance(policy, current_version, contributions, served), strict=True
        )
    ]
    total = math.fsum(weights)
    return [policy.server_learning_rate * (weight / total) for weight in weights]
