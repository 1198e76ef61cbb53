"""What becomes of a batch: the fused model, and an entry with every decision about it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from coldfusion_queue.crash_points import CrashPoint, reach
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
    State,
)
from coldfusion_queue.repository.admission import Admission, Admitted, Refusal, refusal
from coldfusion_queue.repository.fusion_job import Crew, FusionJob, run_job
from coldfusion_queue.repository.meter import Phase
from coldfusion_queue.repository.momentum import damage_told
from coldfusion_queue.repository.opening import Opener
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.selection import expiry, served_of_late
from coldfusion_queue.settings import Settings
from coldfusion_queue.tracing import span

__all__ = ["decide"]

log = logging.getLogger(__name__)


def decide(
    repository: Repository,
    settings: Settings,
    newest: LedgerEntry,
    opener: Opener,
    admission: Admission,
    crew: Crew,
) -> LedgerEntry:
    """Fuse what is admitted and put every decision into one new entry, which is not appended.

    Writes: ``base/<version>-<attempt>/``, if anything is left to fuse.

    Args:
        repository: where.
        settings: chunk size and threads.
        newest: the newest ledger entry; its policy is followed.
        opener: opens contributions and base versions, and has the fusion's meter.
        admission: what to fuse, and what not.
        crew: who does the work.

    Raises:
        LedgerConflictError: another fuser decided meanwhile; nothing of ours remains.
        StoreUnavailableError: the store failed; nothing of ours remains.
    """
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
    unchanged = newest.after.model_copy(update={"trial": None})
    return repository.new_entry(
        sequence,
        State(base=published, policy=policy) if published else unchanged,
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
    contributions = [item.contribution for item in admitted]
    served = served_of_late(repository.ledger, newest)
    shares = coefficients(policy, base.version, contributions, served)
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
        with opener.meter.during(Phase.READ):
            job = FusionJob(repository, settings, plan, base, opener, inputs)
        return run_job(job, crew)

    lineage = _lineage(base, admitted, shares)
    came_from = [item.traceparent for item in contributions]
    traced = span("fuse", links=came_from, sequence=newest.sequence + 1)
    with damage_told(base), traced, opener.meter.during(Phase.WRITE):
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
