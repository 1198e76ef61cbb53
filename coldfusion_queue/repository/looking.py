"""One look at what is to be fused: the inbox, or the batch that is being tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from coldfusion_queue.errors import ColdFusionError
from coldfusion_queue.records import Candidate, LedgerEntry, Policy, Trial
from coldfusion_queue.repository.admission import Admission, Admitted, admit
from coldfusion_queue.repository.deciding import decide
from coldfusion_queue.repository.fusion_job import Crew
from coldfusion_queue.repository.gating import Gate
from coldfusion_queue.repository.inspecting import Inspector
from coldfusion_queue.repository.meter import FusionMeter
from coldfusion_queue.repository.opening import Opener
from coldfusion_queue.repository.readmission import readmit
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.trials import next_suspect, tried_without
from coldfusion_queue.settings import Settings

__all__ = ["Look"]


class Look:
    """What a fusion finds, and what it makes of it.

    Args:
        repository: where.
        settings: chunk size and threads.
        newest: the newest ledger entry, which is settled.
        changes: of the policy, for this fusion alone.
        meter: of this fusion.
    """

    def __init__(
        self,
        repository: Repository,
        settings: Settings,
        newest: LedgerEntry,
        changes: Mapping[str, Any],
        meter: FusionMeter,
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._kept = newest.after.policy
        self._changes = changes
        self.gate = Gate(repository, newest)
        """As the ledger sets it, whatever the changes are."""
        self._newest = newest = _under(newest, changes)
        self._opener = Opener(repository, newest, meter)
        self.suspect: str | None = None
        """What is left out to see whether it is at fault."""
        inspector = Inspector(repository, settings, self._opener, newest.after.base)
        trial = newest.after.trial
        if trial is None or self._is_overruled(trial):
            inbox = repository.inbox.look()
            self.num_pending = len(inbox.pending)
            """Contributions that it looked at."""
            self.admission = admit(repository, inspector, newest, inbox)
            if self.gate.is_set:
                self.admission = self.admission.overridden_first()
        else:
            self.suspect = next_suspect(trial, newest.after.policy)
            names = tried_without(trial, self.suspect)
            self.num_pending = len(names)
            self.admission = readmit(repository, inspector, newest, names)

    @property
    def is_due(self) -> bool:
        """Whether there is something to decide; a trial is never left standing."""
        return self.admission.is_due or self.suspect is not None

    def candidate(self, entry: LedgerEntry, crew: Crew) -> Candidate:
        """What waits for the gate: the entry's model, and perhaps one without the first suspect.

        Raises:
            LedgerConflictError, StoreUnavailableError: nothing of either model remains.
        """
        suspects = self._suspects(entry)
        try:
            without = self._without_first(suspects, crew)
        except BaseException:
            with suppress(ColdFusionError):  # what went wrong first is what is told
                self._repository.base_versions.discard(entry.after.base.prefix)
            raise
        return Candidate(entry=entry, suspects=suspects, suspect=self.suspect, without=without)

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

    def _is_overruled(self, trial: Trial) -> bool:
        """Whether an operator has let in one of the batch meanwhile."""
        override = self._repository.contributions.override
        return any(override(name) is not None for name in trial.members)

    def _suspects(self, entry: LedgerEntry) -> tuple[str, ...]:
        """What of a fused batch may be at fault; it agrees the less the earlier it comes."""
        fused = {item.contribution_id for item in entry.decisions if item.version is not None}
        items = [item for item in self.admission.fusable if item.override is None]
        names = (item.contribution.contribution_id for item in sorted(items, key=_agreement))
        return tuple(name for name in names if name in fused)

    def _without_first(self, suspects: Sequence[str], crew: Crew) -> LedgerEntry | None:
        if not self._kept.gate_leave_out or self.suspect is not None or len(suspects) < 2:
            return None
        left = tuple(
            item
            for item in self.admission.fusable
            if item.contribution.contribution_id != suspects[0]
        )
        return self.decide(crew, replace(self.admission, fusable=left))


def _under(newest: LedgerEntry, changes: Mapping[str, Any]) -> LedgerEntry:
    """The newest entry as if it had set another policy; without a gate nothing is tried."""
    policy = Policy.model_validate({**newest.after.policy.model_dump(), **changes})
    update: dict[str, Any] = {"policy": policy}
    if not policy.gate_datasets:
        update["trial"] = None
    return newest.model_copy(update={"after": newest.after.model_copy(update=update)})


def _agreement(item: Admitted) -> tuple[float, str]:
    """Sorts what was fused together: what agrees least with the others comes first."""
    # Of few there is no cosine; then the longest is the most conspicuous.
    least = item.numbers.get("cosine", -item.numbers["relative_norm"])
    return least, item.contribution.contribution_id
