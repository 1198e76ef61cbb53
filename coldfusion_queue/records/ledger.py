"""Records of the repository as a whole: what it is, and what was decided in it."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from coldfusion_queue.records.base_versions import BaseVersion, ModelIdentity
from coldfusion_queue.records.contributions import Decision
from coldfusion_queue.records.policy import Policy
from coldfusion_queue.records.record import Record

__all__ = ["FORMAT_VERSION", "LedgerEntry", "RepositoryRecord", "State"]

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
    note: str
    after: State
    """The state from here on, so that a reader needs the newest entry alone."""
