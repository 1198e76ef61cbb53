"""Counts over the decisions of a report: by contributor, by staleness, over time."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from coldfusion_queue.records import Outcome
from coldfusion_queue.report.data import Decided, Report, plain

__all__ = [
    "STALENESS_LIMIT",
    "ContributorCount",
    "Period",
    "Throughput",
    "Waiting",
    "as_data",
    "by_contributor",
    "by_rule",
    "by_staleness",
    "throughput",
    "waiting",
]

#: Staleness of this and more is counted together.
STALENESS_LIMIT = 16
#: Lengths of a period, in seconds, the shortest that gives few enough of them is taken.
_PERIODS = {"minute": 60, "10 minutes": 600, "hour": 3600, "day": 86_400, "week": 604_800}
_MAX_PERIODS = 72


@dataclass(frozen=True)
class ContributorCount:
    """What became of one contributor's contributions."""

    contributor_id: str | None
    """None counts those whose record cannot be read."""
    fused: int
    refused: int
    expired: int
    share: float
    """Of all that were fused."""

    @property
    def num_decided(self) -> int:
        """All of them."""
        return self.fused + self.refused + self.expired


@dataclass(frozen=True)
class Period:
    """What happened from one moment to the next period."""

    start: datetime
    outcomes: Mapping[Outcome, int]
    num_versions: int


@dataclass(frozen=True)
class Throughput:
    """Periods of equal length without a hole, the oldest first."""

    length: str
    """Of a period, for people."""
    periods: tuple[Period, ...]


@dataclass(frozen=True)
class Waiting:
    """How long contributions waited for their decision, in seconds."""

    num_known: int
    median: float
    ninety_percent: float
    """As long as this, or less, for nine of ten."""
    longest: float


def by_contributor(decisions: Iterable[Decided]) -> list[ContributorCount]:
    """Who contributed, the most fused contributions first."""
    counts: dict[str | None, Counter[Outcome]] = defaultdict(Counter)
    for item in decisions:
        counts[item.contributor_id][item.outcome] += 1
    num_fused = sum(count[Outcome.FUSED] for count in counts.values())
    found = [
        ContributorCount(
            contributor_id=name,
            fused=count[Outcome.FUSED],
            refused=count[Outcome.REFUSED],
            expired=count[Outcome.EXPIRED],
            share=count[Outcome.FUSED] / num_fused if num_fused else 0.0,
        )
        for name, count in counts.items()
    ]
    return sorted(
        found, key=lambda item: (-item.fused, -item.num_decided, item.contributor_id or "")
    )


def by_staleness(decisions: Iterable[Decided]) -> dict[int, Counter[Outcome]]:
    """Outcomes by staleness, without a hole; the last one that there can be counts all above."""
    counts: dict[int, Counter[Outcome]] = defaultdict(Counter)
    for item in decisions:
        if item.staleness is not None:
            counts[min(item.staleness, STALENESS_LIMIT)][item.outcome] += 1
    return {number: counts[number] for number in range(max(counts, default=-1) + 1)}


def by_rule(decisions: Iterable[Decided]) -> dict[str, int]:
    """How many were refused for what, the most frequent first."""
    refused = (item for item in decisions if item.outcome is Outcome.REFUSED)
    return dict(Counter(item.rule or "unknown" for item in refused).most_common())


def throughput(report: Report) -> Throughput:
    """Decisions and base versions over time."""
    versions = [step.at for step in report.published]
    moments = [*versions, *(item.at for item in report.decisions)]
    first, last = min(moments).timestamp(), max(moments).timestamp()
    name, seconds = _period(first, last)
    begin = int(first // seconds)
    outcomes: dict[int, Counter[Outcome]] = defaultdict(Counter)
    for item in report.decisions:
        outcomes[int(item.at.timestamp() // seconds)][item.outcome] += 1
    num_versions = Counter(int(moment.timestamp() // seconds) for moment in versions)
    epoch = datetime.fromtimestamp(0, UTC)
    return Throughput(
        name,
        tuple(
            Period(
                epoch + timedelta(seconds=number * seconds), outcomes[number], num_versions[number]
            )
            for number in range(begin, int(last // seconds) + 1)
        ),
    )


def waiting(decisions: Iterable[Decided]) -> Waiting | None:
    """How long they waited; None if it is known of none."""
    waits = sorted(item.waited_seconds for item in decisions if item.waited_seconds is not None)
    if not waits:
        return None
    return Waiting(len(waits), _quantile(waits, 0.5), _quantile(waits, 0.9), waits[-1])


def as_data(report: Report) -> dict[str, Any]:
    """A report with its counts as JSON data."""
    data: dict[str, Any] = plain(report)
    decisions = report.decisions
    return data | {
        "contributors": plain(by_contributor(decisions)),
        "staleness": plain(by_staleness(decisions)),
        "rules": by_rule(decisions),
        "throughput": plain(throughput(report)),
        "waiting": plain(waiting(decisions)),
    }


def _period(first: float, last: float) -> tuple[str, int]:
    for name, seconds in _PERIODS.items():
        if last // seconds - first // seconds < _MAX_PERIODS:
            return name, seconds
    # A writer's clock can be years off; the picture is to be as wide as ever.
    weeks = math.ceil((last - first) / _PERIODS["week"] / (_MAX_PERIODS - 1))
    return f"{weeks} weeks", weeks * _PERIODS["week"]


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest of sorted values that at least this share of them does not exceed."""
    return values[max(math.ceil(share * len(values)) - 1, 0)]
