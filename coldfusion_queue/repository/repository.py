"""One repository: the objects below one prefix of the bucket."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Self

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import (
    AlreadyExistsError,
    IncompatibleModelError,
    LedgerConflictError,
    NotFoundError,
)
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.names import actor, new_attempt
from coldfusion_queue.records import (
    FORMAT_VERSION,
    BaseVersion,
    Decision,
    LedgerEntry,
    ModelIdentity,
    Policy,
    RepositoryRecord,
    State,
)
from coldfusion_queue.repository.base_versions import BaseVersions
from coldfusion_queue.repository.candidates import Candidates
from coldfusion_queue.repository.checkpoints import Checkpoints
from coldfusion_queue.repository.committing import Contributions
from coldfusion_queue.repository.evaluations import Evaluations
from coldfusion_queue.repository.heads import Heads
from coldfusion_queue.repository.inbox import Inbox
from coldfusion_queue.repository.ledger import Ledger
from coldfusion_queue.repository.submissions import Submissions
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store

__all__ = ["Repository"]


class Repository:
    """The rooms of one repository; holds no state of its own but the ledger's hint."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self.keys = ObjectKeys(name)
        self.ledger = Ledger(store, self.keys)
        self.submissions = Submissions(store, self.keys)
        self.contributions = Contributions(store, self.keys)
        self.checkpoints = Checkpoints(store, self.keys)
        self.heads = Heads(store, self.keys, self.contributions)
        self.inbox = Inbox(store, self.keys, self.contributions)
        self.base_versions = BaseVersions(store, self.keys)
        self.candidates = Candidates(store, self.keys)
        self.evaluations = Evaluations(store, self.keys)

    @classmethod
    def open(
        cls, settings: Settings, *, name: str | None = None, attempts: int | None = None
    ) -> Self:
        """Open a repository that exists.

        Args:
            settings: where the store is; names the repository.
            name: another repository of the same bucket.
            attempts: overrides ``s3_max_attempts``.

        Raises:
            NotFoundError: there is no such bucket or repository.
            IncompatibleModelError: the repository has another format version.
        """
        repository = cls(Store.open(settings, attempts), name or settings.repository)
        repository.record()
        return repository

    def record(self) -> RepositoryRecord:
        """What this repository is.

        Raises:
            NotFoundError: it was never initialised.
            IncompatibleModelError: it has another format version.
        """
        key = self.keys.repository_record
        data = self.store.find(key)
        if data is None:
            remedy = "run 'coldfusion init --base MODEL' once, or set COLDFUSION_REPOSITORY"
            raise NotFoundError("repository", self.name, remedy)
        record = RepositoryRecord.from_bytes(data, key)
        if record.format_version != FORMAT_VERSION:
            raise IncompatibleModelError(
                f"repository {self.name}",
                "its format version",
                str(record.format_version),
                str(FORMAT_VERSION),
                "use a program version that knows it",
            )
        return record

    def initialise(self, identity: ModelIdentity, base: BaseVersion, policy: Policy) -> None:
        """Create the repository: ledger entry 0 publishes the pretrained model, then the record.

        ``repository.json`` comes last, because it is what everybody looks for. A crash in between
        leaves an entry 0, which the next ``init`` finds and goes on from.

        Args:
            identity: what contributions must fit.
            base: base version 0, already uploaded.
            policy: the first policy.

        Raises:
            AlreadyExistsError: the repository exists; nothing of it was changed.
        """
        reach(CrashPoint.INIT_UPLOADED)
        remedy = "choose another COLDFUSION_REPOSITORY"
        if self.store.stat(self.keys.repository_record) is not None:
            self.base_versions.discard(base.prefix)
            raise AlreadyExistsError("repository", self.name, remedy)
        entry = self.new_entry(
            0, State(base=base, policy=policy), note="init", published=base, policy=policy
        )
        record = RepositoryRecord(
            format_version=FORMAT_VERSION,
            name=self.name,
            identity=identity,
            created_at=entry.created_at,
            created_by=entry.actor,
        )
        try:
            self.ledger.append(entry)
        except LedgerConflictError:
            self._take_over(base, policy)
        reach(CrashPoint.INIT_APPENDED)
        if not self.store.create(self.keys.repository_record, record.to_bytes()):
            raise AlreadyExistsError("repository", self.name, remedy)

    def new_entry(
        self,
        sequence: int,
        after: State,
        *,
        note: str,
        published: BaseVersion | None = None,
        decisions: tuple[Decision, ...] = (),
        policy: Policy | None = None,
    ) -> LedgerEntry:
        """A ledger entry with who, when and a unique token filled in; nothing is written."""
        return LedgerEntry(
            sequence=sequence,
            token=new_attempt(),
            created_at=datetime.now(UTC),
            actor=actor(),
            published=published,
            decisions=decisions,
            policy=policy,
            note=note,
            after=after,
        )

    def _take_over(self, base: BaseVersion, policy: Policy) -> None:
        # Entry 0 without repository.json: an init died in between. It counts if it is like ours.
        first = self.ledger.entry(0).after
        self.base_versions.discard(base.prefix)
        if first.base.digest != base.digest or first.policy != policy:
            remedy = (
                "an earlier init with another model or policy broke off; repeat that one, or "
                "choose another COLDFUSION_REPOSITORY"
            )
            raise AlreadyExistsError("repository", self.name, remedy)
