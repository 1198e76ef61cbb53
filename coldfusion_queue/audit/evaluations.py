"""Evaluations: records and requests are what their keys say."""

from __future__ import annotations

from collections.abc import Iterator

from coldfusion_queue.audit.findings import Check, Finding
from coldfusion_queue.audit.layout import Kind
from coldfusion_queue.audit.snapshot import Snapshot, StoredObject
from coldfusion_queue.records import Evaluation, EvaluationRequest

__all__ = ["check_evaluations"]


def check_evaluations(snapshot: Snapshot) -> Iterator[Finding]:
    """Check what was measured, and what is to be."""
    for item in snapshot.of(Kind.EVALUATION):
        found = snapshot.find(Evaluation, Kind.EVALUATION, item.place.owner)
        expected = item.place.owner.replace("/", ".")
        name = None if found is None else found.evaluation_id
        yield from _check(snapshot, item, name, expected, Check.EVALUATIONS_RECORD)
        if found is not None and (found.score is None) == (found.error is None):
            problem = "it has a score and an error, or neither, expected one of them"
            yield Finding(Check.EVALUATIONS_RECORD, item.key, problem)
    for item in snapshot.of(Kind.REQUEST):
        wanted = snapshot.find(EvaluationRequest, Kind.REQUEST, item.place.owner)
        name = None if wanted is None else wanted.evaluation_id
        yield from _check(snapshot, item, name, item.place.owner, Check.EVALUATIONS_REQUEST)


def _check(
    snapshot: Snapshot, item: StoredObject, name: str | None, expected: str, check: Check
) -> Iterator[Finding]:
    if item.key in snapshot.unreadable:
        yield Finding(check, item.key, f"it cannot be read: {snapshot.unreadable[item.key]}")
    elif name is not None and name != expected:
        yield Finding(check, item.key, f"it is about {name}, expected {expected}, as in its key")
