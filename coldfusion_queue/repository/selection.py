"""Which pending contributions enter a fusion, and whether it is time for one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from coldfusion_queue.records import Contribution, Decision, LedgerEntry, Outcome, Policy
from coldfusion_queue.repository.inbox import PendingContribution
from coldfusion_queue.repository.ledger import Ledger

__all__ = ["Selection", "expiry", "recently_served", "select", "served_of_late"]

_NOBODY: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Selection:
    """What a fusion would do now."""

    is_time: bool
    """Enough contributions are pending, or the oldest has waited long enough."""
    candidates: tuple[Contribution, ...]
    """What would be fused if it were time, in the order in which it was chosen."""
    expired: tuple[Contribution, ...]
    """What is too stale to be fused."""
    waited_seconds: float
    """How long the oldest fusable one has been pending."""

    @property
    def fusable(self) -> tuple[Contribution, ...]:
        """What to fuse now."""
        return self.candidates if self.is_time else ()

    @property
    def is_due(self) -> bool:
        """Whether there is something to fuse or to expire now."""
        return bool(self.fusable or self.expired)


def select(
    policy: Policy,
    version: int,
    pending: Sequence[PendingContribution],
    now: datetime,
    served: Mapping[str, int] = _NOBODY,
) -> Selection:
    """Apply the policy to what is pending; a slow contributor is never held up by fast ones.

    Every contributor's oldest contribution goes before anybody's second, and so on (max-min
    fair); among equals, whose contributor was served longest ago, then who came first. So of N
    contributors each gets at least floor(``max_contributions`` / N) places, if it has so many
    pending. If N is larger than ``max_contributions``, each waits for at most
    ceil(N / ``max_contributions``) fusions for its next place, where N counts all that have
    something pending meanwhile; this needs ``served``. Without it, a contributor with an old
    backlog would be the first in line each time.

    Args:
        policy: when a fusion is due and how much staleness it takes.
        version: the current base version.
        pending: all pending contributions; their order does not matter.
        now: the store's clock, which the arrivals were stamped by.
        served: see ``recently_served``.

    Returns:
        At most ``max_contributions`` candidates. It is time if ``min_contributions`` are
        fusable, or if the oldest of fewer has waited ``max_wait_seconds``.
    """
    limit = math.inf if policy.max_staleness is None else policy.max_staleness
    expired: list[Contribution] = []
    fusable: list[PendingContribution] = []
    for item in sorted(pending, key=_arrival):
        if version - item.contribution.base_version > limit:
            expired.append(item.contribution)
        else:
            fusable.append(item)
    waited = (now - fusable[0].arrived_at).total_seconds() if fusable else 0.0
    is_enough = len(fusable) >= policy.min_contributions
    is_late = bool(fusable) and waited >= policy.max_wait_seconds
    chosen = _in_turn(fusable, served)[: policy.max_contributions]
    return Selection(
        is_time=is_enough or is_late,
        candidates=tuple(item.contribution for item in chosen),
        expired=tuple(expired),
        waited_seconds=max(0.0, waited),
    )


def recently_served(
    ledger: Ledger, newest: LedgerEntry, pending: Sequence[PendingContribution]
) -> dict[str, int]:
    """The newest version that each contributor is part of, as far back as fairness needs.

    That is ceil(N / ``max_contributions``) versions for N contributors with something pending,
    and none, without reading anything, if all of them have a place in one fusion.

    Args:
        ledger: read backwards, one entry at a time.
        newest: its newest entry.
        pending: all pending contributions.
    """
    num_contributors = len({item.contribution.contributor_id for item in pending})
    num_versions = math.ceil(num_contributors / newest.after.policy.max_contributions)
    return _served_in(ledger, newest, num_versions) if num_versions > 1 else {}


def served_of_late(ledger: Ledger, newest: LedgerEntry) -> dict[str, int]:
    """The newest version that each contributor is part of, as far back as ``balance`` looks.

    Nothing, without reading anything, if contributions count alike.

    Args:
        ledger: read backwards, one entry at a time.
        newest: its newest entry.
    """
    policy = newest.after.policy
    is_needed = policy.balance == "contributors"
    return _served_in(ledger, newest, policy.balance_limit) if is_needed else {}


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


def _arrival(item: PendingContribution) -> tuple[datetime, str]:
    return item.arrived_at, item.contribution.contribution_id


def _in_turn(
    arrivals: Sequence[PendingContribution], served: Mapping[str, int]
) -> list[PendingContribution]:
    """Everybody's first, then everybody's second, ...; ``arrivals`` has the oldest first."""
    counts: dict[str, int] = {}
    places: list[tuple[int, int]] = []
    for item in arrivals:
        name = item.contribution.contributor_id
        rank = counts.get(name, 0)
        counts[name] = rank + 1
        places.append((rank, served.get(name, -1)))
    order = sorted(range(len(arrivals)), key=lambda index: (places[index], index))
    return [arrivals[index] for index in order]


def _served_in(ledger: Ledger, newest: LedgerEntry, num_versions: int) -> dict[str, int]:
    """By contributor, the newest of the last so many base versions that it is part of."""
    oldest = newest.after.base.version - num_versions
    served: dict[str, int] = {}
    entry = newest
    while entry.after.base.version > max(0, oldest):
        for line in entry.after.base.fused:
            served.setdefault(line.contributor_id, entry.after.base.version)
        entry = ledger.entry(entry.sequence - 1)
    return served
