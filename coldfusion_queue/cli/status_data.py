"""What ``coldfusion status`` knows, as plain data: the overview and each submission."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, cast

import redis

from coldfusion_queue.errors import ColdFusionError, InvalidRecordError
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.overview import OverviewReader, RecentHistory
from coldfusion_queue.overview.candidate import CandidateOverview, read_candidate
from coldfusion_queue.overview.names import DatasetNames
from coldfusion_queue.overview.overview import BrokerOverview, Quality, StoreOverview
from coldfusion_queue.overview.stuck import find_stuck
from coldfusion_queue.overview.turns import TurnOverview, read_turns
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.records import LedgerEntry, Outcome
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.submissions import SubmissionStatus
from coldfusion_queue.settings import Settings

__all__ = ["StatusReader"]

log = logging.getLogger(__name__)

#: Submissions that are looked up at a time: each takes a few requests that wait for each other.
_NUM_THREADS = 16


class StatusReader:
    """Gathers the state of a repository again and again, over connections that stay open.

    Args:
        settings: where store and broker are.
        repository: opened already.
        show_all: whether submissions that have ended are wanted too.
    """

    def __init__(self, settings: Settings, repository: Repository, *, show_all: bool) -> None:
        self._repository = repository
        self._show_all = show_all
        self._client = connect_redis(settings)
        self._overview = OverviewReader(settings, RecentHistory())
        self._names = DatasetNames(repository)

    def read(self) -> dict[str, Any]:
        """The state now; what the broker knows is None while it does not answer.

        Raises:
            StoreUnavailableError: the store does not answer.
            AccessDeniedError: it refuses the credentials.
        """
        overview = self._overview.read()
        if overview.store is None:
            raise cast("ColdFusionError", overview.store_error)
        states = self._states()
        turns = self._turns(states) if overview.broker is not None else {}
        self._names.learn([item.submission for item in states], overview.history.recent)
        candidate = read_candidate(self._repository, overview.store)
        return {
            "repository": overview.repository,
            **_of_store(overview.store),
            "candidate": self._candidate(candidate),
            **_of_broker(overview.broker),
            "with_ended": self._show_all,
            "submissions": [_submission(state, turns) for state in states],
            "quality": [self._score(item) for item in overview.history.quality],
            "fusions": [_fusion(entry) for entry in overview.history.recent],
            "stuck": [asdict(item) for item in find_stuck(overview, candidate, turns)],
        }

    def _score(self, item: Quality) -> dict[str, Any]:
        return {
            "dataset": item.dataset_id,
            "name": self._names.name(item.dataset_id),
            "kind": item.kind,
            "score": item.score,
            "base_version": item.base_version,
        }

    def _candidate(self, found: CandidateOverview | None) -> dict[str, Any] | None:
        if found is None:
            return None
        return {
            "version": found.version,
            "since": found.since,
            "probes": found.num_probes,
            "missing": len(found.missing),
            "missing_probes": list(found.missing),
            "missing_on": [self._names.name(item) for item in found.missing_on],
            "failed": list(found.failures),
            "without": found.without,
        }

    def _states(self) -> list[SubmissionStatus]:
        """Submissions that have turns left; with ``show_all`` the others too."""
        store, keys = self._repository.store, self._repository.keys
        if self._show_all:
            folders = store.list(keys.submissions, recursive=False)
            names = [item.key.rstrip("/").rpartition("/")[2] for item in folders]
        else:
            names = [item.key.rpartition("/")[2] for item in store.list(keys.open_submissions)]
        with ThreadPoolExecutor(_NUM_THREADS, "submissions") as threads:
            states = [state for state in threads.map(self._state, names) if state is not None]
        return [item for item in states if self._show_all or item.next_turn is not None]

    def _state(self, name: str) -> SubmissionStatus | None:
        submissions = self._repository.submissions
        try:
            submission = submissions.find(name)
            return None if submission is None else submissions.status(submission)
        except InvalidRecordError as error:  # one bad record must not hide the others
            log.error("submission unreadable: %s", error, extra={"event": "record_unreadable"})
            return None

    def _turns(self, states: Sequence[SubmissionStatus]) -> dict[str, TurnOverview]:
        turns = {
            item.submission.submission_id: item.next_turn or item.committed_turns for item in states
        }
        with suppress(redis.RedisError):  # it answered a moment ago
            return read_turns(self._client, RedisKeys(self._repository.name), turns)
        return {}


def _of_store(store: StoreOverview) -> dict[str, Any]:
    gate = store.gate
    return {
        "base_version": store.base_version,
        "published_at": store.newest.created_at,
        "base_version_age_seconds": store.base_version_age_seconds,
        "ledger_sequence": store.newest.sequence,
        "pending_contributions": store.num_pending,
        "oldest_pending_age_seconds": store.oldest_pending_age_seconds,
        "min_contributions": store.policy.min_contributions,
        "max_wait_seconds": store.policy.max_wait_seconds,
        "open_submissions": store.num_open_submissions,
        "wanted_evaluations": store.num_wanted_evaluations,
        "gate": None if gate is None else {**gate.model_dump(mode="json"), "passed": gate.passed},
    }


def _of_broker(broker: BrokerOverview | None) -> dict[str, Any]:
    if broker is None:
        return dict.fromkeys(("queues", "waiting", "workers", "leases", "stored"))
    return {
        "queues": {item.queue: item.length for item in broker.queues},
        "waiting": [
            {
                "queue": item.queue,
                "site": item.site,
                "waiting": item.length,
                "oldest_age_seconds": item.oldest_age_seconds,
            }
            for item in broker.queues
        ],
        "workers": [
            {
                "queue": item.queue,
                "site": item.site,
                "pool": item.pool,
                "taken": item.taken,
                "workers": list(item.workers),
                "lost_workers": {lost.name: lost.silent_seconds for lost in item.lost_workers},
            }
            for item in broker.pools
        ],
        "leases": [
            {"task": item.task, "name": item.name, "worker": item.worker} for item in broker.leases
        ],
        "stored": None
        if broker.stored is None
        else {
            item.room: {"bytes": item.num_bytes, "objects": item.num_objects}
            for item in broker.stored
        },
    }


def _submission(state: SubmissionStatus, turns: Mapping[str, TurnOverview]) -> dict[str, Any]:
    submission = state.submission
    turn = turns.get(submission.submission_id)
    report = None if turn is None else turn.report
    site_data = submission.site_data
    return {
        "submission": submission.submission_id,
        "state": state.state.value,
        "committed_turns": state.committed_turns,
        "turns": submission.turns,
        "site": submission.site,
        "dataset": submission.dataset_id if site_data is None else site_data.dataset_id,
        "turn_state": turn.state if turn is not None and state.next_turn is not None else None,
        "worker": None if turn is None else turn.worker,
        "is_current": turn is not None and turn.current is not None,
        "progress": None if report is None else report.model_dump(mode="json"),
        "silent_seconds": None if turn is None or report is None else turn.silent_seconds,
        "reason": state.failure.reason if state.failure else None,
    }


def _fusion(entry: LedgerEntry) -> dict[str, Any]:
    outcomes = Counter(decision.outcome for decision in entry.decisions)
    refused = (item for item in entry.decisions if item.outcome is Outcome.REFUSED)
    return {
        "sequence": entry.sequence,
        "created_at": entry.created_at,
        "age_seconds": max(0.0, (datetime.now(UTC) - entry.created_at).total_seconds()),
        "published": None if entry.published is None else entry.published.version,
        "withheld": None if entry.withheld is None else entry.withheld.version,
        "fused": outcomes[Outcome.FUSED],
        "refused": dict(Counter(str(item.rule or "unknown") for item in refused)),
        "expired": outcomes[Outcome.EXPIRED],
        "note": entry.note,
    }
