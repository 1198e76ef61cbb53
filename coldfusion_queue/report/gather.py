"""From the records of a repository to the data of a report; each record is read once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.records import (
    BaseVersion,
    Contribution,
    Decision,
    Evaluation,
    LedgerEntry,
)
from coldfusion_queue.report.data import Decided, Report, Step, StepKind, utc
from coldfusion_queue.report.scores import costs, failures, scores, unique_names
from coldfusion_queue.repository.datasets import dataset_names
from coldfusion_queue.repository.repository import Repository

__all__ = ["Progress", "gather"]

#: Told what is read, how many of it are, and of how many.
Progress = Callable[[str, int, int], None]

#: Small records that are read at a time: most of a request is waiting.
_NUM_THREADS = 16


@dataclass(frozen=True)
class _Verdict:
    """A decision, and what its entry says about it."""

    decision: Decision
    at: datetime
    base_version: int
    """The newest version before the entry."""


def gather(
    repository: Repository,
    version: int | None = None,
    *,
    now: datetime | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """Read what a report needs.

    Reads the ledger once, a record for each contribution that it decided, the evaluations of every
    model in it, and the submissions for the names of datasets. Nothing is written.

    Args:
        repository: where.
        version: the last base version to report on, with all that was decided before the next one
            was published; None is the newest.
        now: when the report is made.
        progress: called again and again.

    Raises:
        NotFoundError: there is no such version.
        InvalidRecordError: a ledger entry cannot be read. Other records are passed over.
    """
    record = repository.record()
    last = repository.ledger.base_version(version).version
    steps: list[Step] = []
    verdicts: list[_Verdict] = []
    for entry in _entries(repository, last, progress):
        # An entry repeats its base version, so that all of them would take several times the room.
        steps += _steps(entry)
        verdicts += _verdicts(entry)
        num_entries, after = entry.sequence + 1, entry.after
    names = [item.decision.contribution_id for item in verdicts]
    found = _contributions(repository, names, progress)
    decided = [
        _decided(item, contribution) for item, contribution in zip(verdicts, found, strict=True)
    ]
    evaluations = _evaluations(repository, steps, progress)
    return Report(
        repository=repository.name,
        identity=record.identity,
        created_at=utc(record.created_at),
        made_at=utc(now or datetime.now(UTC)),
        version=last,
        num_entries=num_entries,
        policy=after.policy,
        num_tried=None if after.trial is None else len(after.trial.members),
        steps=tuple(steps),
        decisions=tuple(decided),
        scores=tuple(scores(evaluations)),
        costs=tuple(costs(evaluations)),
        failures=failures(evaluations),
        datasets=_names(repository, decided, evaluations, after.policy.gate_datasets),
    )


def _entries(repository: Repository, last: int, progress: Progress) -> Iterator[LedgerEntry]:
    total = repository.ledger.newest().sequence + 1
    for entry in repository.ledger.entries():
        if entry.after.base.version > last:
            return
        yield entry
        progress("ledger entries", entry.sequence + 1, total)


def _steps(entry: LedgerEntry) -> Iterator[Step]:
    for base, kind in ((entry.published, _kind(entry.published)), (entry.withheld, "withheld")):
        if base is not None:
            yield Step(
                sequence=entry.sequence,
                at=utc(entry.created_at),
                kind=kind,
                version=base.version,
                parent=base.parent,
                restores=base.restores,
                digest=base.digest,
                method=base.method,
                method_options=base.method_options,
                server_learning_rate=base.server_learning_rate,
                parts=base.fused,
                gate=entry.gate,
                note=entry.note,
            )


def _verdicts(entry: LedgerEntry) -> Iterator[_Verdict]:
    published = entry.published
    base = entry.after.base.version if published is None else published.parent or 0
    for item in entry.decisions:
        yield _Verdict(item, utc(entry.created_at), base)


def _kind(published: BaseVersion | None) -> StepKind:
    if published is None or published.restores is not None:
        return "restored"
    return "pretrained" if published.parent is None else "fused"


def _contributions(
    repository: Repository, names: Sequence[str], progress: Progress
) -> list[Contribution | None]:
    def find(name: str) -> Contribution | None:
        try:
            return repository.contributions.find(name)
        except InvalidRecordError:
            return None  # that is what it was refused for

    found = []
    with ThreadPoolExecutor(_NUM_THREADS, "report") as threads:
        for number, contribution in enumerate(threads.map(find, names), start=1):
            found.append(contribution)
            progress("contributions", number, len(names))
    return found


def _evaluations(
    repository: Repository, steps: Iterable[Step], progress: Progress
) -> list[Evaluation]:
    # A version that restores another one has its digest, and with it its evaluations.
    digests = list(dict.fromkeys(step.digest for step in steps))
    found = []
    for number, digest in enumerate(digests, start=1):
        # Keys hold the first half of a digest, records all of it.
        found += [item for item in repository.evaluations.of(digest) if item.base_digest == digest]
        progress("evaluated models", number, len(digests))
    return found


def _decided(verdict: _Verdict, contribution: Contribution | None) -> Decided:
    item = verdict.decision
    staleness = item.numbers.get("staleness")
    if staleness is None and contribution is not None:
        # The ledger has it of what was fused or expired; a refused one may lie about its base.
        staleness = max(verdict.base_version - contribution.base_version, 0)
    waited = None
    if contribution is not None:
        waited = max((verdict.at - utc(contribution.created_at)).total_seconds(), 0.0)
    return Decided(
        contribution_id=item.contribution_id,
        contributor_id=contribution.contributor_id if contribution else None,
        dataset_id=contribution.dataset_id if contribution else None,
        outcome=item.outcome,
        rule=item.rule,
        reason=item.reason,
        numbers=item.numbers,
        sequence=item.sequence,
        version=item.version,
        at=verdict.at,
        staleness=None if staleness is None else int(staleness),
        num_examples=contribution.num_examples if contribution else None,
        waited_seconds=waited,
    )


def _names(
    repository: Repository,
    decided: Iterable[Decided],
    evaluations: Iterable[Evaluation],
    gate_datasets: Iterable[str],
) -> dict[str, str]:
    contributed = {item.dataset_id: item.contributor_id for item in decided}
    ids = {*contributed, *(item.spec.dataset_id for item in evaluations), *gate_datasets} - {None}
    try:
        names = dataset_names(repository)
    except InvalidRecordError:  # of a submission; who contributed is known nevertheless
        names = {str(key): str(name) for key, name in contributed.items() if key and name}
    return unique_names([str(item) for item in ids], names)
