"""Contributions: records, the base versions they started from, markers, collected files."""

from __future__ import annotations

from collections.abc import Iterator

from coldfusion_queue.audit.findings import Check, Finding
from coldfusion_queue.audit.history import History, model_digest
from coldfusion_queue.audit.layout import Kind, Place, contribution_parts
from coldfusion_queue.audit.snapshot import Snapshot, StoredObject
from coldfusion_queue.records import Contribution

__all__ = ["check_contributions"]


def check_contributions(snapshot: Snapshot, history: History) -> Iterator[Finding]:
    """Check every contribution that was committed or decided; ``files`` checks its files."""
    for item in snapshot.of(Kind.CONTRIBUTION):
        contribution = snapshot.find(Contribution, Kind.CONTRIBUTION, item.place.owner)
        if contribution is not None:
            yield from _check_record(snapshot, item, contribution)
            yield from _check_base(history, item.place.owner, contribution)
        elif item.key in snapshot.unreadable and not history.is_refused(item.place.owner):
            problem = f"not a contribution: {snapshot.unreadable[item.key]}"
            yield Finding(Check.CONTRIBUTIONS_RECORD, item.key, problem)
        yield from _check_marker(snapshot, history, item.place.owner)
    for name in history.decisions:
        if snapshot.key(Kind.CONTRIBUTION, name) is None:
            problem = "decided, but there is no contribution.json"
            yield Finding(Check.CONTRIBUTIONS_MISSING, name, problem)
    for item in snapshot.of(Kind.COLLECTION):
        yield from _check_collected(snapshot, history, item)


def _check_record(
    snapshot: Snapshot, item: StoredObject, contribution: Contribution
) -> Iterator[Finding]:
    name = item.place.owner
    parts = (contribution.submission_id, contribution.turn)
    if contribution.contribution_id != name or contribution_parts(name) != parts:
        problem = (
            f"it is {contribution.contribution_id}, turn {contribution.turn} of submission "
            f"{contribution.submission_id}, expected {name}, as in its key"
        )
        yield Finding(Check.CONTRIBUTIONS_RECORD, item.key, problem)
    files = {"shared.safetensors": contribution.shared, "head.safetensors": contribution.head}
    for file_name, file in files.items():
        expected = Place(Kind.CONTRIBUTION_FILE, name, contribution.attempt, file_name)
        if file is not None and snapshot.place(file.key) != expected:
            problem = f"{file.key} is no {file_name} of attempt {contribution.attempt}"
            yield Finding(Check.CONTRIBUTIONS_RECORD, item.key, problem)


def _check_base(history: History, name: str, contribution: Contribution) -> Iterator[Finding]:
    if history.is_pending(name) or history.is_refused(name):
        return  # a wrong base version is what it is, or will be, refused for
    base = history.versions.get(contribution.base_version)
    published = model_digest(base) if base else None
    if published != contribution.base_digest:
        problem = (
            f"finetuned from version {contribution.base_version} with digest "
            f"{contribution.base_digest}, published was {published}"
        )
        yield Finding(Check.CONTRIBUTIONS_BASE, name, problem)


def _check_marker(snapshot: Snapshot, history: History, name: str) -> Iterator[Finding]:
    if history.is_pending(name) and snapshot.key(Kind.INBOX, name) is None:
        problem = "committed and undecided without a marker in the inbox: no fusion would find it"
        yield Finding(Check.CONTRIBUTIONS_MARKER, name, problem)


def _check_collected(snapshot: Snapshot, history: History, item: StoredObject) -> Iterator[Finding]:
    name = item.place.owner
    if item.key in snapshot.unreadable:
        problem = f"not a collection: {snapshot.unreadable[item.key]}"
        yield Finding(Check.CONTRIBUTIONS_COLLECTED, item.key, problem)
    if history.is_pending(name):
        problem = "its files were collected before it was decided"
        yield Finding(Check.CONTRIBUTIONS_COLLECTED, item.key, problem)
    for key in snapshot.collected(Kind.COLLECTION, name):
        place = snapshot.place(key)
        if place.kind is not Kind.CONTRIBUTION_FILE or place.owner != name:
            problem = f"it names {key}, which is no file of contribution {name}"
            yield Finding(Check.CONTRIBUTIONS_COLLECTED, item.key, problem)
