"""Base versions: lineage, its arithmetic, and what must not be collected of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from coldfusion_queue.audit.findings import Check, Finding
from coldfusion_queue.audit.history import History, directory_of, is_same
from coldfusion_queue.audit.layout import Kind
from coldfusion_queue.audit.snapshot import Snapshot
from coldfusion_queue.records import BaseVersion, Contribution, FusedContribution

__all__ = ["check_versions"]

#: Coefficients are float64 quotients; their sum is off by rounding alone.
_RELATIVE_TOLERANCE = 1e-9


def check_versions(snapshot: Snapshot, history: History) -> Iterator[Finding]:
    """Check every published version; ``files`` checks its files."""
    needed = _needed(snapshot, history)
    for version in history.versions.values():
        yield from _check_lineage(snapshot, version)
        yield from _check_coefficients(version)
        for line in version.fused:
            yield from _check_line(snapshot, version, line)
        yield from _check_collected(snapshot, version, needed.get(version.version))


def _check_lineage(snapshot: Snapshot, version: BaseVersion) -> Iterator[Finding]:
    directory = directory_of(snapshot, version)
    key = f"{version.prefix}lineage.json"
    if key in snapshot.unreadable:
        problem = f"not the record of a base version: {snapshot.unreadable[key]}"
        yield Finding(Check.VERSIONS_LINEAGE, key, problem)
        return
    copy = snapshot.find(BaseVersion, Kind.LINEAGE, directory)
    if copy is None:
        if key not in snapshot.collected(Kind.BASE_COLLECTION, directory):
            yield Finding(Check.VERSIONS_LINEAGE, key, "there is none, expected the ledger's")
    elif not is_same(copy, version):
        problem = f"it is not what the ledger says about version {version.version}"
        yield Finding(Check.VERSIONS_LINEAGE, key, problem)


def _check_coefficients(version: BaseVersion) -> Iterator[Finding]:
    coefficients = [line.coefficient for line in version.fused]
    expected = version.server_learning_rate or 0.0  # nothing was fused into the pretrained model
    if not all(map(math.isfinite, coefficients)):
        problem = f"coefficients are {coefficients}, expected finite ones"
        yield Finding(Check.VERSIONS_COEFFICIENTS, _version(version), problem)
        return
    total = math.fsum(coefficients)
    if not math.isclose(total, expected, rel_tol=_RELATIVE_TOLERANCE):
        problem = f"coefficients sum to {total!r}, expected the learning rate {expected!r}"
        yield Finding(Check.VERSIONS_COEFFICIENTS, _version(version), problem)


def _check_line(
    snapshot: Snapshot, version: BaseVersion, line: FusedContribution
) -> Iterator[Finding]:
    subject = f"{_version(version)}, {line.contribution_id}"
    if version.parent is not None and line.staleness != version.parent - line.base_version:
        problem = f"staleness is {line.staleness}, expected {version.parent} - {line.base_version}"
        yield Finding(Check.VERSIONS_LINE, subject, problem)
    contribution = snapshot.find(Contribution, Kind.CONTRIBUTION, line.contribution_id)
    if contribution is None:
        return  # missing or unreadable, which is a finding of its own
    for field in ("contributor_id", "dataset_id", "base_version"):
        got, expected = getattr(line, field), getattr(contribution, field)
        if got != expected:
            problem = f"{field} is {got}, expected {expected}, as in contribution.json"
            yield Finding(Check.VERSIONS_LINE, subject, problem)


def _needed(snapshot: Snapshot, history: History) -> dict[int, str]:
    """Versions whose files must be there, and what for."""
    needed = {}
    for item in snapshot.of(Kind.CONTRIBUTION):
        contribution = snapshot.find(Contribution, Kind.CONTRIBUTION, item.place.owner)
        if contribution is not None and history.is_pending(item.place.owner):
            needed[contribution.base_version] = f"contribution {item.place.owner} is pending"
    if history.versions:
        needed[max(history.versions)] = "it is the newest"
    needed[0] = "it is the pretrained model"
    return needed


def _check_collected(
    snapshot: Snapshot, version: BaseVersion, needed_for: str | None
) -> Iterator[Finding]:
    directory = directory_of(snapshot, version)
    key = snapshot.key(Kind.BASE_COLLECTION, directory)
    if key is None:
        return
    if key in snapshot.unreadable:
        problem = f"not a collection: {snapshot.unreadable[key]}"
        yield Finding(Check.VERSIONS_COLLECTED, key, problem)
    if needed_for is not None:
        problem = f"files of version {version.version} were collected, but {needed_for}"
        yield Finding(Check.VERSIONS_COLLECTED, key, problem)
    for name in snapshot.collected(Kind.BASE_COLLECTION, directory):
        if not name.startswith(version.prefix):
            problem = f"it names {name}, which is no file of version {version.version}"
            yield Finding(Check.VERSIONS_COLLECTED, key, problem)


def _version(version: BaseVersion) -> str:
    return f"base version {version.version}"
