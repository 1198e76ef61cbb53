"""Commit of a fusion: settle, admit, stream-fuse, ask the gate, append to the ledger, settle again.

Each step is one function here; ``docs/protocol.md`` says what a crash after each of them leaves
behind and what recovers it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import LedgerConflictError
from coldfusion_queue.records import (
    BaseVersion,
    Candidate,
    Decision,
    EvaluationRequest,
    LedgerEntry,
)
from coldfusion_queue.repository.fusion_job import Alone, Crew
from coldfusion_queue.repository.gating import Gate
from coldfusion_queue.repository.looking import Look
from coldfusion_queue.repository.meter import FusionMeter, Phase
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.rolling_back import roll_back_regression
from coldfusion_queue.repository.settling import settle
from coldfusion_queue.repository.trials import conclude
from coldfusion_queue.settings import Settings

__all__ = ["FusionReport", "fuse_once"]

_ALONE = Alone()


@dataclass(frozen=True)
class FusionReport:
    """What one look at the inbox led to."""

    num_pending: int
    """Contributions that were pending when it looked; 0 if it looked at a candidate instead."""
    waited_seconds: float
    """How long the oldest of them had been."""
    entry: LedgerEntry | None = None
    """The ledger entry that was appended; None if there was nothing to decide."""
    candidate: Candidate | None = None
    """What waits for the gate."""
    wanted: Sequence[EvaluationRequest] = ()
    """Evaluations that the gate waits for; somebody has to send them, or ``reconcile`` does."""

    @property
    def decisions(self) -> Sequence[Decision]:
        """What the entry decided."""
        return self.entry.decisions if self.entry else ()


def fuse_once(
    repository: Repository,
    settings: Settings,
    changes: Mapping[str, Any] | None = None,
    crew: Crew = _ALONE,
    meter: FusionMeter | None = None,
) -> FusionReport:
    """Fuse what is pending, if the policy says that it is time.

    With a gate the fused model is a candidate first: this call records it and asks for its
    probes, and a later one publishes or withholds it. While there is a candidate, or a batch that
    was withheld is tried, nothing else is fused.

    Idempotent: nothing counts before the ledger entry is created, and one writer alone creates
    it; after a crash anywhere the next call starts again from the ledger.
    Writes: ``inspections/<id>.json``, ``base/<version>-<attempt>/``, ``candidates/<n+1>.json``,
    ``wanted/<evaluation_id>.json``, ``ledger/<n+1>.json``, ``decision.json`` of what was decided;
    deletes inbox markers, and files of what was withheld.

    Args:
        repository: where.
        settings: chunk size and threads.
        changes: fields of the policy and the values that they have for this fusion alone, valid
            ones; the entry's note names them. ``gate_datasets`` can only be empty: it is published
            without the gate, in the place of a candidate that waits.
        crew: who does the work; the result is the same to the bit.
        meter: made for this fusion.

    Raises:
        LedgerConflictError: another fuser decided meanwhile; nothing of ours remains.
        StoreUnavailableError: the store failed; nothing of ours counts.
    """
    meter = meter or FusionMeter()
    newest = repository.ledger.newest()
    settle(repository, newest)
    reach(CrashPoint.FUSE_SETTLED)
    candidate = repository.candidates.find(newest.sequence + 1)
    is_gateless = "gate_datasets" in (changes or {})
    if candidate is not None and not is_gateless:
        return _judge(repository, newest, candidate)
    look = Look(repository, settings, newest, changes or {}, meter)
    if not look.is_due:
        look.gate.ask_for_reference()
        return _report(look)
    regression = None if is_gateless else look.gate.regression()
    if regression is not None:
        return _report(look, roll_back_regression(repository, newest, *regression))
    reach(CrashPoint.FUSE_SELECTED)
    meter.begin()
    entry = look.decide(crew)
    if entry.published is None or is_gateless or not look.gate.is_set:
        meter.enter(Phase.PUBLISH)
        _append(repository, entry, [entry.published] if entry.published else [])
        if candidate is not None:
            _clean(repository, candidate, but=entry.published)
        return _report(look, entry)
    made = look.candidate(entry, crew)
    meter.enter(Phase.PUBLISH)
    if not repository.candidates.create(made):
        repository.base_versions.discard_all(made.models)
        raise LedgerConflictError(entry.sequence)
    reach(CrashPoint.GATE_CANDIDATE)
    return _judge(repository, newest, made)


def _report(look: Look, entry: LedgerEntry | None = None) -> FusionReport:
    waited = look.admission.waited_seconds
    return FusionReport(look.num_pending, waited, entry, wanted=look.gate.wanted)


def _judge(repository: Repository, newest: LedgerEntry, candidate: Candidate) -> FusionReport:
    """Publish or withhold a candidate, if all of its probes are in."""
    gate = Gate(repository, newest)
    regression = gate.regression()
    if regression is not None:  # it was fused into what is taken back
        entry = roll_back_regression(repository, newest, *regression)
        _clean(repository, candidate)
        return FusionReport(0, 0.0, entry)
    reports = [gate.judge(model) for model in candidate.models]
    found = [report for report in reports if report is not None]
    if len(found) < len(reports):
        return FusionReport(0, 0.0, candidate=candidate, wanted=gate.wanted)
    entry = conclude(newest, candidate, *found)
    try:
        _append(repository, entry, candidate.models)
    except LedgerConflictError:
        repository.candidates.drop(entry.sequence)
        raise
    reach(CrashPoint.GATE_JUDGED)
    _clean(repository, candidate, but=entry.published)
    reach(CrashPoint.GATE_CLEANED)
    return FusionReport(0, 0.0, entry)


def _clean(repository: Repository, candidate: Candidate, but: BaseVersion | None = None) -> None:
    """Delete a candidate that was judged or made void, and the models that are not published."""
    repository.candidates.drop(candidate.entry.sequence)
    repository.base_versions.discard_all(candidate.models, but=but)


def _append(repository: Repository, entry: LedgerEntry, models: Sequence[BaseVersion]) -> None:
    """Append an entry and settle it; when it comes too late, delete what it would publish."""
    try:
        repository.ledger.append(entry)
    except LedgerConflictError:
        reach(CrashPoint.DECIDE_LOST)
        repository.base_versions.discard_all(
            models, but=repository.ledger.entry(entry.sequence).published
        )
        raise
    reach(CrashPoint.DECIDE_APPENDED)
    settle(repository, entry)
