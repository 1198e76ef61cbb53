"""Submissions and datasets: records, turns in order, markers of what is open."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from coldfusion_queue.audit.findings import Check, Finding
from coldfusion_queue.audit.layout import Kind, contribution_parts
from coldfusion_queue.audit.snapshot import Snapshot, StoredObject
from coldfusion_queue.records import Cancellation, DatasetRecord, Failure, Submission

__all__ = ["check_submissions"]


def check_submissions(snapshot: Snapshot) -> Iterator[Finding]:
    """Check submissions, how they ended, their turns and their datasets."""
    turns = _turns(snapshot)
    for submission_id, committed in turns.items():
        missing = set(range(1, max(committed))) - committed
        if missing:
            problem = f"turn {max(committed)} is committed, but turn {min(missing)} is not"
            yield Finding(Check.SUBMISSIONS_GAP, submission_id, problem)
    for item in snapshot.of(Kind.SUBMISSION):
        submission = snapshot.find(Submission, Kind.SUBMISSION, item.place.owner)
        if submission is None or submission.submission_id != item.place.owner:
            yield from _bad_record(snapshot, item, submission)
        else:
            yield from _check_submission(snapshot, submission, turns.get(item.place.owner, set()))
    for item in snapshot.of(Kind.CANCELLATION, Kind.FAILURE):
        yield from _check_end(snapshot, item)
    for item in snapshot.of(Kind.DATASET):
        yield from _check_dataset(snapshot, item)


def _turns(snapshot: Snapshot) -> Mapping[str, set[int]]:
    turns = defaultdict(set)
    for item in snapshot.of(Kind.CONTRIBUTION):
        parts = contribution_parts(item.place.owner)
        if parts is not None:
            turns[parts[0]].add(parts[1])
    return turns


def _bad_record(
    snapshot: Snapshot, item: StoredObject, submission: Submission | None
) -> Iterator[Finding]:
    if submission is not None:
        problem = f"it is submission {submission.submission_id}, expected {item.place.owner}"
        yield Finding(Check.SUBMISSIONS_RECORD, item.key, problem)
    elif item.key in snapshot.unreadable:
        problem = f"not a submission: {snapshot.unreadable[item.key]}"
        yield Finding(Check.SUBMISSIONS_RECORD, item.key, problem)


def _check_submission(
    snapshot: Snapshot, submission: Submission, turns: set[int]
) -> Iterator[Finding]:
    name = submission.submission_id
    if submission.turns is not None and max(turns, default=0) > submission.turns:
        problem = f"turn {max(turns)} is committed, expected at most {submission.turns}"
        yield Finding(Check.SUBMISSIONS_TURNS, name, problem)
    dataset_id = submission.dataset_id
    if dataset_id is not None and snapshot.key(Kind.DATASET, dataset_id) is None:
        problem = f"its dataset {dataset_id} has no record"
        yield Finding(Check.SUBMISSIONS_DATASET, name, problem)
    if submission.kind == "finetune" and (dataset_id is None) == (submission.site_data is None):
        problem = "it names both a dataset and private data, or neither"
        yield Finding(Check.SUBMISSIONS_DATASET, name, problem)
    if _is_open(snapshot, submission, turns) and snapshot.key(Kind.OPEN, name) is None:
        problem = f"{len(turns)} of {submission.turns or 'unlimited'} turns are committed, and "
        problem += "there is no marker in open/: nobody would send the next"
        yield Finding(Check.SUBMISSIONS_OPEN, name, problem)


def _is_open(snapshot: Snapshot, submission: Submission, turns: set[int]) -> bool:
    is_ended = any(
        snapshot.key(kind, submission.submission_id) for kind in (Kind.CANCELLATION, Kind.FAILURE)
    )
    is_complete = submission.turns is not None and len(turns) >= submission.turns
    # A recycled one has no turn that a worker could run.
    return submission.kind == "finetune" and not is_ended and not is_complete


def _check_end(snapshot: Snapshot, item: StoredObject) -> Iterator[Finding]:
    owner = item.place.owner
    record: Cancellation | Failure | None = snapshot.find(Cancellation, Kind.CANCELLATION, owner)
    if item.place.kind is Kind.FAILURE:
        record = snapshot.find(Failure, Kind.FAILURE, owner)
    if item.key in snapshot.unreadable:
        problem = f"not the end of a submission: {snapshot.unreadable[item.key]}"
        yield Finding(Check.SUBMISSIONS_END, item.key, problem)
    elif record is not None and record.submission_id != owner:
        problem = f"it ends submission {record.submission_id}, expected {owner}"
        yield Finding(Check.SUBMISSIONS_END, item.key, problem)
    if snapshot.key(Kind.SUBMISSION, owner) is None:
        problem = "it ends a submission that has no record"
        yield Finding(Check.SUBMISSIONS_END, item.key, problem)


def _check_dataset(snapshot: Snapshot, item: StoredObject) -> Iterator[Finding]:
    owner = item.place.owner
    dataset = snapshot.find(DatasetRecord, Kind.DATASET, owner)
    if item.key in snapshot.unreadable:
        problem = f"not a dataset: {snapshot.unreadable[item.key]}"
        yield Finding(Check.DATASETS_RECORD, item.key, problem)
    if dataset is None:
        return
    if dataset.dataset_id != owner:
        problem = f"it is dataset {dataset.dataset_id}, expected {owner}"
        yield Finding(Check.DATASETS_RECORD, item.key, problem)
    for split in dataset.splits.values():
        place = snapshot.place(split.file.key)
        if place.kind is not Kind.DATASET_FILE or place.owner != owner:
            problem = f"{split.file.key} is no file of dataset {owner}"
            yield Finding(Check.DATASETS_RECORD, item.key, problem)
