"""What looks stuck, with the command to run next: the alerts that can be told from one look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from coldfusion_queue.overview.candidate import CandidateOverview
from coldfusion_queue.overview.durations import duration_text
from coldfusion_queue.overview.overview import BrokerOverview, Overview, StoreOverview
from coldfusion_queue.overview.thresholds import (
    CANDIDATE_SECONDS,
    NO_FUSION_SECONDS,
    PENDING_FACTOR,
    PENDING_SECONDS,
    REFUSED_AT_LEAST,
    REFUSED_SECONDS,
    REFUSED_SHARE,
    SILENT_TURN_SECONDS,
    UNSERVED_SECONDS,
)
from coldfusion_queue.overview.turns import TurnOverview
from coldfusion_queue.queue.app import FUSION_QUEUE
from coldfusion_queue.records import LedgerEntry, Outcome

__all__ = ["Finding", "find_stuck"]

_DOCTOR = "coldfusion doctor"


@dataclass(frozen=True)
class Finding:
    """Something that may not go on by itself."""

    alert: str | None
    """The alert rule that tells it too, see ``docs/runbook.md``; None if it is too early for one,
    or if there is none."""
    text: str
    command: str
    """What to run next."""


def find_stuck(
    overview: Overview, candidate: CandidateOverview | None, turns: Mapping[str, TurnOverview]
) -> list[Finding]:
    """What is stuck, what alerts tell too before what they do not.

    Args:
        overview: as read; of a half that is missing nothing is said but that.
        candidate: what waits for the gate.
        turns: next turns, by submission.
    """
    found: list[Finding] = []
    store, broker = overview.store, overview.broker
    if overview.broker_error is not None:
        found.append(Finding("ColdFusionUnreachable", str(overview.broker_error), _DOCTOR))
    if candidate is not None:
        found += _candidate(candidate)
    elif store is not None:
        found += _pending(store, broker)
    found += _refusals(overview.history.recent)
    if broker is not None:
        found += [*_lost_workers(broker), *_unserved(broker)]
    return sorted([*found, *_silent_turns(turns)], key=lambda item: item.alert is None)


def _candidate(candidate: CandidateOverview) -> Iterator[Finding]:
    """Nothing is fused while a fused model waits for the gate."""
    waits = (datetime.now(UTC) - candidate.since).total_seconds()
    if waits <= CANDIDATE_SECONDS and not candidate.failures:
        return
    text = f"base version {candidate.version} has waited for the gate for {duration_text(waits)}"
    alert = "ColdFusionCandidateStuck" if waits > CANDIDATE_SECONDS else None
    again = " --again" if candidate.failures else ""
    yield Finding(alert, text, f"coldfusion evaluate --gate{again}")


def _pending(store: StoreOverview, broker: BrokerOverview | None) -> Iterator[Finding]:
    """A fusion that is due and does not come, or what others leave no room for."""
    policy, oldest = store.policy, store.oldest_pending_age_seconds
    if store.num_pending == 0:
        return
    is_enough = store.num_pending >= policy.min_contributions
    is_due = is_enough or oldest > policy.max_wait_seconds
    due = oldest if is_enough else oldest - policy.max_wait_seconds
    still = (datetime.now(UTC) - store.newest.created_at).total_seconds()
    text = f"{store.num_pending} pending, the oldest for {duration_text(oldest)}"
    if min(due, still) > NO_FUSION_SECONDS:
        text = f"no fusion although one is due: {text}"
        yield Finding("ColdFusionNoFusion", text, "coldfusion fuse")
    elif oldest > PENDING_FACTOR * policy.max_wait_seconds + PENDING_SECONDS:
        yield Finding("ColdFusionPendingTooOld", text, "coldfusion history")
    # If messages wait in its queue, that is told of the queue.
    is_served = broker is None or _num_workers(broker, FUSION_QUEUE) or _waits(broker, FUSION_QUEUE)
    if is_due and not is_served:
        yield Finding(None, "a fusion is due, and no fusion worker is there", _DOCTOR)


def _refusals(recent: tuple[LedgerEntry, ...]) -> Iterator[Finding]:
    """Of the last entries alone, so that older refusals of these hours are not seen."""
    now = datetime.now(UTC)
    young = [item for item in recent if (now - item.created_at).total_seconds() < REFUSED_SECONDS]
    outcomes = [decision.outcome for entry in young for decision in entry.decisions]
    refused = sum(outcome is not Outcome.FUSED for outcome in outcomes)
    if refused >= REFUSED_AT_LEAST and refused > REFUSED_SHARE * len(outcomes):
        text = f"{refused} of {len(outcomes)} contributions were refused or expired lately"
        yield Finding("ColdFusionRefusalsRising", text, "coldfusion history")


def _lost_workers(broker: BrokerOverview) -> Iterator[Finding]:
    for pool in broker.pools:
        where = f"{pool.queue}, pool {pool.pool}" if pool.pool else pool.queue
        for worker in pool.lost_workers:
            ago = duration_text(worker.silent_seconds)
            text = f"worker {worker.name} of {where} fell silent {ago} ago"
            yield Finding("ColdFusionWorkerLost", text, _DOCTOR)


def _unserved(broker: BrokerOverview) -> Iterator[Finding]:
    """Messages that nobody takes; a pool that is scaled to zero starts a worker within minutes."""
    for queue in broker.queues:
        if queue.length and not _num_workers(broker, queue.queue):
            is_old = queue.oldest_age_seconds > UNSERVED_SECONDS
            ago = duration_text(queue.oldest_age_seconds)
            text = f"{queue.length} wait in {queue.queue} for {ago}, and no worker is there"
            alert = "ColdFusionQueueGrowing" if is_old else None
            # From here only a worker of that site can be told to be missing, not why.
            start = f"COLDFUSION_SITE={queue.site} python -m workers.finetune_worker"
            yield Finding(alert, text, start if queue.site else _DOCTOR)


def _num_workers(broker: BrokerOverview, queue: str) -> int:
    return sum(len(pool.workers) for pool in broker.pools if pool.queue == queue)


def _waits(broker: BrokerOverview, queue: str) -> bool:
    return any(item.length for item in broker.queues if item.queue == queue)


def _silent_turns(turns: Mapping[str, TurnOverview]) -> Iterator[Finding]:
    for name, turn in turns.items():
        if turn.is_training and turn.silent_seconds > SILENT_TURN_SECONDS:
            silent = duration_text(turn.silent_seconds)
            text = f"{name} trains on {turn.worker} and has reported nothing for {silent}"
            yield Finding(None, text, f"coldfusion show {name}")
