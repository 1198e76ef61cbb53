"""What no record names: attempts, checkpoints, markers and data that were left behind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.records import Contribution
from coldfusion_queue.repository.committing import SHARED_FILE
from coldfusion_queue.repository.garbage import Garbage, Kind, garbage
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.retention import TOMBSTONE
from coldfusion_queue.repository.survey import Folder, Survey, by_attempt

__all__ = [
    "attempts",
    "base_attempts",
    "candidates",
    "checkpoints",
    "fusions",
    "has_turns_left",
    "head_markers",
    "is_committed",
    "markers",
    "requests",
    "unmarked_contributions",
    "unmarked_submissions",
]

_CONTRIBUTION = "contribution.json"
_SUBMISSION = "submission.json"


def unmarked_contributions(survey: Survey) -> Iterator[Garbage]:
    """Contributions that are committed and undecided, but in no inbox: fusions never see them.

    A worker that slept for longer than the grace, between its marker and its record, leaves one
    when the marker was collected meanwhile. That they are found here is why collecting old
    markers is safe.
    """
    keys = survey.repository.keys
    for name, folder in survey.folders(keys.contributions).items():
        key = keys.inbox_marker(name)
        if _CONTRIBUTION not in folder or survey.is_decided(name) or survey.exists(key):
            continue
        reason = "committed and undecided, but its marker is gone; no fusion would find it"
        written_at = folder[_CONTRIBUTION].last_modified
        yield Garbage(Kind.UNMARKED_CONTRIBUTION, name, (key,), 0, written_at, reason)


def unmarked_submissions(survey: Survey) -> Iterator[Garbage]:
    """Submissions with turns left that are not marked as open: nobody would send their turns.

    They come about as unmarked contributions do. Younger ones than the grace are looked at only,
    so that finished ones are not read for ever; a collection has to run once in this time.
    """
    keys = survey.repository.keys
    for name, folder in survey.folders(keys.submissions).items():
        key = keys.open_submission(name)
        if set(folder) != {_SUBMISSION} or survey.exists(key):
            continue
        record = folder[_SUBMISSION]
        if not survey.is_old([record]) and has_turns_left(survey.repository, name):
            reason = "it has turns left, but its marker is gone; nobody would send them"
            at = record.last_modified
            yield Garbage(Kind.UNMARKED_SUBMISSION, name, (key,), 0, at, reason)


def has_turns_left(repository: Repository, submission_id: str) -> bool:
    """Whether a worker has something to do for a submission at this moment."""
    try:
        submission = repository.submissions.find(submission_id)
    except InvalidRecordError:
        return False
    if submission is None or submission.kind != "finetune":
        return False
    return repository.submissions.status(submission).next_turn is not None


def attempts(survey: Survey) -> Iterator[Garbage]:
    """Files of finetunes that did not commit them.

    What is committed is read only where the names do not tell: a contribution with a record and
    one folder of files has no other attempt, unless the committed one's files were collected.
    """
    for name, folder in survey.folders(survey.repository.keys.contributions).items():
        found = by_attempt(folder)
        record: Contribution | None = None
        if _CONTRIBUTION in folder:
            record = survey.contribution(name) if _may_be_two(folder, len(found)) else None
            if record is None:
                continue
        for attempt, files in found.items():
            keys = [item.key for item in files]
            if survey.is_old(files) and not (record and is_committed(record, attempt, keys)):
                reason = "nobody committed it, " if record is None else "another was committed, "
                reason += "and it is older than the grace"
                yield garbage(Kind.ATTEMPT, f"{name}/{attempt}", files, reason)


def is_committed(record: Contribution, attempt: str, keys: Iterable[str]) -> bool:
    """Whether an attempt is the one that a contribution's record names."""
    named = {file.key for file in (record.shared, record.head) if file is not None}
    return attempt == record.attempt or not named.isdisjoint(keys)


def _may_be_two(folder: Folder, num_attempts: int) -> bool:
    # Of a collected contribution the head is left; anything else may be another attempt's.
    is_collected = TOMBSTONE in folder
    has_weights = any(path.endswith(f"/{SHARED_FILE}") for path in folder)
    return num_attempts > 1 or (is_collected and has_weights)


def checkpoints(survey: Survey) -> Iterator[Garbage]:
    """Checkpoints of turns that are over, or that were not recorded."""
    keys = survey.repository.keys
    for name, folder in survey.folders(keys.all_checkpoints).items():
        is_over = survey.exists(keys.contribution(name))
        ending = _ending(survey, name.rpartition(".t")[0])
        for attempt, files in by_attempt(folder).items():
            is_recorded = survey.exists(keys.checkpoint(name, attempt))
            if is_over:
                reason = "its turn is committed"
            elif not survey.is_old(files):
                continue
            elif ending is not None:
                reason = f"its submission {ending}"
            elif not is_recorded:
                reason = "it was never recorded, and is older than the grace"
            else:
                continue
            yield garbage(Kind.CHECKPOINT, f"{name}/{attempt}", files, reason)


def _ending(survey: Survey, submission_id: str) -> str | None:
    keys = survey.repository.keys
    if survey.exists(keys.failure(submission_id)):
        return "failed"
    if survey.exists(keys.cancellation(submission_id)):
        return "was cancelled"
    return None if survey.exists(keys.submission(submission_id)) else "does not exist"


def markers(survey: Survey) -> Iterator[Garbage]:
    """Markers whose contribution or submission did not come.

    A contribution that comes later all the same is found by ``unmarked_contributions``, a
    submission by ``unmarked_submissions``.
    """
    keys = survey.repository.keys
    for name, marker in survey.folders(keys.inbox).items():
        # Whoever uploads now will want the marker in a moment.
        uploaded = survey.folders(keys.contributions).get(name, {})
        seen = [*marker.values(), *uploaded.values()]
        if _CONTRIBUTION not in uploaded and survey.is_old(seen):
            reason = "its contribution was not committed within the grace"
            yield garbage(Kind.MARKER, name, marker.values(), reason)
    for name, marker in survey.folders(keys.open_submissions).items():
        if not survey.exists(keys.submission(name)) and survey.is_old(marker.values()):
            reason = "its submission was not recorded within the grace"
            yield garbage(Kind.MARKER, name, marker.values(), reason)


def head_markers(survey: Survey) -> Iterator[Garbage]:
    """Markers of heads older than the newest of their contributor and dataset; no grace is needed.

    Whoever listed them and reads what they name finds it: heads are not collected.
    """
    keys = survey.repository.keys
    for contributor, folder in survey.folders(keys.all_heads).items():
        for task, found in by_attempt(folder).items():
            *older, _ = sorted(found, key=lambda item: item.key)
            if older:
                reason = "a newer head of this contributor and dataset is marked"
                yield garbage(Kind.HEAD_MARKER, f"{contributor}/{task}", older, reason)


def base_attempts(survey: Survey) -> Iterator[Garbage]:
    """Attempts at base versions that were not published.

    A version's only folder is the published one, so the ledger is read only where there are two.
    An attempt at a version to come may yet be published, see ``Kind.CANDIDATE``.
    """
    found: defaultdict[int, dict[str, Folder]] = defaultdict(dict)
    bases = survey.repository.keys.bases
    for name, folder in survey.folders(bases).items():
        number = name.partition("-")[0]
        if number.isdecimal():
            found[int(number)][f"{bases}{name}/"] = folder
    waiting = _waiting_for_the_gate(survey)
    for version, folders in found.items():
        is_open = version > survey.version
        published = survey.published(version).prefix if len(folders) > 1 and not is_open else None
        for prefix, folder in folders.items():
            if (is_open and waiting) or not survey.is_old(folder.values()):
                continue
            if is_open:
                reason = "its fusion ended without a ledger entry"
                yield garbage(Kind.CANDIDATE, prefix, folder.values(), reason)
            elif published is not None and prefix != published:
                reason = f"another attempt became base version {version}"
                yield garbage(Kind.BASE_ATTEMPT, prefix, folder.values(), reason)


def _waiting_for_the_gate(survey: Survey) -> set[str]:
    """Prefixes of candidates for the next ledger entry; they may wait for longer than the grace.

    While there are some, no other attempt at this version is collected: the entry that has to go
    before would void the candidate.
    """
    sequence = survey.newest.sequence + 1
    if not survey.exists(survey.repository.keys.candidate(sequence)):
        return set()
    try:
        candidate = survey.repository.candidates.find(sequence)
    except InvalidRecordError:
        return set()
    return {model.prefix for model in candidate.models} if candidate else set()


def candidates(survey: Survey) -> Iterator[Garbage]:
    """Records of candidates for ledger entries that exist; their files are attempts."""
    keys = survey.repository.keys
    for name, folder in survey.folders(keys.candidates).items():
        number = name.removesuffix(".json")
        if number.isdecimal() and int(number) <= survey.newest.sequence:
            reason = f"ledger entry {int(number)} was written, with it or in its place"
            yield garbage(Kind.VOID_CANDIDATE, name, folder.values(), reason)


def requests(survey: Survey) -> Iterator[Garbage]:
    """Requests for evaluations that are recorded."""
    keys = survey.repository.keys
    for name, folder in survey.folders(keys.wanted).items():
        if name.count(".") >= 3 and survey.exists(keys.evaluation(name.removesuffix(".json"))):
            yield garbage(Kind.REQUEST, name, folder.values(), "the evaluation is recorded")


def fusions(survey: Survey) -> Iterator[Garbage]:
    """What fusions that were shared left behind: their worker died, or a helper came late."""
    for name, folder in survey.folders(survey.repository.keys.fusions).items():
        if survey.is_old(folder.values()):
            reason = "its fusion is over, or stands still for longer than the grace"
            yield garbage(Kind.FUSION, name, folder.values(), reason)
