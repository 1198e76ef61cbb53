"""The files that records name: there, of the recorded size, with the recorded digest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from coldfusion_queue.audit.findings import Check, Finding
from coldfusion_queue.audit.history import History, directory_of
from coldfusion_queue.audit.layout import Kind
from coldfusion_queue.audit.snapshot import Snapshot
from coldfusion_queue.records import Contribution, DatasetRecord, FileRecord

__all__ = ["ExpectedFile", "check_files", "digestible", "expected_files"]


@dataclass(frozen=True)
class ExpectedFile:
    """A file that a record names."""

    check: Check
    """The check that fails when it is not as recorded."""
    file: FileRecord


def expected_files(snapshot: Snapshot, history: History) -> Iterator[ExpectedFile]:
    """The files that must be as recorded: those that were not collected, of nothing refused."""
    for version in history.versions.values():
        owner = directory_of(snapshot, version)
        collected = snapshot.collected(Kind.BASE_COLLECTION, owner)
        yield from _expect(Check.VERSIONS_FILE, version.objects, collected)
    for item in snapshot.of(Kind.CONTRIBUTION):
        owner = item.place.owner
        contribution = snapshot.find(Contribution, Kind.CONTRIBUTION, owner)
        # A damaged file may be the reason of a refusal.
        if contribution is not None and not history.is_refused(owner):
            files = [file for file in (contribution.shared, contribution.head) if file]
            collected = snapshot.collected(Kind.COLLECTION, owner)
            yield from _expect(Check.CONTRIBUTIONS_FILE, files, collected)
    for item in snapshot.of(Kind.DATASET):
        dataset = snapshot.find(DatasetRecord, Kind.DATASET, item.place.owner)
        if dataset is not None:
            files = [split.file for split in dataset.splits.values()]
            yield from _expect(Check.DATASETS_FILE, files, frozenset())


def digestible(snapshot: Snapshot, expected: Iterable[ExpectedFile]) -> list[FileRecord]:
    """The files whose size is right, so that the digest is worth taking; each once."""
    files = {
        item.file.key: item.file
        for item in expected
        if (found := snapshot.objects.get(item.file.key)) is not None
        and found.num_bytes == item.file.num_bytes
    }
    return list(files.values())


def check_files(
    snapshot: Snapshot, expected: Iterable[ExpectedFile], digests: Mapping[str, str | None]
) -> Iterator[Finding]:
    """Compare files with their records.

    Args:
        snapshot: what was listed.
        expected: what the records say.
        digests: sha256 by key of the files that were read, None for one that was gone by then;
            files without one are compared by size alone.
    """
    for item in expected:
        file = item.file
        found = snapshot.objects.get(file.key)
        digest = digests.get(file.key, file.digest)
        if found is None or digest is None:
            problem = "there is none, expected the file that a record names"
        elif found.num_bytes != file.num_bytes:
            problem = f"it has {found.num_bytes} bytes, expected {file.num_bytes}"
        elif digest != file.digest:
            problem = f"sha256 is {digest}, expected {file.digest}"
        else:
            continue
        yield Finding(item.check, file.key, problem)


def _expect(
    check: Check, files: Iterable[FileRecord], collected: frozenset[str]
) -> Iterator[ExpectedFile]:
    return (ExpectedFile(check, file) for file in files if file.key not in collected)
