"""Records of the repository as a whole: what it is, and what was decided in it."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from coldfusion_queue.records.base_versions import BaseVersion, ModelIdentity
from coldfusion_queue.records.contributions import Decision
from coldfusion_queue.records.gate import GateReport, Trial
from coldfusion_queue.records.policy import Policy
from coldfusion_queue.records.record import Record

__all__ = ["FORMAT_VERSION", "Candidate", "LedgerEntry", "RepositoryRecord", "State"]

#: Version of the layout and the records; a repository of another version is refused.
FORMAT_VERSION = 1


class RepositoryRecord(Record):
    """Written by ``init``; says what this repository is."""

    format_version: int
    name: str
    identity: ModelIdentity
    created_at: datetime
    created_by: str


class State(Record):
    """What holds after a ledger entry: the fold of the ledger up to it."""

    base: BaseVersion
    policy: Policy
    gate: GateReport | None = None
    """What the gate found of ``base``; None if it was published without."""
    trial: Trial | None = None
    """A batch that was withheld and is being tried; nothing else is fused meanwhile."""


class LedgerEntry(Record):
    """Commit point of every decision. Entry n + 1 is created by a reader of entry n."""

    sequence: int = Field(ge=0)
    token: str
    """Unique per writer, so that a lost answer can be told from a lost race."""
    created_at: datetime
    actor: str
    """Host and process that wrote it, and its program version."""
    published: BaseVersion | None
    """Base version that this entry publishes."""
    decisions: tuple[Decision, ...]
    policy: Policy | None
    """New policy, when this entry changes it."""
    gate: GateReport | None = None
    """What the gate found of what is published or withheld."""
    withheld: BaseVersion | None = None
    """Fused model that the gate did not let pass; its files are deleted."""
    note: str
    after: State
    """The state from here on, so that a reader needs the newest entry alone."""


class Candidate(Record):
    """A fused model that waits for the gate."""

    entry: LedgerEntry
    """What is appended if it passes, but for what the gate found."""
    suspects: tuple[str, ...]
    """Contributions of it that may be at fault if it does not pass; see ``Trial.suspects``."""
    suspect: str | None
    """Contribution of the batch that was left out to see whether it is at fault."""
    without: LedgerEntry | None = None
    """The same entry, had the first suspect been left out; with ``gate_leave_out``."""

    @property
    def models(self) -> tuple[BaseVersion, ...]:
        """The fused models that wait: one, or with and without the first suspect."""
        entries = (self.entry, self.without)
        return tuple(each.published for each in entries if each and each.published)
