"""What an audit can find: a stable name for each check, and one sentence for each violation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Check", "Finding"]


class Check(StrEnum):
    """Names of the checks; what each one proves."""

    #: ``repository.json`` is there, parses, and has a known format version.
    REPOSITORY_RECORD = "repository.record"

    #: Every key below ``ledger/`` is ``<10 digits>.json``.
    LEDGER_KEY = "ledger.key"
    #: Sequence numbers run from 0 without a gap.
    LEDGER_GAP = "ledger.gap"
    #: Every entry parses.
    LEDGER_ENTRY = "ledger.entry"
    #: An entry's sequence number is that of its key.
    LEDGER_SEQUENCE = "ledger.sequence"
    #: No two entries have one token.
    LEDGER_TOKEN = "ledger.token"  # noqa: S105 - a name of a check
    #: Entry 0 publishes base version 0, without a parent, and sets a policy.
    LEDGER_FIRST = "ledger.first"
    #: ``after`` is what the entries up to this one fold to.
    LEDGER_FOLD = "ledger.fold"
    #: A published version is its parent's number plus one; the parent is the version before.
    LEDGER_VERSION = "ledger.version"
    #: Every published version has a directory of its own, which holds all of its files.
    LEDGER_DIRECTORY = "ledger.directory"

    #: A contribution is decided once.
    DECISIONS_TWICE = "decisions.twice"
    #: A decision's sequence number is its entry's.
    DECISIONS_SEQUENCE = "decisions.sequence"
    #: What is decided as fused is in the lineage of the entry's version, with the same numbers.
    DECISIONS_FUSED = "decisions.fused"
    #: What is in the lineage is decided as fused, by the same entry.
    DECISIONS_LINEAGE = "decisions.lineage"
    #: A contribution is in the lineage of one version, once.
    DECISIONS_LINEAGE_TWICE = "decisions.lineage_twice"
    #: What is refused or expired has a reason and no version.
    DECISIONS_REASON = "decisions.reason"
    #: ``decision.json`` is the ledger's decision.
    DECISIONS_COPY = "decisions.copy"
    #: There is no ``decision.json`` that the ledger does not know.
    DECISIONS_COPY_ALONE = "decisions.copy_alone"
    #: Whatever an entry but the newest decided has its ``decision.json``.
    DECISIONS_COPY_MISSING = "decisions.copy_missing"

    #: ``contribution.json`` parses, and agrees with its key about id, turn, attempt and files.
    CONTRIBUTIONS_RECORD = "contributions.record"
    #: What was decided was committed.
    CONTRIBUTIONS_MISSING = "contributions.missing"
    #: It started from a base version that was published with the recorded digest.
    CONTRIBUTIONS_BASE = "contributions.base"
    #: Its files have the recorded size and digest, or were collected.
    CONTRIBUTIONS_FILE = "contributions.file"
    #: While it is undecided, its marker in the inbox is there.
    CONTRIBUTIONS_MARKER = "contributions.marker"
    #: ``collected.json`` parses, names files of this contribution, and only if it is decided.
    CONTRIBUTIONS_COLLECTED = "contributions.collected"

    #: An inspection parses, and is of the contribution of its key and of its file.
    INSPECTIONS_RECORD = "inspections.record"
    #: What was fused was inspected before, with the numbers that the decision has.
    INSPECTIONS_FUSED = "inspections.fused"
    #: An override parses, and is of the contribution of its key.
    OVERRIDES_RECORD = "overrides.record"
    #: What the lineage says to have been overridden was, with the same reason.
    OVERRIDES_LINEAGE = "overrides.lineage"

    #: ``lineage.json`` is the ledger's record of the version.
    VERSIONS_LINEAGE = "versions.lineage"
    #: Each line of the lineage agrees with the contribution's record.
    VERSIONS_LINE = "versions.line"
    #: Coefficients are finite and sum to the server's learning rate.
    VERSIONS_COEFFICIENTS = "versions.coefficients"
    #: A version's files, its state too, have the recorded size and digest, or were collected.
    VERSIONS_FILE = "versions.file"
    #: ``collected.json`` parses, names files of this version, and the version is not needed.
    VERSIONS_COLLECTED = "versions.collected"

    #: No marker in the inbox is old and without a contribution.
    MARKERS_INBOX = "markers.inbox"
    #: No marker of an open submission is old and without the submission.
    MARKERS_OPEN = "markers.open"
    #: An old marker of a head names a contribution of its contributor, dataset and base version.
    MARKERS_HEAD = "markers.head"

    #: ``submission.json`` parses and has the id of its key.
    SUBMISSIONS_RECORD = "submissions.record"
    #: ``cancelled.json`` and ``failed.json`` parse and belong to a submission.
    SUBMISSIONS_END = "submissions.end"
    #: The dataset of a submission has a record, or it names data of a site instead.
    SUBMISSIONS_DATASET = "submissions.dataset"
    #: A submission with turns left has its marker.
    SUBMISSIONS_OPEN = "submissions.open"
    #: Turns are committed in order, without a gap.
    SUBMISSIONS_GAP = "submissions.gap"
    #: No more turns are committed than were asked for.
    SUBMISSIONS_TURNS = "submissions.turns"

    #: ``dataset.json`` parses and has the id of its key.
    DATASETS_RECORD = "datasets.record"
    #: A dataset's files have the recorded size and digest.
    DATASETS_FILE = "datasets.file"

    #: A version that an entry restores has the parameters of the old one, and nothing fused.
    ROLLBACK_RESTORED = "rollback.restored"
    #: What the gate did not let pass is not published, and what it let pass has passed.
    GATE_VERDICT = "gate.verdict"
    #: A batch that is being tried is undecided.
    GATE_TRIAL = "gate.trial"
    #: A candidate parses, is for the ledger entry of its key, and has its files while it waits.
    GATE_CANDIDATE = "gate.candidate"
    #: An evaluation parses, and is of the model, dataset and kind of its key.
    EVALUATIONS_RECORD = "evaluations.record"
    #: A request parses, and asks for what its key says.
    EVALUATIONS_REQUEST = "evaluations.request"

    #: No attempt at a contribution is old and not the committed one.
    ORPHANS_CONTRIBUTION = "orphans.contribution"
    #: No attempt at a base version is old and unpublished.
    ORPHANS_BASE = "orphans.base"
    #: Nothing is left of what workers told each other about a fusion.
    ORPHANS_FUSION = "orphans.fusion"
    #: No checkpoint is old and of a committed contribution, or without its record.
    ORPHANS_CHECKPOINT = "orphans.checkpoint"
    #: No record of a candidate is old and of a ledger entry that exists.
    ORPHANS_CANDIDATE = "orphans.candidate"
    #: No request for an evaluation is old and of one that is recorded.
    ORPHANS_REQUEST = "orphans.request"
    #: No dataset's files are old and without its record.
    ORPHANS_DATASET = "orphans.dataset"
    #: There is no old object that nothing refers to.
    OBJECTS_UNKNOWN = "objects.unknown"


@dataclass(frozen=True, order=True)
class Finding:
    """One violation of an invariant."""

    check: Check
    subject: str
    """Object key, or id of what is wrong."""
    problem: str
    """Sentence: what was got, what was expected."""
