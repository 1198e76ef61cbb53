"""Which pending contributions may be fused: those that can be, and that the policy admits.

Select, inspect what was selected, judge it; whatever is refused gives its place to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from coldfusion_queue.errors import (
    ColdFusionError,
    IncompatibleModelError,
    InvalidRecordError,
    NonFiniteTensorError,
)
from coldfusion_queue.records import (
    Contribution,
    FusedContribution,
    Inspection,
    LedgerEntry,
    Rule,
)
from coldfusion_queue.repository.inbox import InboxContents, PendingContribution
from coldfusion_queue.repository.inspecting import Inspector, find_inspections
from coldfusion_queue.repository.judging import Update, Verdict, judge
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.selection import Selection, recently_served, select

__all__ = [
    "Admission",
    "Admitted",
    "Refusal",
    "admit",
    "recently_fused",
    "refusal",
]

#: Fused contributions that a new one is compared with, the newest ones.
_NUM_RECENT = 64


@dataclass(frozen=True)
class Refusal:
    """Why a contribution may not be fused."""

    rule: Rule
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Admitted:
    """A contribution that may be fused."""

    contribution: Contribution
    inspection: Inspection
    numbers: Mapping[str, float]
    """What its delta is like among the others; see ``judging.Verdict``."""
    override: str | None
    """Why it may although it exceeds a limit, in the operator's words."""


@dataclass(frozen=True)
class Admission:
    """What a look at the inbox leads to."""

    fusable: tuple[Admitted, ...]
    """What to fuse now, in the order in which it was chosen."""
    refused: Mapping[str, Refusal]
    """By contribution id."""
    expired: tuple[Contribution, ...]
    """What is too stale to be fused."""
    waited_seconds: float
    """How long the oldest contribution that can be fused has been pending."""

    @property
    def is_due(self) -> bool:
        """Whether there is something to decide."""
        return bool(self.fusable or self.refused or self.expired)

    def overridden_first(self) -> Admission:
        """The same with what operators let in alone, if there is any; the rest stays pending.

        Fused together with others, it would be these that a gate finds too bad.
        """
        overridden = tuple(item for item in self.fusable if item.override is not None)
        return replace(self, fusable=overridden) if overridden else self


def admit(
    repository: Repository, inspector: Inspector, newest: LedgerEntry, contents: InboxContents
) -> Admission:
    """Find out what may be fused.

    What can never be fused, or is too long whatever the others are, is refused at each look, so
    nobody waits for that. The other limits of the policy compare contributions with each other,
    and so are applied when it is time to fuse.

    Args:
        repository: where.
        inspector: of this repository.
        newest: the newest ledger entry.
        contents: what is pending.

    Raises:
        LedgerConflictError: one comes from a version that was published meanwhile.
        RetryableError: the store failed.
    """
    policy, version = newest.after.policy, newest.after.base.version
    now = repository.store.now()
    served = recently_served(repository.ledger, newest, contents.pending)
    court = _Court(repository, inspector, newest)
    refused = {name: refusal(error) for name, error in contents.unreadable.items()}
    while True:
        left = [
            item for item in contents.pending if item.contribution.contribution_id not in refused
        ]
        selection = select(policy, version, left, now, served)
        faults = inspector.inspect(selection.candidates)
        found = {name: refusal(error) for name, error in faults.items()}
        if not found:
            admitted, found = court.judge(selection, left)
        if not found:
            expired, waited = selection.expired, selection.waited_seconds
            return Admission(tuple(admitted), refused, expired, waited)
        refused |= found


def refusal(error: ColdFusionError) -> Refusal:
    """The refusal of what cannot be fused."""
    rules = {
        InvalidRecordError: Rule.RECORD,
        IncompatibleModelError: Rule.MODEL,
        NonFiniteTensorError: Rule.FINITE,
    }
    return Refusal(rules.get(type(error), Rule.FILE), str(error))


def recently_fused(
    repository: Repository, newest: LedgerEntry, limit: int = _NUM_RECENT
) -> list[Update]:
    """The contributions that were fused last, as far as they were inspected.

    What an operator let in whatever the limits say is no standard for others, and left out.

    Args:
        repository: where.
        newest: its newest ledger entry.
        limit: how many to look for; so many ledger entries are read at most.
    """
    lines: list[FusedContribution] = []
    entry, oldest = newest, max(0, newest.sequence - limit)
    while len(lines) < limit:
        if entry.published is not None:
            lines += [line for line in entry.published.fused if line.override is None]
        if entry.sequence <= oldest:
            break
        entry = repository.ledger.entry(entry.sequence - 1)
    lines = lines[:limit]
    found = find_inspections(repository, [line.contribution_id for line in lines])
    return [
        Update(line.contribution_id, line.contributor_id, found[line.contribution_id])
        for line in lines
        if line.contribution_id in found
    ]


class _Court:
    """Judges contributions; reads what was fused lately when it is asked for the first time."""

    def __init__(self, repository: Repository, inspector: Inspector, newest: LedgerEntry) -> None:
        self._repository = repository
        self._inspector = inspector
        self._newest = newest

    @cached_property
    def _recent(self) -> list[Update]:
        return recently_fused(self._repository, self._newest)

    def judge(
        self, selection: Selection, arrived: Sequence[PendingContribution]
    ) -> tuple[list[Admitted], dict[str, Refusal]]:
        """Judge the candidates.

        Args:
            selection: its candidates were inspected.
            arrived: all pending ones, the oldest arrival first.

        Returns:
            What may be fused now, and why some may not, by id.
        """
        admitted: list[Admitted] = []
        refused: dict[str, Refusal] = {}
        verdicts = self._verdicts(selection, arrived)
        for item in selection.candidates:
            name = item.contribution_id
            verdict, override = verdicts[name], None
            # With a gate it matters for what exceeds no limit too: it is nobody's suspect.
            if verdict.rule is not None or self._newest.after.policy.gate_datasets:
                override = self._repository.contributions.override(name)
            if verdict.rule is not None and override is None:
                refused[name] = Refusal(verdict.rule, verdict.reason, verdict.numbers)
                continue
            reason = override.reason if override else None
            admitted.append(Admitted(item, self._inspector.found[name], verdict.numbers, reason))
        return admitted if selection.is_time else [], refused

    def _verdicts(
        self, selection: Selection, arrived: Sequence[PendingContribution]
    ) -> dict[str, Verdict]:
        chosen = {item.contribution_id for item in selection.candidates}
        candidates = [
            Update(
                item.contribution.contribution_id,
                item.contribution.contributor_id,
                self._inspector.found[item.contribution.contribution_id],
            )
            for item in arrived
            if item.contribution.contribution_id in chosen
        ]
        policy = self._newest.after.policy
        if not candidates:
            return {}
        if selection.is_time:
            return judge(policy, candidates, self._recent)
        verdicts: dict[str, Verdict] = {}
        for update in candidates:  # each alone: who else comes is not known yet
            verdicts |= judge(policy, [update], [])
        return verdicts
