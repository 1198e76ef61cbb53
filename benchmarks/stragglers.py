"""Do slow contributors get their share? Simulated with the real selection and coefficients.

Three contributors finetune at speeds 1 : 2 : 10: a turn takes 10, 5 and 1 units of time, and each
begins its next turn, from the newest base version, when its last is committed. A fusion runs every
``--interval`` units. There is no store and no clock: time is counted by the event loop.

    python -m benchmarks.stragglers
"""

from __future__ import annotations

import argparse
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import cast

from benchmarks.reporting import print_report
from coldfusion_queue.fusion.coefficients import coefficients
from coldfusion_queue.records import (
    BaseVersion,
    Contribution,
    FileRecord,
    FusedContribution,
    LedgerEntry,
    Policy,
    State,
)
from coldfusion_queue.repository.inbox import PendingContribution
from coldfusion_queue.repository.ledger import Ledger
from coldfusion_queue.repository.selection import recently_served, select, served_of_late

__all__ = ["SCENARIOS", "TURN_UNITS", "simulate"]

#: Units of time that a turn of each contributor takes.
TURN_UNITS: Mapping[str, float] = {"slow": 10, "medium": 5, "fast": 1}

#: What differs from the default policy. Two places a fusion is less than what comes in.
SCENARIOS: Mapping[str, Mapping[str, int | str]] = {
    "default": {},
    "balanced": {"balance": "contributors"},
    "balanced_and_constant": {"balance": "contributors", "staleness": "constant"},
    "overload": {"max_contributions": 2},
    "max_staleness_20": {"max_staleness": 20},
    "overload_and_max_staleness_20": {"max_contributions": 2, "max_staleness": 20},
}

_START = datetime(2000, 1, 1, tzinfo=UTC)
_FILE = FileRecord(key="shared", digest="0" * 64, num_bytes=0)
_COMMIT, _FUSE = 0, 1  # at one moment commits come first


@dataclass
class World:
    """A repository in memory, and what was seen of each contributor."""

    policy: Policy
    entries: list[LedgerEntry] = field(default_factory=list)
    pending: list[PendingContribution] = field(default_factory=list)
    committed: Counter[str] = field(default_factory=Counter)
    expired: Counter[str] = field(default_factory=Counter)
    staleness: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    weight: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    arrived_before: dict[str, int] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)
    num_fusions: int = 0

    def __post_init__(self) -> None:
        self.append(0, ())

    @property
    def base(self) -> BaseVersion:
        return self.entries[-1].after.base

    def entry(self, sequence: int) -> LedgerEntry:
        """As ``Ledger.entry``."""
        return self.entries[sequence]

    def commit(self, contributor: str, base_version: int, now: float) -> None:
        """A contribution arrives."""
        self.committed[contributor] += 1
        contribution = _contribution(contributor, self.committed[contributor], base_version)
        self.arrived_before[contribution.contribution_id] = self.num_fusions
        self.pending.append(PendingContribution(contribution, _START + timedelta(seconds=now)))

    def fuse(self, now: float) -> None:
        """What ``fuse_once`` does, without tensors."""
        moment = _START + timedelta(seconds=now)
        served = recently_served(cast("Ledger", self), self.entries[-1], self.pending)
        selection = select(self.policy, self.base.version, self.pending, moment, served)
        decided = {item.contribution_id for item in selection.fusable + selection.expired}
        self.expired.update(item.contributor_id for item in selection.expired)
        if selection.fusable:
            self.append(self.base.version + 1, selection.fusable)
        self.pending = [
            item for item in self.pending if item.contribution.contribution_id not in decided
        ]
        self.num_fusions += 1
        for item in self.pending:
            name, number = item.contribution.contributor_id, item.contribution.contribution_id
            waited = self.num_fusions - self.arrived_before[number]
            self.passed_over[name] = max(self.passed_over[name], waited)

    def append(self, version: int, fusable: tuple[Contribution, ...]) -> None:
        """Publish a version."""
        served = served_of_late(cast("Ledger", self), self.entries[-1]) if fusable else {}
        shares = coefficients(self.policy, version - 1, fusable, served)
        lines = tuple(
            _line(item, version - 1, share) for item, share in zip(fusable, shares, strict=True)
        )
        for line in lines:
            self.staleness[line.contributor_id].append(line.staleness)
            self.weight[line.contributor_id] += line.coefficient
        self.entries.append(_entry(version, lines, self.policy))

    def report(self, contributor: str) -> dict[str, float]:
        """The figures of one contributor."""
        staleness = self.staleness[contributor] or [0]
        num_fused = sum(map(len, self.staleness.values()))
        speed = 1 / TURN_UNITS[contributor]
        return {
            "committed": self.committed[contributor],
            "fused": len(self.staleness[contributor]),
            "expired": self.expired[contributor],
            "share": round(len(self.staleness[contributor]) / num_fused, 4),
            "expected_share": round(speed / sum(1 / units for units in TURN_UNITS.values()), 4),
            "coefficient_share": round(self.weight[contributor] / sum(self.weight.values()), 4),
            "mean_staleness": round(fmean(staleness), 2),
            "max_staleness": max(staleness),
            "max_fusions_passed_over": self.passed_over[contributor],
        }


def simulate(policy: Policy, *, units: float, interval: float) -> World:
    """Run the event loop.

    Args:
        policy: the repository's.
        units: how long, in units of time.
        interval: units from one fusion to the next.
    """
    world = World(policy)
    # (when, kind, contributor, base version of the turn that ends)
    events = [(turn, _COMMIT, name, 0) for name, turn in TURN_UNITS.items()]
    heapq.heapify(events)
    heapq.heappush(events, (interval, _FUSE, "", 0))
    while events[0][0] <= units:
        now, kind, name, base_version = heapq.heappop(events)
        if kind == _FUSE:
            world.fuse(now)
            heapq.heappush(events, (now + interval, _FUSE, "", 0))
        else:
            world.commit(name, base_version, now)
            event = (now + TURN_UNITS[name], _COMMIT, name, world.base.version)
            heapq.heappush(events, event)
    return world


def _contribution(contributor: str, turn: int, base_version: int) -> Contribution:
    return Contribution(
        contribution_id=f"{contributor}.t{turn:06}",
        submission_id=contributor,
        contributor_id=contributor,
        dataset_id=None,
        turn=turn,
        attempt="a",
        base_version=base_version,
        base_digest=_FILE.digest,
        form="delta",
        shared=_FILE,
        head=None,
        num_examples=0,
        metrics={},
        created_at=_START,
        created_by="simulation",
    )


def _line(item: Contribution, version: int, coefficient: float) -> FusedContribution:
    return FusedContribution(
        contribution_id=item.contribution_id,
        contributor_id=item.contributor_id,
        dataset_id=None,
        base_version=item.base_version,
        staleness=version - item.base_version,
        coefficient=coefficient,
    )


def _entry(version: int, fused: Iterable[FusedContribution], policy: Policy) -> LedgerEntry:
    base = BaseVersion(
        version=version,
        prefix="base/",
        files={},
        parent=version - 1 if version else None,
        method=policy.method,
        server_learning_rate=policy.server_learning_rate,
        fused=tuple(fused),
    )
    return LedgerEntry(
        sequence=version,
        token="t",  # noqa: S106
        created_at=_START,
        actor="simulation",
        published=base,
        decisions=(),
        policy=None,
        note="",
        after=State(base=base, policy=policy),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--units", type=float, default=4000, help="units of time to simulate")
    parser.add_argument("--interval", type=float, default=2, help="units between two fusions")
    sizes = parser.parse_args()
    results = {}
    for scenario, changes in SCENARIOS.items():
        policy = Policy.model_validate({"min_contributions": 1, **changes})
        world = simulate(policy, units=sizes.units, interval=sizes.interval)
        results[scenario] = {
            "fusions": world.num_fusions,
            "pending_at_the_end": len(world.pending),
            "contributors": {name: world.report(name) for name in TURN_UNITS},
        }
    print_report("stragglers", **vars(sizes), turn_units=TURN_UNITS, results=results)


if __name__ == "__main__":
    main()
