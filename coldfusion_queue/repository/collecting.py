"""Collecting garbage: what may go is planned first, then it goes, item by item.

Each item is looked at again right before it is deleted, and may be deleted again after a crash.
``docs/protocol.md`` says what a crash after each step leaves behind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import InvalidRecordError, LedgerConflictError, NotFoundError
from coldfusion_queue.names import actor
from coldfusion_queue.records import Collection
from coldfusion_queue.repository import orphans, retention, unnamed
from coldfusion_queue.repository.garbage import Garbage, Kind, Plan
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.settling import settle
from coldfusion_queue.repository.survey import Survey
from coldfusion_queue.repository.volumes import Volumes

__all__ = ["collect", "collect_garbage", "plan", "settled_plan"]

log = logging.getLogger(__name__)

#: What a listing may lag behind, when it is asked what came since the plan was made.
_LISTING_LAG = timedelta(seconds=60)


def plan(repository: Repository, grace_seconds: float) -> Plan:
    """Find out what may go; nothing is written.

    Cost: one listing of everything, and the records of what may go by its name and age. What was
    collected before is not read again.

    Args:
        repository: where.
        grace_seconds: age at which what no record names is garbage, and for how long finetunes
            may run on a base version after it was superseded.
    """
    survey = Survey.take(repository, grace_seconds)
    items = list(_orphans(survey))
    doomed = {key for item in items if item.kind is Kind.CHECKPOINT for key in item.keys}
    items += retention.base_versions(survey, frozenset(doomed))
    order = list(Kind)
    items.sort(key=lambda item: (order.index(item.kind), item.subject))
    volumes = Volumes.of(survey.objects.values())
    return Plan(tuple(items), survey.newest.sequence, survey.now, volumes)


def collect_garbage(repository: Repository, grace_seconds: float) -> tuple[Garbage, ...]:
    """Plan and collect, as ``coldfusion gc`` and the periodic task do.

    Idempotent: a collection that broke off is gone on with by the next.
    Writes: ``decision.json`` of what the newest ledger entry decided, ``collected.json``, missing
    markers, perhaps an empty ledger entry; deletes what was planned.

    Args:
        repository: where.
        grace_seconds: see ``plan``; ``settings.gc_grace_seconds`` but for tests and people who
            know that nothing runs.

    Returns:
        What was collected.

    Raises:
        StoreUnavailableError: the store failed; the next collection goes on.
    """
    return collect(repository, settled_plan(repository, grace_seconds))


def settled_plan(repository: Repository, grace_seconds: float) -> Plan:
    """Plan what is to be collected at once.

    Idempotent: see ``collect_garbage``.
    Writes: ``decision.json`` of what the newest ledger entry decided.
    """
    settle(repository, repository.ledger.newest())
    found = plan(repository, grace_seconds)
    reach(CrashPoint.GC_PLANNED)
    return found


def collect(repository: Repository, found: Plan) -> tuple[Garbage, ...]:
    """Do what was planned, but for what is no garbage any more.

    Returns:
        What was collected.
    """
    collector = _Collector(repository, found)
    return tuple(item for item in found.items if collector.collect(item))


def _orphans(survey: Survey) -> Iterator[Garbage]:
    yield from orphans.unmarked_contributions(survey)
    yield from orphans.unmarked_submissions(survey)
    yield from retention.unfinished(survey)
    yield from orphans.attempts(survey)
    yield from orphans.checkpoints(survey)
    yield from orphans.markers(survey)
    yield from orphans.head_markers(survey)
    yield from orphans.base_attempts(survey)
    yield from orphans.candidates(survey)
    yield from orphans.requests(survey)
    yield from orphans.fusions(survey)
    yield from unnamed.datasets(survey)
    yield from retention.weights(survey)


class _Collector:
    """Collects the items of one plan."""

    def __init__(self, repository: Repository, found: Plan) -> None:
        self._repository = repository
        self._store = repository.store
        self._keys = repository.keys
        self._plan = found
        self._is_fenced: bool | None = None
        self._is_still: dict[Kind, Callable[[Garbage], bool]] = {
            Kind.UNMARKED_CONTRIBUTION: self._is_undecided,
            Kind.UNMARKED_SUBMISSION: self._has_turns_left,
            Kind.ATTEMPT: self._is_uncommitted,
            Kind.MARKER: self._is_alone,
            Kind.CANDIDATE: self._cannot_be_published,
            Kind.DATASET: self._is_unnamed,
            Kind.BASE_VERSION: self._is_unused,
        }

    def collect(self, item: Garbage) -> bool:
        """Deal with one item; False if it is no garbage any more."""
        is_still = self._is_still.get(item.kind)
        if is_still is not None and not is_still(item):
            return False
        if item.kind.is_repair:
            for key in item.keys:
                self._store.create(key, b"")
            reach(CrashPoint.GC_MARKED)
        else:
            self._delete(item)
        ids = {"event": "garbage_collected", "kind": item.kind.value, "subject": item.subject}
        log.info("%s: %s", item.subject, item.reason, extra=ids)
        return True

    def _delete(self, item: Garbage) -> None:
        if item.tombstone is not None:
            # One that is there already is another collection's, and names the same files.
            self._store.create(item.tombstone, _record(item).to_bytes())
            reach(CrashPoint.GC_RECORDED)
        # Records first, so that none names what is gone.
        for part in (True, False):
            with suppress(NotFoundError):
                self._store.delete(key for key in item.keys if key.endswith(".json") is part)
        reach(CrashPoint.GC_DELETED)

    def _is_undecided(self, item: Garbage) -> bool:
        # Its decision is recorded before its marker is deleted: without one, none was.
        return self._store.stat(self._keys.decision(item.subject)) is None

    def _has_turns_left(self, item: Garbage) -> bool:
        return orphans.has_turns_left(self._repository, item.subject)

    def _is_uncommitted(self, item: Garbage) -> bool:
        # A worker that slept since its upload may have committed meanwhile.
        name, _, attempt = item.subject.partition("/")
        try:
            record = self._repository.contributions.find(name)
        except InvalidRecordError:
            return False
        return record is None or not orphans.is_committed(record, attempt, item.keys)

    def _is_alone(self, item: Garbage) -> bool:
        is_inbox = item.keys[0].startswith(self._keys.inbox)
        record = self._keys.contribution if is_inbox else self._keys.submission
        return self._store.stat(record(item.subject)) is None

    def _is_unnamed(self, item: Garbage) -> bool:
        # The same data may be handed in right now: under the same keys, because its id follows
        # from its content.
        prefix = f"{self._keys.datasets}{item.subject}/"
        there = list(self._store.list(prefix))
        if any(found.last_modified > item.written_at for found in there):
            return False
        return not any(self._may_name(name, item.subject) for name in self._recent_submissions())

    def _recent_submissions(self) -> set[str]:
        # Those that the plan's listing may not have shown, and those that are to be recorded next.
        since = self._plan.made_at - _LISTING_LAG
        recorded = {
            found.key.split("/")[-2]: found.last_modified
            for found in self._store.list(self._keys.submissions)
            if found.key.endswith("/submission.json")
        }
        markers = self._store.list(self._keys.open_submissions)
        marked = {found.key.rpartition("/")[2] for found in markers}
        recent = {name for name, time in recorded.items() if time >= since}
        return recent | (marked - recorded.keys())

    def _may_name(self, submission_id: str, dataset_id: str) -> bool:
        try:
            submission = self._repository.submissions.find(submission_id)
        except InvalidRecordError:
            return True
        return submission is None or submission.dataset_id == dataset_id

    def _is_unused(self, item: Garbage) -> bool:
        version = int(item.subject.removeprefix(self._keys.bases).partition("-")[0])
        return version not in retention.versions_in_use(self._repository)

    def _cannot_be_published(self, item: Garbage) -> bool:
        """Make sure of it that an attempt at a version to come is never published.

        Its fuser may sleep, and append its entry later: a published version without files. No age
        is great enough for that to be impossible. But an entry of ours under the next sequence
        number makes it so: whoever uploaded what the plan lists had read an entry before it, and
        loses. If another writer was first, the next collection looks again.
        """
        if self._is_fenced is None:
            self._is_fenced = _fence(self._repository, self._plan.sequence)
        return self._is_fenced


def _fence(repository: Repository, sequence: int) -> bool:
    newest = repository.ledger.newest()
    if newest.sequence != sequence:
        return False
    settle(repository, newest)  # before every append, see docs/protocol.md
    note = f"attempts at base version {newest.after.base.version + 1} are collected as garbage"
    try:
        repository.ledger.append(repository.new_entry(sequence + 1, newest.after, note=note))
    except LedgerConflictError:
        return False
    reach(CrashPoint.GC_RECORDED)
    return True


def _record(item: Garbage) -> Collection:
    return Collection(
        keys=item.keys, reason=item.reason, created_at=datetime.now(UTC), created_by=actor()
    )
