"""What was found before contributions were fused, and who let some of them pass the limits."""

from __future__ import annotations

import math
from collections.abc import Iterator

from coldfusion_queue.audit.findings import Check, Finding
from coldfusion_queue.audit.history import History
from coldfusion_queue.audit.layout import Kind
from coldfusion_queue.audit.snapshot import Snapshot, StoredObject
from coldfusion_queue.records import (
    BaseVersion,
    Contribution,
    FusedContribution,
    Inspection,
    Override,
)

__all__ = ["check_inspections"]

#: Quotients of the same two numbers.
_RELATIVE_TOLERANCE = 1e-9


def check_inspections(snapshot: Snapshot, history: History) -> Iterator[Finding]:
    """Check every inspection and override, and that whatever was fused was inspected."""
    for item in snapshot.of(Kind.INSPECTION):
        yield from _check_inspection(snapshot, history, item)
    for item in snapshot.of(Kind.OVERRIDE):
        yield from _check_override(snapshot, item)
    for version in history.versions.values():
        for line in version.fused:
            yield from _check_fused(snapshot, history, version, line)


def _check_inspection(
    snapshot: Snapshot, history: History, item: StoredObject
) -> Iterator[Finding]:
    name = item.place.owner
    inspection = snapshot.find(Inspection, Kind.INSPECTION, name)
    contribution = snapshot.find(Contribution, Kind.CONTRIBUTION, name)
    if inspection is None:
        problem = f"not an inspection: {snapshot.unreadable.get(item.key)}"
    elif snapshot.key(Kind.CONTRIBUTION, name) is None and history.is_pending(name):
        problem = "there is no contribution.json, expected one, because it comes first"
    elif inspection.contribution_id != name:
        problem = f"it is of {inspection.contribution_id}, expected {name}, as in its key"
    elif contribution is not None and inspection.digest != contribution.shared.digest:
        problem = f"it is of a file with digest {inspection.digest}, expected the contribution's"
    else:
        return
    yield Finding(Check.INSPECTIONS_RECORD, item.key, problem)


def _check_override(snapshot: Snapshot, item: StoredObject) -> Iterator[Finding]:
    name = item.place.owner
    override = snapshot.find(Override, Kind.OVERRIDE, name)
    if override is None:
        problem = f"not an override: {snapshot.unreadable.get(item.key)}"
    elif override.contribution_id != name:
        problem = f"it is of {override.contribution_id}, expected {name}, as in its key"
    else:
        return
    yield Finding(Check.OVERRIDES_RECORD, item.key, problem)


def _check_fused(
    snapshot: Snapshot, history: History, version: BaseVersion, line: FusedContribution
) -> Iterator[Finding]:
    name = line.contribution_id
    subject = f"base version {version.version}, {name}"
    override = snapshot.find(Override, Kind.OVERRIDE, name)
    reason = override.reason if override else None
    if line.override not in (None, reason):
        problem = f"override is {line.override!r}, expected {reason!r}, as an operator recorded it"
        yield Finding(Check.OVERRIDES_LINEAGE, subject, problem)
    decided = history.decisions.get(name)
    if decided is None:
        return  # which is a finding of its own
    got = decided.decision.numbers.get("relative_norm")
    inspection = snapshot.find(Inspection, Kind.INSPECTION, name)
    if got is None:
        problem = "fused without a relative_norm, expected what an inspection found"
    elif inspection is None:
        problem = "fused without an inspection, expected one, because it comes before"
    elif not math.isclose(got, inspection.relative_norm, rel_tol=_RELATIVE_TOLERANCE):
        problem = f"relative_norm is {got}, expected {inspection.relative_norm}, as inspected"
    else:
        return
    yield Finding(Check.INSPECTIONS_FUSED, subject, problem)
