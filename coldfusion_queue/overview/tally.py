"""Counts over a whole ledger: each entry counts once, whoever counts and however often it restarts.

The ledger is why these are right for ever: a counter in the process that decides would miss an
entry whose writer died right after it appended it, and begin at 0 with every new worker.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType

from coldfusion_queue.records import BaseVersion, Decision, LedgerEntry, Outcome, Rule

__all__ = ["Bounds", "Distribution", "LedgerCount", "LedgerTally"]

#: Fusions whose coefficients tell who moves the base model now.
_RECENT_FUSIONS = 16


@dataclass(frozen=True)
class Bounds:
    """Upper bounds of what the numbers of decisions are counted by, ascending and finite."""

    staleness: tuple[float, ...]
    relative_norm: tuple[float, ...]
    cosine: tuple[float, ...]


@dataclass(frozen=True)
class Distribution:
    """How many numbers do not exceed each bound."""

    cumulative: tuple[tuple[float, int], ...]
    """Bound and count, ascending; the last bound is infinite, and its count that of all."""
    sum: float


@dataclass(frozen=True)
class LedgerTally:
    """What all entries from 0 on hold. What never happened is counted too, as 0."""

    sequence: int
    """The newest entry that is counted."""
    decisions: Mapping[tuple[str, str], int]
    """Contributions by outcome and by the rule that they were refused for, or empty."""
    verdicts: Mapping[str, int]
    """Fused models that the gate judged: ``published`` and ``withheld``."""
    rollbacks: int
    """Base versions that restored an older one."""
    overrides: int
    """Contributions that were fused although they exceeded a limit."""
    staleness: Distribution
    """Of fused contributions, in base versions."""
    relative_norm: Mapping[str, Distribution]
    """By outcome, ``fused`` and ``refused``; of those that were inspected."""
    cosine: Mapping[str, Distribution]
    """The same, of those that there were enough others for."""
    shares: Mapping[str, float]
    """Each contributor's share of the coefficients of the last 16 fusions; together they are 1."""
    versions: Mapping[str, int]
    """The newest base version that was published with parameters of each digest."""
    names: Mapping[str, str]
    """What people call each dataset, by its id: as who contributed from it first. A second one of
    the same contributor has the first 8 digits of its id as well; no name changes."""


class LedgerCount:
    """Counts the entries that it is given, from 0 on; not to be shared between threads."""

    def __init__(self, bounds: Bounds) -> None:
        self._sequence = -1
        self._decisions = Counter(dict.fromkeys(_possible_decisions(), 0))
        self._verdicts = Counter({"published": 0, "withheld": 0})
        self._rollbacks = self._overrides = 0
        outcomes = (Outcome.FUSED.value, Outcome.REFUSED.value)
        self._staleness = _Buckets(bounds.staleness)
        self._norms = {outcome: _Buckets(bounds.relative_norm) for outcome in outcomes}
        self._cosines = {outcome: _Buckets(bounds.cosine) for outcome in outcomes}
        self._fusions: deque[BaseVersion] = deque(maxlen=_RECENT_FUSIONS)
        self._versions: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._named: set[str] = set()

    @property
    def next_sequence(self) -> int:
        """Number of the entry that is to be added next."""
        return self._sequence + 1

    def add(self, entry: LedgerEntry) -> None:
        """Count an entry.

        Raises:
            ValueError: it is not the next one; it would be missing, or count twice.
        """
        if entry.sequence != self.next_sequence:
            raise ValueError(f"ledger entry {entry.sequence}, expected {self.next_sequence}")
        self._sequence = entry.sequence
        if entry.gate is not None:
            self._verdicts["published" if entry.withheld is None else "withheld"] += 1
        if entry.published is not None:
            self._add_version(entry.published)
        for decision in entry.decisions:
            self._add_decision(decision)

    def tally(self) -> LedgerTally:
        """What was counted so far; it does not change any more."""
        return LedgerTally(
            sequence=self._sequence,
            decisions=MappingProxyType(dict(self._decisions)),
            verdicts=MappingProxyType(dict(self._verdicts)),
            rollbacks=self._rollbacks,
            overrides=self._overrides,
            staleness=self._staleness.distribution(),
            relative_norm={name: item.distribution() for name, item in self._norms.items()},
            cosine={name: item.distribution() for name, item in self._cosines.items()},
            shares=_shares(self._fusions),
            versions=MappingProxyType(dict(self._versions)),
            names=MappingProxyType(dict(self._names)),
        )

    def _add_version(self, version: BaseVersion) -> None:
        self._versions[version.digest] = version.version
        self._rollbacks += version.restores is not None
        self._overrides += sum(line.override is not None for line in version.fused)
        for line in version.fused:
            if line.dataset_id is not None and line.dataset_id not in self._names:
                self._add_name(line.dataset_id, line.contributor_id)
        if version.fused:
            self._fusions.append(version)

    def _add_name(self, dataset_id: str, contributor_id: str) -> None:
        is_first = contributor_id not in self._named
        self._named.add(contributor_id)
        self._names[dataset_id] = (
            contributor_id if is_first else f"{contributor_id} {dataset_id[:8]}"
        )

    def _add_decision(self, decision: Decision) -> None:
        outcome, numbers = decision.outcome.value, decision.numbers
        self._decisions[outcome, decision.rule.value if decision.rule else ""] += 1
        # Numbers are absent from decisions that were made before they were recorded.
        if decision.outcome is Outcome.FUSED and "staleness" in numbers:
            self._staleness.add(numbers["staleness"])
        for name, buckets in (("relative_norm", self._norms), ("cosine", self._cosines)):
            if outcome in buckets and name in numbers:
                buckets[outcome].add(numbers[name])


class _Buckets:
    """Counts numbers by the least bound that they do not exceed."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = (*bounds, math.inf)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def add(self, number: float) -> None:
        self._counts[bisect_left(self._bounds, number)] += 1
        self._sum += number

    def distribution(self) -> Distribution:
        counts = accumulate(self._counts)
        return Distribution(tuple(zip(self._bounds, counts, strict=True)), self._sum)


def _possible_decisions() -> Iterable[tuple[str, str]]:
    yield Outcome.FUSED.value, ""
    yield Outcome.EXPIRED.value, ""
    for rule in Rule:
        yield Outcome.REFUSED.value, rule.value


def _shares(fusions: Iterable[BaseVersion]) -> Mapping[str, float]:
    sums: dict[str, float] = {}
    for version in fusions:
        for line in version.fused:
            sums[line.contributor_id] = sums.get(line.contributor_id, 0.0) + line.coefficient
    total = math.fsum(sums.values())
    return {name: part / total for name, part in sorted(sums.items())} if total else {}
