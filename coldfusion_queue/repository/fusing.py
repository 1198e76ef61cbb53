"""Commit of a fusion: settle, admit, stream-fuse, ask the gate, append to the ledger, settle again.

Each step is one function here; ``docs/protocol.md`` says what a crash after each of them leaves
behind and what recovers it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import LedgerConflictError
from coldfusion_queue.records import (
    BaseVersion,
    Candidate,
    Decision,
    EvaluationRequest,
    LedgerEntry,
    Policy,
)
from coldfusion_queue.repository.admission import Admission, admit
from coldfusion_queue.repository.deciding import decide
from coldfusion_queue.repository.fusion_job import Alone, Crew
from coldfusion_queue.repository.gating import Gate
from coldfusion_queue.repository.inspecting import Inspector
from coldfusion_queue.repository.opening import Opener
from coldfusion_queue.repository.readmission import readmit
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.rolling_back import roll_back_regression
from coldfusion_queue.repository.settling import settle
from coldfusion_queue.repository.trials import conclude, next_suspect, tried_without
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
            ones; the entry's note names them.
        crew: who does the work; the result is the same to the bit.

    Raises:
        LedgerConflictError: another fuser decided meanwhile; nothing of ours remains.
        StoreUnavailableError: the store failed; nothing of ours counts.
    """
    newest = repository.ledger.newest()
    settle(repository, newest)
    reach(CrashPoint.FUSE_SETTLED)
    candidate = repository.candidates.find(newest.sequence + 1)
    if candidate is not None:
        return _judge(repository, newest, candidate)
    look = _Look(repository, settings, newest, changes or {})
    if not look.is_due:
        look.gate.ask_for_reference()
        return look.report()
    regression = look.gate.regression()
    if regression is not None:
        return look.report(roll_back_regression(repository, *regression))
    reach(CrashPoint.FUSE_SELECTED)
    entry = look.decide(crew)
    if entry.published is None or not look.is_gated:
        _append(repository, entry, [entry.published] if entry.published else [])
        return look.report(entry)
    candidate = Candidate(
        entry=entry,
        suspects=look.suspects,
        suspect=look.suspect,
        without=look.decide_without_first_suspect(crew),
    )
    if not repository.candidates.create(candidate):
        _discard(repository, candidate.models)
        raise LedgerConflictError(entry.sequence)
    reach(CrashPoint.GATE_CANDIDATE)
    return _judge(repository, newest, candidate)


class _Look:
    """One look at what is to be fused: the inbox, or the batch that is being tried."""

    def __init__(
        self,
        repository: Repository,
        settings: Settings,
        newest: LedgerEntry,
        changes: Mapping[str, Any],
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._kept = newest.after.policy
        self._changes = changes
        gate = Gate(repository, newest)
        self._newest = newest = _under(newest, changes)
        self._opener = Opener(repository, newest)
        self.gate = gate
        self.suspect: str | None = None
        """What is left out to see whether it is at fault."""
        self.num_pending = 0
        inspector = Inspector(repository, settings, self._opener, newest.after.base)
        trial = newest.after.trial
        if trial is None:
            inbox = repository.inbox.look()
            self.num_pending = len(inbox.pending)
            self.admission: Admission = admit(repository, inspector, newest, inbox)
        else:
            self.suspect = next_suspect(trial, newest.after.policy)
            names = tried_without(trial, self.suspect)
            self.num_pending = len(names)
            self.admission = readmit(repository, inspector, newest, names)

    @property
    def is_due(self) -> bool:
        """Whether there is something to decide; a trial is never left standing."""
        return self.admission.is_due or self.suspect is not None

    @property
    def is_gated(self) -> bool:
        """Whether what is fused needs the gate; changes can do without it, not set another one."""
        return self.gate.is_set and bool(self._newest.after.policy.gate_datasets)

    @property
    def suspects(self) -> tuple[str, ...]:
        """What may be at fault, the one that agrees least with the others first."""
        items = [item for item in self.admission.fusable if item.override is None]
        items.sort(key=lambda item: item.agreement)
        return tuple(item.contribution.contribution_id for item in items)

    def decide_without_first_suspect(self, crew: Crew) -> LedgerEntry | None:
        """The same without the first suspect, if the policy wants it and others are left."""
        fusable = self.admission.fusable
        is_wanted = self._kept.gate_leave_out and self.suspect is None
        if not is_wanted or len(fusable) < 2 or not self.suspects:
            return None
        first = self.suspects[0]
        left = tuple(item for item in fusable if item.contribution.contribution_id != first)
        return self.decide(crew, replace(self.admission, fusable=left))

    def decide(self, crew: Crew, admission: Admission | None = None) -> LedgerEntry:
        """Fuse, and put every decision into an entry that is to be appended."""
        admission = admission or self.admission
        entry = decide(
            *(self._repository, self._settings, self._newest, self._opener, admission, crew)
        )
        if self._changes:
            note = ", ".join(f"{name}={value}" for name, value in self._changes.items())
            after = entry.after.model_copy(update={"policy": self._kept})
            update = {"after": after, "note": f"{entry.note}; by {note}"}
            entry = entry.model_copy(update=update)
        return entry

    def report(self, entry: LedgerEntry | None = None) -> FusionReport:
        """What this look led to."""
        waited = self.admission.waited_seconds
        return FusionReport(self.num_pending, waited, entry, wanted=self.gate.wanted)


def _judge(repository: Repository, newest: LedgerEntry, candidate: Candidate) -> FusionReport:
    """Publish or withhold a candidate, if all of its probes are in."""
    gate = Gate(repository, newest)
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
    repository.candidates.drop(entry.sequence)
    _discard(repository, candidate.models, but=entry.published)
    reach(CrashPoint.GATE_CLEANED)
    return FusionReport(0, 0.0, entry)


def _append(repository: Repository, entry: LedgerEntry, models: Sequence[BaseVersion]) -> None:
    """Append an entry and settle it; when it comes too late, delete what it would publish."""
    try:
        repository.ledger.append(entry)
    except LedgerConflictError:
        reach(CrashPoint.DECIDE_LOST)
        _discard(repository, models, but=repository.ledger.entry(entry.sequence).published)
        raise
    reach(CrashPoint.DECIDE_APPENDED)
    settle(repository, entry)


def _discard(
    repository: Repository, models: Sequence[BaseVersion], but: BaseVersion | None = None
) -> None:
    """Delete fused models that will not be published."""
    for model in models:
        if but is None or model.prefix != but.prefix:
            repository.base_versions.discard(model.prefix)


def _under(newest: LedgerEntry, changes: Mapping[str, Any]) -> LedgerEntry:
    """The newest entry as if it had set another policy."""
    policy = Policy.model_validate({**newest.after.policy.model_dump(), **changes})
    return newest.model_copy(update={"after": newest.after.model_copy(update={"policy": policy})})
