"""Which pending contributions enter a fusion, and whether it is time for one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from coldfusion_queue.records import Contribution, Decision, Outcome, Policy
from coldfusion_queue.repository.inbox import PendingContribution

__all__ = ["Selection", "expiry", "select"]


@dataclass(frozen=True)
class Selection:
    """What a fusion would do now."""

    is_due: bool
    """Enough contributions are pending, or the oldest has waited long enough."""
    fusable: tuple[Contribution, ...]
    """What to fuse, the oldest arrival first."""
    expired: tuple[Contribution, ...]
    """What is too stale to be fused."""
    waited_seconds: float
    """How long the oldest fusable one has been pending."""


def select(
    policy: Policy, version: int, pending: Sequence[PendingContribution], now: datetime
) -> Selection:
    """Apply the policy to what is pending.

    Args:
        policy: when a fusion is due and how much staleness it takes.
        version: the current base version.
        pending: all pending contributions, the oldest arrival first.
        now: the store's clock, which the arrivals were stamped by.

    Returns:
        At most ``max_contributions`` fusable ones. Due means that ``min_contributions`` are
        fusable, that the oldest of fewer has waited ``max_wait_seconds``, or that there is
        something to expire.
    """
    limit = math.inf if policy.max_staleness is None else policy.max_staleness

    def is_too_stale(item: PendingContribution) -> bool:
        return version - item.contribution.base_version > limit

    expired = [item.contribution for item in pending if is_too_stale(item)]
    fusable = [item for item in pending if not is_too_stale(item)]
    waited = (now - fusable[0].arrived_at).total_seconds() if fusable else 0.0
    is_enough = len(fusable) >= policy.min_contributions
    is_late = bool(fusable) and waited >= policy.max_wait_seconds
    chosen = fusable[: policy.max_contributions] if is_enough or is_late else []
    return Selection(
        is_due=bool(chosen or expired),
        fusable=tuple(item.contribution for item in chosen),
        expired=tuple(expired),
        waited_seconds=max(0.0, waited),
    )


def expiry(contribution: Contribution, version: int, policy: Policy, sequence: int) -> Decision:
    """The decision that a contribution came too late."""
    staleness = version - contribution.base_version
    return Decision(
        contribution_id=contribution.contribution_id,
        outcome=Outcome.EXPIRED,
        reason=(
            f"staleness is {staleness}, expected at most {policy.max_staleness}: "
            f"it was finetuned from base version {contribution.base_version} and the current "
            f"one is {version}"
        ),
        sequence=sequence,
        version=None,
        numbers={"staleness": staleness},
    )
