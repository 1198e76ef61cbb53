"""What the policy no longer retains: weights of decided contributions, old base versions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.records import Checkpoint, Collection, Contribution
from coldfusion_queue.repository.base_versions import LINEAGE_FILE
from coldfusion_queue.repository.committing import HEAD_FILE, SHARED_FILE
from coldfusion_queue.repository.garbage import Garbage, Kind, garbage
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.survey import Folder, Survey

__all__ = [
    "TOMBSTONE",
    "base_versions",
    "named_versions",
    "unfinished",
    "versions_in_use",
    "weights",
]

log = logging.getLogger(__name__)

#: Name of a ``Collection`` record within the folder whose files it names.
TOMBSTONE = "collected.json"


def unfinished(survey: Survey) -> Iterator[Garbage]:
    """Files that are recorded as collected and still there: a collection broke off.

    The record is final: whoever meets it takes the files for deleted, so they are, whatever may
    need them by now.
    """
    keys = survey.repository.keys
    for prefix in (keys.contributions, keys.bases):
        for name, folder in survey.folders(prefix).items():
            if TOMBSTONE not in folder or not _has_files(folder):
                continue
            record = _collection(survey, folder[TOMBSTONE].key)
            left = [item for item in folder.values() if record and item.key in record.keys]
            if record and left:
                reason = f"recorded as collected, but still there: {record.reason}"
                subject = name if prefix == keys.contributions else f"{prefix}{name}/"
                yield garbage(Kind.UNFINISHED, subject, left, reason)


def weights(survey: Survey) -> Iterator[Garbage]:
    """Shared parameters of contributions that were decided versions ago.

    Reads the records of those alone whose weights are still there.
    """
    limit = survey.policy.retain_contributions
    if limit is None or survey.version <= limit:
        return
    for name, folder in survey.folders(survey.repository.keys.contributions).items():
        decision = folder.get("decision.json")
        has_weights = any(path.endswith(f"/{SHARED_FILE}") for path in folder)
        if decision is None or TOMBSTONE in folder or not has_weights:
            continue
        if not survey.is_old([decision]):
            continue
        contribution = survey.contribution(name)
        version = _decided_at(survey, name)
        if contribution is None or version is None or survey.version - version <= limit:
            continue
        yield from _weights(survey, contribution, folder, version)


def _weights(
    survey: Survey, contribution: Contribution, folder: Folder, version: int
) -> Iterator[Garbage]:
    shared = [item for item in folder.values() if item.key == contribution.shared.key]
    name = contribution.contribution_id
    reason = (
        f"decided at base version {version}, the newest is {survey.version} and the policy "
        f"retains {survey.policy.retain_contributions} more"
    )
    tombstone = survey.repository.keys.contribution_collection(name)
    if shared:
        yield garbage(Kind.WEIGHTS, name, shared, reason, tombstone=tombstone)


def base_versions(survey: Survey, doomed_checkpoints: frozenset[str]) -> Iterator[Garbage]:
    """Files of base versions that no rollback and no contribution will ask for.

    Each version has files of its own, so none of these is another version's too.

    Args:
        survey: what there is.
        doomed_checkpoints: keys of records that are collected too, and so need no version.
    """
    retain = survey.policy.retain_base_versions
    # Version 0 is the pretrained model: what every later one is compared with.
    last = 0 if retain is None else survey.version - retain
    old = [version for version in sorted(_with_files(survey)) if 0 < version <= last]
    if not old:
        return
    needed = _needed(survey, doomed_checkpoints)
    for version in old:
        if version not in needed and _was_superseded_long_ago(survey, version):
            yield from _base_version(survey, version)


def versions_in_use(repository: Repository) -> set[int]:
    """Base versions that open submissions, checkpoints and undecided contributions name now.

    Checkpoints first: a turn that commits deletes its own after its contribution is recorded, so
    one that commits in between is seen as a contribution.
    """
    store, keys = repository.store, repository.keys
    checkpoints = [item.key for item in store.list(keys.all_checkpoints)]
    found = named_versions(repository, checkpoints, ())
    opened = [item.key.rpartition("/")[2] for item in store.list(keys.open_submissions)]
    found |= _begun_from(repository, opened)
    markers = [item.key.rpartition("/")[2] for item in store.list(keys.inbox)]
    return found | named_versions(repository, (), markers)


def named_versions(
    repository: Repository, checkpoints: Iterable[str], contributions: Iterable[str]
) -> set[int]:
    """Base versions that some records name.

    A record that is not there, or that cannot be read, names none: nobody can go on from it.

    Args:
        repository: where.
        checkpoints: keys; those of tensors are passed over.
        contributions: ids.
    """
    found = set()
    for key in checkpoints:
        data = repository.store.find(key) if key.endswith(".json") else None
        try:
            if data is not None:
                found.add(Checkpoint.from_bytes(data, key).base_version)
        except InvalidRecordError:
            continue
    for name in contributions:
        try:
            contribution = repository.contributions.find(name)
        except InvalidRecordError:  # the next fusion refuses it
            continue
        if contribution is not None:
            found.add(contribution.base_version)
    return found


def _needed(survey: Survey, doomed_checkpoints: frozenset[str]) -> set[int]:
    keys = survey.repository.keys
    checkpoints = [
        item.key
        for folder in survey.folders(keys.all_checkpoints).values()
        for item in folder.values()
        if item.key not in doomed_checkpoints
    ]
    undecided = [
        name
        for name, folder in survey.folders(keys.contributions).items()
        if "contribution.json" in folder and not survey.is_decided(name)
    ]
    found = named_versions(survey.repository, checkpoints, undecided)
    return found | _begun_from(survey.repository, survey.folders(keys.open_submissions))


def _begun_from(repository: Repository, submission_ids: Iterable[str]) -> set[int]:
    """Base versions that submissions name to begin their turns from."""
    found = set()
    for name in submission_ids:
        try:
            submission = repository.submissions.find(name)
        except InvalidRecordError:
            continue
        if submission is not None and submission.base_version is not None:
            found.add(submission.base_version)
    return found


def _with_files(survey: Survey) -> set[int]:
    found = set()
    for name, folder in survey.folders(survey.repository.keys.bases).items():
        number = name.partition("-")[0]
        if number.isdecimal() and TOMBSTONE not in folder:
            found.add(int(number))
    return found


def _was_superseded_long_ago(survey: Survey, version: int) -> bool:
    # Finetunes that began while it was the newest may still run, and commit.
    sequence = survey.publisher(version + 1).sequence
    entry = survey.objects.get(survey.repository.keys.ledger(sequence))
    return entry is not None and survey.is_old([entry])


def _base_version(survey: Survey, version: int) -> Iterator[Garbage]:
    base = survey.published(version)
    keys = survey.repository.keys
    folder = survey.folders(keys.bases).get(base.prefix.removeprefix(keys.bases).rstrip("/"), {})
    named = {file.key for file in base.objects}
    files = [item for item in folder.values() if item.key in named]
    reason = (
        f"the newest base version is {survey.version}, the policy retains "
        f"{survey.policy.retain_base_versions}, and nothing pending was finetuned from it"
    )
    if files and TOMBSTONE not in folder:
        tombstone = keys.base_collection(base.prefix)
        yield garbage(Kind.BASE_VERSION, base.prefix, files, reason, tombstone=tombstone)


def _decided_at(survey: Survey, contribution_id: str) -> int | None:
    """Base version after the entry that decided a contribution; None if the ledger denies it."""
    try:
        decision = survey.repository.contributions.decision(contribution_id)
    except InvalidRecordError:
        return None
    if decision is None or decision.sequence > survey.newest.sequence:
        return None
    entry = survey.entry(decision.sequence)
    is_there = any(item.contribution_id == contribution_id for item in entry.decisions)
    return entry.after.base.version if is_there else None


def _collection(survey: Survey, key: str) -> Collection | None:
    try:
        return Collection.from_bytes(survey.repository.store.get(key), key)
    except InvalidRecordError as error:  # it is kept as it is, and what it names too
        log.warning("passed over: %s", error, extra={"event": "record_unreadable"})
        return None


def _has_files(folder: Folder) -> bool:
    # A head stays for ever, and tells nothing about whether its contribution's collection ended.
    kept = {TOMBSTONE, LINEAGE_FILE, "contribution.json", "decision.json"}
    return any(path not in kept and not path.endswith(f"/{HEAD_FILE}") for path in folder)
