"""Commit of a fusion: settle, select, stream-fuse, append to the ledger, settle again.

Each step is one function here; ``docs/protocol.md`` says what a crash after each of them leaves
behind and what recovers it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import (
    ColdFusionError,
    IncompatibleModelError,
    LedgerConflictError,
    NotFoundError,
)
from coldfusion_queue.fusion.coefficients import coefficients
from coldfusion_queue.fusion.methods import make_method
from coldfusion_queue.fusion.stream import ContributionFault, FusionInput, fuse_stream
from coldfusion_queue.records import (
    BaseVersion,
    Contribution,
    Decision,
    FusedContribution,
    LedgerEntry,
    Outcome,
    State,
)
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.selection import Selection, expiry, recently_served, select
from coldfusion_queue.repository.source import ObjectSource
from coldfusion_queue.settings import Settings

__all__ = ["FusionReport", "fuse_once", "settle"]

log = logging.getLogger(__name__)


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


def fuse_once(repository: Repository, settings: Settings) -> FusionReport:
    """Fuse what is pending, if the policy says that it is time.

    Idempotent: nothing counts before the ledger entry is created, and one writer alone creates
    it; after a crash anywhere the next call starts again from the ledger.
    Writes: ``base/<version>-<attempt>/``, ``ledger/<n+1>.json``, ``decision.json`` of what was
    decided; deletes inbox markers.

    Args:
        repository: where.
        settings: chunk size and threads.

    Raises:
        LedgerConflictError: another fuser decided meanwhile; nothing of ours remains.
        StoreUnavailableError: the store failed; nothing of ours counts.
    """
    newest = repository.ledger.newest()
    settle(repository, newest)
    reach(CrashPoint.FUSE_SETTLED)
    inbox = repository.inbox.look()
    policy, base = newest.after.policy, newest.after.base
    served = recently_served(repository.ledger, newest, inbox.pending)
    selection = select(policy, base.version, inbox.pending, repository.store.now(), served)
    if not (selection.is_due or inbox.unreadable):
        return FusionReport(len(inbox.pending), selection.waited_seconds)
    reach(CrashPoint.FUSE_SELECTED)
    entry = _decide(repository, settings, newest, selection, inbox.unreadable)
    try:
        repository.ledger.append(entry)
    except LedgerConflictError:
        reach(CrashPoint.DECIDE_LOST)
        if entry.published is not None:
            repository.base_versions.discard(entry.published.prefix)
        raise
    reach(CrashPoint.DECIDE_APPENDED)
    settle(repository, entry)
    return FusionReport(len(inbox.pending), selection.waited_seconds, entry)


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
    selection: Selection,
    unreadable: Mapping[str, ColdFusionError],
) -> LedgerEntry:
    """Fuse what can be fused and put every decision into one new entry."""
    sequence = newest.sequence + 1
    policy, base = newest.after.policy, newest.after.base
    decisions = [expiry(item, base.version, policy, sequence) for item in selection.expired]
    decisions += [_refusal(name, error, sequence) for name, error in unreadable.items()]
    fusable = list(selection.fusable)
    published: BaseVersion | None = None
    while fusable and published is None:
        try:
            published = _upload_fused(repository, settings, newest, fusable)
        except ContributionFault as fault:
            reach(CrashPoint.FUSE_REFUSED)
            ids = {"event": "contribution_refused", "contribution": fault.contribution_id}
            log.warning("contribution refused: %s", fault.cause, extra=ids)
            fusable = [item for item in fusable if item.contribution_id != fault.contribution_id]
            decisions.append(_refusal(fault.contribution_id, fault.cause, sequence))
    if published is not None:
        decisions += [_fused(line, published.version, sequence) for line in published.fused]
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
    contributions: list[Contribution],
) -> BaseVersion:
    """Stream-fuse contributions into an attempt at the next version.

    Raises:
        ContributionFault: one of them cannot be fused; nothing of the attempt remains.
        LedgerConflictError: one of them is from a version that was published since ``newest`` was
            read.
    """
    policy, base = newest.after.policy, newest.after.base
    opener = _Opener(repository, base)
    origins = [opener.origin(item) for item in contributions]
    if any(origin.version > base.version for origin in origins):
        raise LedgerConflictError(newest.sequence + 1)
    shares = coefficients(policy, base.version, contributions)
    inputs = map(opener.input, contributions, origins, shares)
    model = fuse_stream(
        opener.source(base),
        base.digest,
        list(inputs),
        chunk_bytes=settings.fusion_chunk_bytes,
        read_ahead_bytes=settings.fusion_read_ahead_bytes,
        threads=settings.fusion_threads,
        method=make_method(policy.method, policy.model_dump()),
    )
    lineage = _lineage(base, contributions, shares)
    return repository.base_versions.upload_candidate(base, model, lineage, policy)


class _Opener:
    """Opens contributions and the base versions that they came from, each version once."""

    def __init__(self, repository: Repository, base: BaseVersion) -> None:
        self._repository = repository
        self._base = base
        self._sources: dict[int, ObjectSource] = {}

    def source(self, version: BaseVersion) -> ObjectSource:
        source = self._sources.get(version.version)
        if source is None:
            source = ObjectSource(self._repository.store, version.model)
            self._sources[version.version] = source
        return source

    def origin(self, contribution: Contribution) -> BaseVersion:
        """The published version that a contribution was finetuned from."""
        try:
            return _own_base(self._repository, self._base, contribution)
        except (NotFoundError, IncompatibleModelError) as error:
            raise ContributionFault(contribution.contribution_id, error) from error

    def input(
        self, contribution: Contribution, origin: BaseVersion, coefficient: float
    ) -> FusionInput:
        return FusionInput(
            contribution_id=contribution.contribution_id,
            source=ObjectSource(self._repository.store, contribution.shared),
            digest=contribution.shared.digest,
            form=contribution.form,
            coefficient=coefficient,
            own_base=self.source(origin),
            own_base_digest=origin.digest,
        )


def _own_base(repository: Repository, base: BaseVersion, contribution: Contribution) -> BaseVersion:
    """The published version that a contribution says it was finetuned from."""
    own = base
    if contribution.base_version != base.version:
        own = repository.ledger.base_version(contribution.base_version)
    if own.digest != contribution.base_digest:
        raise IncompatibleModelError(
            f"contribution {contribution.contribution_id}",
            f"the digest of its base version {contribution.base_version}",
            contribution.base_digest,
            own.digest,
            "it was finetuned from parameters that this repository never published",
        )
    return own


def _lineage(
    base: BaseVersion, contributions: Sequence[Contribution], shares: Sequence[float]
) -> Iterator[FusedContribution]:
    pairs = zip(contributions, shares, strict=True)
    for item, share in sorted(pairs, key=lambda pair: pair[0].contribution_id):
        yield FusedContribution(
            contribution_id=item.contribution_id,
            contributor_id=item.contributor_id,
            dataset_id=item.dataset_id,
            base_version=item.base_version,
            staleness=base.version - item.base_version,
            coefficient=share,
        )


def _fused(line: FusedContribution, version: int, sequence: int) -> Decision:
    return Decision(
        contribution_id=line.contribution_id,
        outcome=Outcome.FUSED,
        reason=f"fused into base version {version}",
        sequence=sequence,
        version=version,
        numbers={"staleness": line.staleness, "coefficient": line.coefficient},
    )


def _refusal(contribution_id: str, cause: ColdFusionError, sequence: int) -> Decision:
    return Decision(
        contribution_id=contribution_id,
        outcome=Outcome.REFUSED,
        reason=str(cause),
        sequence=sequence,
        version=None,
    )


def _note(decisions: Sequence[Decision], published: BaseVersion | None) -> str:
    counts = {
        outcome: sum(1 for item in decisions if item.outcome is outcome) for outcome in Outcome
    }
    done = ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number)
    return f"base version {published.version}: {done}" if published else done
