"""The gate and rollbacks: what was withheld, tried and restored."""

from __future__ import annotations

from collections.abc import Iterator

from coldfusion_queue.audit.findings import Check, Finding
from coldfusion_queue.audit.history import History, model_digest
from coldfusion_queue.audit.layout import Kind
from coldfusion_queue.audit.snapshot import Snapshot
from coldfusion_queue.records import Candidate, LedgerEntry, Outcome

__all__ = ["check_gate"]


def check_gate(snapshot: Snapshot, history: History) -> Iterator[Finding]:
    """Check what the ledger says of the gate, of trials and of rollbacks, and the candidates."""
    decided: set[str] = set()
    for number, entry in snapshot.entries.items():
        subject = f"ledger entry {number}"
        before = snapshot.entries.get(number - 1)
        if before and entry.published is None and entry.after.gate != before.after.gate:
            problem = "after.gate is not what it was, although no version is published"
            yield Finding(Check.GATE_VERDICT, subject, problem)
        decided |= {item.contribution_id for item in entry.decisions}
        for problem in _verdict(entry):
            yield Finding(Check.GATE_VERDICT, subject, problem)
        tried = set(entry.after.trial.members) if entry.after.trial else set()
        for name in sorted(tried & decided):
            yield Finding(Check.GATE_TRIAL, subject, f"{name} is tried, but was decided before")
        for problem in _restored(entry, history):
            yield Finding(Check.ROLLBACK_RESTORED, subject, problem)
    for item in snapshot.of(Kind.CANDIDATE):
        yield from _check_candidate(snapshot, item.key, item.place.owner, history.newest)


def _verdict(entry: LedgerEntry) -> Iterator[str]:
    report = entry.gate
    if entry.withheld is not None:
        fused = [item for item in entry.decisions if item.outcome is Outcome.FUSED]
        if entry.published is not None or fused:
            yield "it withholds a model and fuses all the same"
        if report is None:
            yield "it withholds a model without a report of the gate"
    elif report is not None and entry.published is None:
        yield "it has a report of the gate about nothing"
    elif report is not None and report.mean < report.floor and not _is_overridden(entry):
        yield (
            f"it publishes a model of mean {report.mean}, expected at least {report.floor} or "
            "contributions that operators let in alone"
        )
    if entry.published is not None and entry.after.gate != report:
        yield "after.gate is not its own report, which it is of what is published"


def _is_overridden(entry: LedgerEntry) -> bool:
    return entry.published is not None and all(line.override for line in entry.published.fused)


def _restored(entry: LedgerEntry, history: History) -> Iterator[str]:
    published = entry.published
    if published is None or published.restores is None:
        return
    if published.fused or entry.decisions:
        yield "it restores a version and decides contributions, expected nothing to be fused"
    old = history.versions.get(published.restores)
    if old is None or published.restores >= published.version:
        yield f"it restores version {published.restores}, which was not published before"
    elif model_digest(old) != model_digest(published):
        yield (
            f"digest is {model_digest(published)}, expected {model_digest(old)}, that of version "
            f"{published.restores}, which it restores"
        )


def _check_candidate(snapshot: Snapshot, key: str, owner: str, newest: int) -> Iterator[Finding]:
    candidate = snapshot.find(Candidate, Kind.CANDIDATE, owner)
    if key in snapshot.unreadable:
        problem = f"not a candidate: {snapshot.unreadable[key]}"
        yield Finding(Check.GATE_CANDIDATE, key, problem)
    elif candidate is not None and candidate.entry.sequence != int(owner):
        problem = f"it is for entry {candidate.entry.sequence}, expected {int(owner)}"
        yield Finding(Check.GATE_CANDIDATE, key, problem)
    elif candidate is not None and candidate.entry.published is None:
        yield Finding(Check.GATE_CANDIDATE, key, "it publishes nothing, expected a model")
    elif candidate is not None and candidate.entry.sequence == newest + 1:
        for file in (file for model in candidate.models for file in model.files.values()):
            stored = snapshot.objects.get(file.key)
            if stored is None or stored.num_bytes != file.num_bytes:
                problem = f"{file.key} is not there, or not of its {file.num_bytes} bytes"
                yield Finding(Check.GATE_CANDIDATE, key, problem)
