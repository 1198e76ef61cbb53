"""What a repository should be, in sets and dicts: the model that the real one is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

from coldfusion_queue.records import LedgerEntry, Outcome

__all__ = ["Commit", "ReferenceModel"]


@dataclass(frozen=True)
class Commit:
    """A committed turn."""

    base_version: int
    may_be_refused: bool
    """A collection without grace ran since it was trained, and may have taken its files."""
    may_be_unmarked: bool
    """A collection without grace ran between its marker and its record."""


@dataclass
class ReferenceModel:
    """What was asked for and what came of it."""

    turns: dict[str, int] = field(default_factory=dict)
    """Turns of each submission."""
    unmarked: set[str] = field(default_factory=set)
    """Submissions whose marker a collection without grace may have taken."""
    ended: set[str] = field(default_factory=set)
    """Submissions that were cancelled or failed."""
    commits: dict[tuple[str, int], Commit] = field(default_factory=dict)
    """Committed turns, by submission and number."""
    outcomes: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    """How the ledger decided them."""
    ledger: list[LedgerEntry] = field(default_factory=list)

    def submit(self, submission_id: str, turns: int, *, may_be_unmarked: bool) -> None:
        assert submission_id not in self.turns
        self.turns[submission_id] = turns
        if may_be_unmarked:
            self.unmarked.add(submission_id)

    def fail(self, submission_id: str, turn: int, *, is_meant: bool) -> None:
        """Without being meant to, a turn fails only if the head of the last one is gone."""
        last = self.commits.get((submission_id, turn - 1))
        assert is_meant or (last is not None and last.may_be_refused), (submission_id, turn)
        self.ended.add(submission_id)

    def commit(self, submission_id: str, turn: int, commit: Commit) -> None:
        assert (submission_id, turn) not in self.commits, "committed twice"
        assert turn == self.num_committed(submission_id) + 1 <= self.turns[submission_id]
        self.commits[submission_id, turn] = commit

    def append(self, entry: LedgerEntry) -> None:
        """Take an entry of the real ledger: the last one again, or one that may follow."""
        if entry.sequence < len(self.ledger):
            assert entry == self.ledger[entry.sequence], "an entry was changed"
            return
        assert entry.sequence == len(self.ledger)
        if self.ledger:
            self._check(self.ledger[-1], entry)
        self.ledger.append(entry)

    def num_committed(self, submission_id: str) -> int:
        return sum(1 for name, _ in self.commits if name == submission_id)

    def open(self) -> set[str]:
        """Submissions that have turns left."""
        return {
            name
            for name, turns in self.turns.items()
            if name not in self.ended and self.num_committed(name) < turns
        }

    def pending(self) -> set[tuple[str, int]]:
        """Committed turns that are not decided."""
        return self.commits.keys() - self.outcomes.keys()

    def expired_without_files(self) -> set[tuple[str, int]]:
        """Those that nobody opened, and whose files a collection without grace may have taken."""
        return {
            name
            for name, outcome in self.outcomes.items()
            if outcome is Outcome.EXPIRED and self.commits[name].may_be_refused
        }

    def may_need_repair(self) -> bool:
        """Whether something may be without its marker."""
        return bool(self.unmarked & self.open()) or any(
            self.commits[name].may_be_unmarked for name in self.pending()
        )

    def _check(self, last: LedgerEntry, entry: LedgerEntry) -> None:
        before, after = last.after, entry.after
        if entry.published is None:
            assert after.base == before.base
        else:
            assert after.base == entry.published
            assert after.base.version == before.base.version + 1
        assert after.policy == (entry.policy or before.policy)
        decided = {}
        for decision in entry.decisions:
            submission_id, _, number = decision.contribution_id.rpartition(".t")
            name = submission_id, int(number)
            assert name not in self.outcomes, f"{name} is decided twice"
            assert name not in decided, f"{name} is decided twice at once"
            assert name in self.commits, f"{name} is decided and was never committed"
            decided[name] = decision.outcome
            commit, limit = self.commits[name], before.policy.max_staleness
            staleness = before.base.version - commit.base_version
            is_stale = limit is not None and staleness > limit
            assert (decision.outcome is Outcome.EXPIRED) == is_stale, decision
            if decision.outcome is Outcome.REFUSED:
                assert commit.may_be_refused, decision
        fused = [name for name, outcome in decided.items() if outcome is Outcome.FUSED]
        assert len(fused) <= before.policy.max_contributions
        is_rollback = entry.published is not None and entry.published.restores is not None
        assert bool(fused) == (entry.published is not None and not is_rollback)
        if is_rollback:
            assert not decided
            assert entry.published is not None
            assert entry.published.digest in {each.after.base.digest for each in self.ledger}
        self.outcomes |= decided
