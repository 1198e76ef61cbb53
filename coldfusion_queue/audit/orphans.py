"""What nothing refers to: markers, attempts and objects that are older than the grace."""

from __future__ import annotations

from collections.abc import Iterator

from coldfusion_queue.audit.findings import Check, Finding
from coldfusion_queue.audit.history import History, directory_of
from coldfusion_queue.audit.layout import Kind, Place
from coldfusion_queue.audit.snapshot import Snapshot, StoredObject, newest_age
from coldfusion_queue.records import Candidate, Contribution, DatasetRecord, Submission

__all__ = ["check_orphans"]


def check_orphans(snapshot: Snapshot, history: History, grace_seconds: float) -> Iterator[Finding]:
    """Check that whatever is older than the grace has a purpose; younger may be in flight.

    Args:
        snapshot: what there is.
        history: what was published.
        grace_seconds: age, by the store's clock, from which on a finding is one. What was written
            as one directory is as old as its newest object.
    """
    yield from _check_markers(snapshot, grace_seconds)
    yield from _check_heads(snapshot, grace_seconds)
    published = {directory_of(snapshot, version) for version in history.versions.values()}
    published |= _waiting(snapshot, history)
    for place, objects in snapshot.directories.items():
        check, problem = _orphan(snapshot, published, place, objects) or (None, "")
        if check is not None and newest_age(objects) >= grace_seconds:
            yield Finding(check, objects[0].key.rpartition("/")[0] + "/", problem)
    yield from _check_done(snapshot, history, grace_seconds)
    yield from _check_unknown(snapshot, history, grace_seconds)


def _waiting(snapshot: Snapshot, history: History) -> set[str]:
    """Directories of the candidate for the next entry, which may wait for long."""
    owner = f"{history.newest + 1:010d}"
    candidate = snapshot.find(Candidate, Kind.CANDIDATE, owner)
    models = candidate.models if candidate else ()
    return {directory_of(snapshot, model) for model in models}


def _check_done(snapshot: Snapshot, history: History, grace_seconds: float) -> Iterator[Finding]:
    for item in snapshot.of(Kind.CANDIDATE, Kind.REQUEST):
        if item.age_seconds < grace_seconds:
            continue
        owner = item.place.owner
        if item.place.kind is Kind.CANDIDATE and int(owner) <= history.newest:
            problem = f"ledger entry {int(owner)} was written, with it or in its place"
            yield Finding(Check.ORPHANS_CANDIDATE, item.key, problem)
        done = owner.replace(".", "/", 2)
        if item.place.kind is Kind.REQUEST and snapshot.key(Kind.EVALUATION, done) is not None:
            yield Finding(Check.ORPHANS_REQUEST, item.key, "the evaluation is recorded")


def _check_markers(snapshot: Snapshot, grace_seconds: float) -> Iterator[Finding]:
    for item in snapshot.of(Kind.INBOX, Kind.OPEN):
        is_inbox = item.place.kind is Kind.INBOX
        owner = Kind.CONTRIBUTION if is_inbox else Kind.SUBMISSION
        if snapshot.key(owner, item.place.owner) is None and item.age_seconds >= grace_seconds:
            check = Check.MARKERS_INBOX if is_inbox else Check.MARKERS_OPEN
            problem = f"a marker without a {owner.name.lower()}, expected one"
            yield Finding(check, item.key, problem)


def _check_heads(snapshot: Snapshot, grace_seconds: float) -> Iterator[Finding]:
    for item in snapshot.of(Kind.HEAD):
        found = snapshot.find(Contribution, Kind.CONTRIBUTION, item.place.owner)
        expected = None if found is None else _head_marker(snapshot, found)
        if expected != item.place.name and item.age_seconds >= grace_seconds:
            problem = f"it names {item.place.owner}, which has "
            problem += "no head" if expected is None else f"the head {expected}"
            yield Finding(Check.MARKERS_HEAD, item.key, problem)


def _head_marker(snapshot: Snapshot, contribution: Contribution) -> str | None:
    owner = contribution.submission_id
    submission = snapshot.find(Submission, Kind.SUBMISSION, owner)
    if submission is None or submission.task is None or contribution.head is None:
        return None
    version = f"{contribution.base_version:08d}"
    return f"{submission.contributor_id}/{submission.task}/{version}"


def _orphan(
    snapshot: Snapshot, published: set[str], place: Place, objects: list[StoredObject]
) -> tuple[Check, str] | None:
    """What is wrong with a directory if it is old enough, or None if nothing is."""
    owner = place.owner
    match place.kind:
        case Kind.CONTRIBUTION_FILE if not _may_be_committed(snapshot, place):
            return Check.ORPHANS_CONTRIBUTION, "an attempt that is not the committed one"
        case Kind.BASE_FILE if owner not in published:
            return Check.ORPHANS_BASE, "an attempt at a base version that was never published"
        case Kind.FUSION_FILE:
            return Check.ORPHANS_FUSION, "what a fusion that is over left behind"
        case Kind.CHECKPOINT_FILE if snapshot.key(Kind.CONTRIBUTION, owner) is not None:
            return Check.ORPHANS_CHECKPOINT, "a checkpoint of a turn that is committed"
        case Kind.CHECKPOINT_FILE if "checkpoint.json" not in {item.place.name for item in objects}:
            return Check.ORPHANS_CHECKPOINT, "a checkpoint without checkpoint.json"
        case Kind.DATASET_FILE if snapshot.key(Kind.DATASET, owner) is None:
            return Check.ORPHANS_DATASET, "files of a dataset without dataset.json"
    return None


def _may_be_committed(snapshot: Snapshot, place: Place) -> bool:
    key = snapshot.key(Kind.CONTRIBUTION, place.owner)
    if key in snapshot.unreadable:
        return True  # nobody can tell which attempt it names
    contribution = snapshot.find(Contribution, Kind.CONTRIBUTION, place.owner)
    return contribution is not None and contribution.attempt == place.attempt


def _check_unknown(snapshot: Snapshot, history: History, grace_seconds: float) -> Iterator[Finding]:
    named = _named(snapshot, history)
    published = {directory_of(snapshot, version) for version in history.versions.values()}
    for item in snapshot.objects.values():
        if item.key in named or item.age_seconds < grace_seconds:
            continue
        place = item.place
        is_unknown = (
            (place.kind is Kind.UNKNOWN and not _is_ledger(snapshot, item.key))
            or (place.kind is Kind.BASE_FILE and place.owner in published)
            or (place.kind is Kind.BASE_COLLECTION and place.owner not in published)
            or (place.kind is Kind.CONTRIBUTION_FILE and _is_committed(snapshot, place))
            or (place.kind is Kind.DATASET_FILE and _is_recorded(snapshot, place))
        )
        if is_unknown:
            yield Finding(Check.OBJECTS_UNKNOWN, item.key, "no record names it")


def _named(snapshot: Snapshot, history: History) -> set[str]:
    named = {file.key for version in history.versions.values() for file in version.objects}
    for record in snapshot.records.values():
        if isinstance(record, Contribution):
            named |= {file.key for file in (record.shared, record.head) if file}
        elif isinstance(record, DatasetRecord):
            named |= {split.file.key for split in record.splits.values()}
    return named


def _is_ledger(snapshot: Snapshot, key: str) -> bool:
    return key.startswith(f"{snapshot.repository}/ledger/")  # a finding of its own


def _is_committed(snapshot: Snapshot, place: Place) -> bool:
    contribution = snapshot.find(Contribution, Kind.CONTRIBUTION, place.owner)
    return contribution is not None and contribution.attempt == place.attempt


def _is_recorded(snapshot: Snapshot, place: Place) -> bool:
    return snapshot.find(DatasetRecord, Kind.DATASET, place.owner) is not None
