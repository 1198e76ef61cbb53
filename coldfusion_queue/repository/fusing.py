"""Commit of a fusion: settle, admit, stream-fuse, append to the ledger, settle again.

Each step is one function here; ``docs/protocol.md`` says what a crash after each of them leaves
behind and what recovers it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import LedgerConflictError
from coldfusion_queue.fusion.coefficients import coefficients
from coldfusion_queue.fusion.methods import make_method
from coldfusion_queue.fusion.stream import ContributionFault
from coldfusion_queue.records import (
    BaseVersion,
    Decision,
    FusedContribution,
    FusedFile,
    FusionPlan,
    LedgerEntry,
    Outcome,
    Policy,
    State,
)
from coldfusion_queue.repository.admission import Admission, Admitted, Refusal, admit, refusal
from coldfusion_queue.repository.fusion_job import Alone, Crew, FusionJob, run_job
from coldfusion_queue.repository.inspecting import Inspector
from coldfusion_queue.repository.momentum import damage_told
from coldfusion_queue.repository.opening import Opener
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.selection import expiry
from coldfusion_queue.settings import Settings

__all__ = ["FusionReport", "fuse_once", "settle"]

log = logging.getLogger(__name__)

_ALONE = Alone()


@dataclass(frozen=True)
class FusionReport:
    """What one look at the inbox led to."""

    num_pending: int
    """Contributions that were pending when it looked."""
    waited_seconds: float
    """How long the oldest of them had been."""
    entry: LedgerEntry | None = None
    """The ledger entry that was appended; None if there was nothing to decide."""

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

    Idempotent: nothing counts before the ledger entry is created, and one writer alone creates
    it; after a crash anywhere the next call starts again from the ledger.
    Writes: ``inspections/<id>.json``, ``base/<version>-<attempt>/``, ``ledger/<n+1>.json``,
    ``decision.json`` of what was decided; deletes inbox markers.

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
    kept, newest = newest.after.policy, _under(newest, changes or {})
    inbox = repository.inbox.look()
    opener = Opener(repository, newest)
    inspector = Inspector(repository, settings, opener, newest.after.base)
    admission = admit(repository, inspector, newest, inbox)
    if not admission.is_due:
        return FusionReport(len(inbox.pending), admission.waited_seconds)
    reach(CrashPoint.FUSE_SELECTED)
    entry = _decide(repository, settings, newest, opener, admission, crew)
    if changes:
        note = ", ".join(f"{name}={value}" for name, value in changes.items())
        after = entry.after.model_copy(update={"policy": kept})
        entry = entry.model_copy(update={"after": after, "note": f"{entry.note}; by {note}"})
    try:
        repository.ledger.append(entry)
    except LedgerConflictError:
        reach(CrashPoint.DECIDE_LOST)
        if entry.published is not None:
            repository.base_versions.discard(entry.published.prefix)
        raise
    reach(CrashPoint.DECIDE_APPENDED)
    settle(repository, entry)
    return FusionReport(len(inbox.pending), admission.waited_seconds, entry)


def _under(newest: LedgerEntry, changes: Mapping[str, Any]) -> LedgerEntry:
    """The newest entry as if it had set another policy."""
    policy = Policy.model_validate({**newest.after.policy.model_dump(), **changes})
    return newest.model_copy(update={"after": newest.after.model_copy(update={"policy": policy})})


def settle(repository: Repository, entry: LedgerEntry) -> None:
    """Write the missing ``decision.json`` of all that an entry decided, then delete the markers.

    Every fuser settles the newest entry before it appends the next, so all older entries are
    settled. Idempotent.
    """
    for decision in entry.decisions:
        key = repository.keys.decision(decision.contribution_id)
        repository.store.create(key, decision.to_bytes())
        reach(CrashPoint.SETTLE_DECISION)
    reach(CrashPoint.SETTLE_DECISIONS)
    repository.inbox.remove([decision.contribution_id for decision in entry.decisions])
    reach(CrashPoint.SETTLE_UNMARKED)


def _decide(
    repository: Repository,
    settings: Settings,
    newest: LedgerEntry,
    opener: Opener,
    admission: Admission,
    crew: Crew,
) -> LedgerEntry:
    """Fuse what is admitted and put every decision into one new entry."""
    sequence = newest.sequence + 1
    policy, base = newest.after.policy, newest.after.base
    refused = dict(admission.refused)
    fusable = {item.contribution.contribution_id: item for item in admission.fusable}
    published: BaseVersion | None = None
    while fusable and published is None:
        try:
            admitted = list(fusable.values())
            published = _upload_fused(repository, settings, newest, opener, admitted, crew)
        except ContributionFault as fault:  # it is not any more what was inspected
            reach(CrashPoint.FUSE_REFUSED)
            del fusable[fault.contribution_id]
            refused[fault.contribution_id] = refusal(fault.cause)
    decisions = [expiry(item, base.version, policy, sequence) for item in admission.expired]
    decisions += [_refused(name, item, sequence) for name, item in refused.items()]
    if published is not None:
        decisions += [
            _fused(line, published.version, sequence, fusable[line.contribution_id].numbers)
            for line in published.fused
        ]
    return repository.new_entry(
        sequence,
        State(base=published or base, policy=policy),
        published=published,
        note=_note(decisions, published),
        decisions=tuple(sorted(decisions, key=lambda item: item.contribution_id)),
    )


def _upload_fused(
    repository: Repository,
    settings: Settings,
    newest: LedgerEntry,
    opener: Opener,
    admitted: Sequence[Admitted],
    crew: Crew,
) -> BaseVersion:
    """Stream-fuse contributions into an attempt at the next version.

    Raises:
        ContributionFault: one of them cannot be fused; nothing of the attempt remains.
    """
    policy, base = newest.after.policy, newest.after.base
    shares = coefficients(policy, base.version, [item.contribution for item in admitted])
    inputs = [
        opener.inspected(item.contribution, item.inspection, share)
        for item, share in zip(admitted, shares, strict=True)
    ]
    method = make_method(policy.method, policy.model_dump())

    def fuse(prefix: str) -> Sequence[FusedFile]:
        plan = FusionPlan(
            sequence=newest.sequence,
            prefix=prefix,
            coefficients={item.contribution_id: item.coefficient for item in inputs},
            method=policy.method,
            method_options=asdict(method),
        )
        return run_job(FusionJob(repository, settings, plan, base, opener, inputs), crew)

    lineage = _lineage(base, admitted, shares)
    with damage_told(base):
        return repository.base_versions.upload_candidate(base, fuse, lineage, policy, method)


def _lineage(
    base: BaseVersion, admitted: Sequence[Admitted], shares: Sequence[float]
) -> list[FusedContribution]:
    lines = [
        FusedContribution(
            contribution_id=item.contribution.contribution_id,
            contributor_id=item.contribution.contributor_id,
            dataset_id=item.contribution.dataset_id,
            base_version=item.contribution.base_version,
            staleness=base.version - item.contribution.base_version,
            coefficient=share,
            override=item.override,
        )
        for item, share in zip(admitted, shares, strict=True)
    ]
    return sorted(lines, key=lambda line: line.contribution_id)


def _fused(
    line: FusedContribution, version: int, sequence: int, numbers: Mapping[str, float]
) -> Decision:
    reason = f"fused into base version {version}"
    if line.override is not None:
        reason += f", although it exceeds a limit: {line.override}"
    return Decision(
        contribution_id=line.contribution_id,
        outcome=Outcome.FUSED,
        reason=reason,
        sequence=sequence,
        version=version,
        numbers={**numbers, "staleness": line.staleness, "coefficient": line.coefficient},
    )


def _refused(contribution_id: str, refusal: Refusal, sequence: int) -> Decision:
    ids = {"event": "contribution_refused", "contribution": contribution_id}
    log.warning("contribution refused: %s", refusal.reason, extra=ids)
    return Decision(
        contribution_id=contribution_id,
        outcome=Outcome.REFUSED,
        reason=refusal.reason,
        rule=refusal.rule,
        sequence=sequence,
        version=None,
        numbers=refusal.numbers,
    )


def _note(decisions: Sequence[Decision], published: BaseVersion | None) -> str:
    counts = {
        outcome: sum(1 for item in decisions if item.outcome is outcome) for outcome in Outcome
    }
    done = ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number)
    return f"base version {published.version}: {done}" if published else done
