"""Decisions: each contribution decided once, the lineage says the same, and so do the copies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from coldfusion_queue.audit.findings import Check, Finding
from coldfusion_queue.audit.history import History, is_same
from coldfusion_queue.audit.layout import Kind
from coldfusion_queue.audit.snapshot import Snapshot
from coldfusion_queue.records import (
    BaseVersion,
    Decision,
    FusedContribution,
    LedgerEntry,
    Outcome,
)

__all__ = ["check_decisions"]


def check_decisions(snapshot: Snapshot, history: History) -> Iterator[Finding]:
    """Check what the ledger decided and the copies of it."""
    yield from _check_once(snapshot)
    for number, entry in snapshot.entries.items():
        yield from _check_entry(number, entry)
    yield from _check_copies(snapshot, history)
    yield from _check_settled(snapshot, history)


def _check_once(snapshot: Snapshot) -> Iterator[Finding]:
    decided: Counter[str] = Counter()
    fused: Counter[str] = Counter()
    for entry in snapshot.entries.values():
        decided.update(decision.contribution_id for decision in entry.decisions)
        fused.update(line.contribution_id for line in _lines(entry.published))
    for name, times in decided.items():
        if times > 1:
            problem = f"the ledger decides it {times} times, expected once"
            yield Finding(Check.DECISIONS_TWICE, name, problem)
    for name, times in fused.items():
        if times > 1:
            problem = f"it is in the lineage {times} times, expected once, of one version"
            yield Finding(Check.DECISIONS_LINEAGE_TWICE, name, problem)


def _check_entry(number: int, entry: LedgerEntry) -> Iterator[Finding]:
    lines = {line.contribution_id: line for line in _lines(entry.published)}
    version = entry.published.version if entry.published else None
    for decision in entry.decisions:
        name = decision.contribution_id
        if decision.sequence != number:
            problem = f"sequence is {decision.sequence}, expected {number}, its entry's"
            yield Finding(Check.DECISIONS_SEQUENCE, name, problem)
        if decision.outcome is Outcome.FUSED:
            yield from _check_fused(decision, version, lines.get(name))
        elif decision.version is not None or not decision.reason.strip():
            problem = (
                f"{decision.outcome} with version {decision.version} and reason "
                f"{decision.reason!r}, expected no version and a reason"
            )
            yield Finding(Check.DECISIONS_REASON, name, problem)
    fused = {item.contribution_id for item in entry.decisions if item.outcome is Outcome.FUSED}
    for name in lines.keys() - fused:
        problem = f"it is in the lineage of version {version}, but entry {number} did not fuse it"
        yield Finding(Check.DECISIONS_LINEAGE, name, problem)


def _check_fused(
    decision: Decision, version: int | None, line: FusedContribution | None
) -> Iterator[Finding]:
    name = decision.contribution_id
    if version is None or decision.version != version:
        problem = (
            f"fused into version {decision.version}, expected {version}, which its entry publishes"
        )
        yield Finding(Check.DECISIONS_FUSED, name, problem)
    elif line is None:
        problem = f"fused, but not in the lineage of version {version}"
        yield Finding(Check.DECISIONS_FUSED, name, problem)
    else:
        for field, expected in (("coefficient", line.coefficient), ("staleness", line.staleness)):
            got = decision.numbers.get(field)
            if got is None or not _is_same_number(got, expected):
                problem = f"{field} is {got}, expected {expected}, as in the lineage"
                yield Finding(Check.DECISIONS_FUSED, name, problem)


def _check_copies(snapshot: Snapshot, history: History) -> Iterator[Finding]:
    for item in snapshot.of(Kind.DECISION):
        name = item.place.owner
        decided = history.decisions.get(name)
        copy = snapshot.find(Decision, Kind.DECISION, name)
        if decided is None:
            problem = "the ledger decided nothing about it, expected no copy of a decision"
            yield Finding(Check.DECISIONS_COPY_ALONE, item.key, problem)
        elif item.key in snapshot.unreadable:
            problem = f"not a decision: {snapshot.unreadable[item.key]}"
            yield Finding(Check.DECISIONS_COPY, item.key, problem)
        elif copy is not None and not is_same(copy, decided.decision):
            problem = f"it says {copy!r}, expected {decided.decision!r}, as the ledger"
            yield Finding(Check.DECISIONS_COPY, item.key, problem)


def _check_settled(snapshot: Snapshot, history: History) -> Iterator[Finding]:
    # The newest entry may be unsettled: its fuser is at it, or died, and the next one settles.
    for name, decided in history.decisions.items():
        if decided.sequence < history.newest and snapshot.key(Kind.DECISION, name) is None:
            problem = (
                f"entry {decided.sequence} decided it and {history.newest} is the newest, "
                "expected decision.json, because an entry is settled before the next is written"
            )
            yield Finding(Check.DECISIONS_COPY_MISSING, name, problem)


def _lines(version: BaseVersion | None) -> tuple[FusedContribution, ...]:
    return version.fused if version else ()


def _is_same_number(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))
