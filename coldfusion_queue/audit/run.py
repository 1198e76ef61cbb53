"""One audit: look, look again at what seems wrong, report what is wrong both times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from coldfusion_queue.audit.bucket import Bucket
from coldfusion_queue.audit.contributions import check_contributions
from coldfusion_queue.audit.decisions import check_decisions
from coldfusion_queue.audit.evaluations import check_evaluations
from coldfusion_queue.audit.files import check_files, digestible, expected_files
from coldfusion_queue.audit.findings import Check, Finding
from coldfusion_queue.audit.gate import check_gate
from coldfusion_queue.audit.history import read_history
from coldfusion_queue.audit.inspections import check_inspections
from coldfusion_queue.audit.layout import Kind
from coldfusion_queue.audit.ledger import check_ledger
from coldfusion_queue.audit.orphans import check_orphans
from coldfusion_queue.audit.snapshot import Snapshot, take_snapshot
from coldfusion_queue.audit.submissions import check_submissions
from coldfusion_queue.audit.versions import check_versions
from coldfusion_queue.records import FORMAT_VERSION, FileRecord, RepositoryRecord
from coldfusion_queue.settings import Settings

__all__ = ["GRACE_SECONDS", "AuditReport", "audit", "audit_bucket"]

#: Younger objects may belong to something that is under way.
GRACE_SECONDS = 86_400.0


@dataclass(frozen=True)
class AuditReport:
    """What was looked at and what was found wrong."""

    num_objects: int
    num_entries: int
    num_versions: int
    num_contributions: int
    num_submissions: int
    num_datasets: int
    num_files: int
    """Files that records name and that were not collected; sizes were compared of all."""
    num_digested: int
    """Files that were read."""
    bytes_digested: int
    findings: tuple[Finding, ...]
    """By check and subject; empty if every invariant holds."""


def audit(
    settings: Settings,
    repository: str,
    grace_seconds: float = GRACE_SECONDS,
    *,
    digests: bool = True,
    progress: Callable[[int], None] | None = None,
) -> AuditReport:
    """Prove or refute the invariants of a repository, from the bucket alone; writes nothing.

    The repository may be in use. Memory follows the number of objects, not the size of models.

    Args:
        settings: how the bucket is reached.
        repository: name of the repository.
        grace_seconds: age, by the store's clock, below which what nothing refers to may be under
            way and is no finding.
        digests: read all files and compare their sha256; else only their sizes.
        progress: called, from several threads, with the number of bytes that were read.

    Raises:
        NotFoundError: there is no such bucket, or no object of this repository.
        StoreUnavailableError: the store does not answer; nothing is known then.
    """
    bucket = Bucket.open(settings)
    return audit_bucket(bucket, repository, grace_seconds, digests=digests, progress=progress)


def audit_bucket(
    bucket: Bucket,
    repository: str,
    grace_seconds: float = GRACE_SECONDS,
    *,
    digests: bool = True,
    progress: Callable[[int], None] | None = None,
) -> AuditReport:
    """Audit a repository of an open bucket; see ``audit``."""
    look = _Look(take_snapshot(bucket, repository), grace_seconds)
    files = look.digestible if digests else []
    got = bucket.digest([file.key for file in files], progress)
    findings = sorted(set(look.findings(got)))
    if findings:
        findings = _confirmed(bucket, repository, grace_seconds, findings, digests=digests)
    return look.report(files, tuple(findings))


def _confirmed(
    bucket: Bucket,
    repository: str,
    grace_seconds: float,
    findings: list[Finding],
    *,
    digests: bool,
) -> list[Finding]:
    """The findings that a second look still sees.

    A listing takes a while and is no snapshot: what is committed, settled or collected meanwhile
    shows half of itself. A second look comes after all that the first one saw, so such a half is
    whole by then; what is really wrong stays wrong.
    """
    suspects = {(finding.check, finding.subject) for finding in findings}
    look = _Look(take_snapshot(bucket, repository), grace_seconds)
    subjects = {subject for _, subject in suspects}
    keys = [file.key for file in look.digestible if digests and file.key in subjects]
    again = look.findings(bucket.digest(keys))
    return sorted({item for item in again if (item.check, item.subject) in suspects})


class _Look:
    """All checks on one snapshot."""

    def __init__(self, snapshot: Snapshot, grace_seconds: float) -> None:
        self._snapshot = snapshot
        self._grace_seconds = grace_seconds
        self._history = read_history(snapshot.ledger)
        self._expected = list(expected_files(snapshot, self._history))
        self.digestible = digestible(snapshot, self._expected)

    def findings(self, digests: dict[str, str | None]) -> Iterator[Finding]:
        snapshot, history = self._snapshot, self._history
        yield from _check_repository(snapshot)
        yield from check_ledger(snapshot)
        yield from check_decisions(snapshot, history)
        yield from check_contributions(snapshot, history)
        yield from check_inspections(snapshot, history)
        yield from check_versions(snapshot, history)
        yield from check_gate(snapshot, history)
        yield from check_evaluations(snapshot)
        yield from check_submissions(snapshot)
        yield from check_orphans(snapshot, history, self._grace_seconds)
        yield from check_files(snapshot, self._expected, digests)

    def report(self, digested: list[FileRecord], findings: tuple[Finding, ...]) -> AuditReport:
        def count(kind: Kind) -> int:
            return sum(1 for _ in self._snapshot.of(kind))

        return AuditReport(
            num_objects=len(self._snapshot.objects),
            num_entries=len(self._snapshot.ledger),
            num_versions=len(self._history.versions),
            num_contributions=count(Kind.CONTRIBUTION),
            num_submissions=count(Kind.SUBMISSION),
            num_datasets=count(Kind.DATASET),
            num_files=len(self._expected),
            num_digested=len(digested),
            bytes_digested=sum(file.num_bytes for file in digested),
            findings=findings,
        )


def _check_repository(snapshot: Snapshot) -> Iterator[Finding]:
    key = f"{snapshot.repository}/repository.json"
    record = snapshot.find(RepositoryRecord, Kind.REPOSITORY, "")
    if key in snapshot.unreadable:
        problem = f"not a repository's record: {snapshot.unreadable[key]}"
        yield Finding(Check.REPOSITORY_RECORD, key, problem)
    elif record is None:
        problem = "there is none, expected what 'coldfusion init' writes last"
        yield Finding(Check.REPOSITORY_RECORD, key, problem)
    elif (record.format_version, record.name) != (FORMAT_VERSION, snapshot.repository):
        problem = (
            f"it is {record.name} of format {record.format_version}, expected "
            f"{snapshot.repository} of format {FORMAT_VERSION}"
        )
        yield Finding(Check.REPOSITORY_RECORD, key, problem)
