"""The ledger as a chain: no gap, no fork, every state the fold of what came before."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from coldfusion_queue.audit.findings import Check, Finding
from coldfusion_queue.audit.history import is_same, model_digest
from coldfusion_queue.audit.layout import Kind
from coldfusion_queue.audit.snapshot import Snapshot
from coldfusion_queue.records import BaseVersion, LedgerEntry, Policy

__all__ = ["check_ledger"]


def check_ledger(snapshot: Snapshot) -> Iterator[Finding]:
    """Check the entries by themselves and one after the other."""
    yield from _check_keys(snapshot)
    yield from _check_gaps(snapshot)
    yield from _check_tokens(snapshot)
    yield from _check_first(snapshot)
    yield from _check_fold(snapshot)
    yield from _check_versions(snapshot)


def _check_keys(snapshot: Snapshot) -> Iterator[Finding]:
    prefix = f"{snapshot.repository}/ledger/"
    for item in snapshot.of(Kind.UNKNOWN):
        if item.key.startswith(prefix):
            problem = "the key is no entry's, expected '<10 digits>.json'"
            yield Finding(Check.LEDGER_KEY, item.key, problem)
    for key, problem in snapshot.unreadable.items():
        if snapshot.place(key).kind is Kind.LEDGER:
            yield Finding(Check.LEDGER_ENTRY, key, f"not a ledger entry: {problem}")
    for number, entry in snapshot.entries.items():
        if entry.sequence != number:
            problem = f"sequence is {entry.sequence}, expected {number}, as in its key"
            yield Finding(Check.LEDGER_SEQUENCE, _entry(number), problem)


def _check_gaps(snapshot: Snapshot) -> Iterator[Finding]:
    for before, number in pairwise([-1, *snapshot.ledger]):
        if number != before + 1:
            problem = f"the next entry is {number}, expected {before + 1}"
            yield Finding(Check.LEDGER_GAP, _entry(before + 1), problem)
    if not snapshot.ledger:
        problem = "there is no entry, expected one that publishes the pretrained model"
        yield Finding(Check.LEDGER_GAP, _entry(0), problem)


def _check_tokens(snapshot: Snapshot) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for number, entry in snapshot.entries.items():
        first = seen.setdefault(entry.token, number)
        if first != number:
            problem = f"token is {entry.token}, as of entry {first}, expected one of its own"
            yield Finding(Check.LEDGER_TOKEN, _entry(number), problem)


def _check_first(snapshot: Snapshot) -> Iterator[Finding]:
    first = snapshot.entries.get(0)
    if first is None:
        return  # a gap, or unreadable
    base = first.published
    if base is None or base.version != 0 or base.parent is not None or base.fused:
        got = _describe(base)
        problem = f"it publishes {got}, expected version 0 without parent and lineage"
        yield Finding(Check.LEDGER_FIRST, _entry(0), problem)
    if first.policy is None:
        yield Finding(Check.LEDGER_FIRST, _entry(0), "it sets no policy, expected the first one")


def _check_fold(snapshot: Snapshot) -> Iterator[Finding]:
    """Compare each ``after`` with a fold of our own, which never looks at an ``after``."""
    base: BaseVersion | None = None
    policy: Policy | None = None
    is_known = True
    for number, entry in snapshot.ledger.items():
        is_known = is_known and number - 1 in {-1, *snapshot.entries}
        if entry is None:
            continue
        base, policy = entry.published or base, entry.policy or policy
        if not is_known:
            # What a lost entry did is unknown, so go on from what its successor says.
            base, policy, is_known = entry.after.base, entry.after.policy, True
        yield from _compare(number, entry, base, policy)


def _compare(
    number: int, entry: LedgerEntry, base: BaseVersion | None, policy: Policy | None
) -> Iterator[Finding]:
    # Entry 0 alone can lack either, which is a finding of its own.
    if base is not None and not is_same(entry.after.base, base):
        problem = (
            f"after.base is {_describe(entry.after.base)}, expected {_describe(base)}, "
            "to which the ledger folds up to here"
        )
        yield Finding(Check.LEDGER_FOLD, _entry(number), problem)
    if policy is not None and not is_same(entry.after.policy, policy):
        problem = (
            f"after.policy is {entry.after.policy!r}, expected {policy!r}, to which the ledger "
            "folds up to here"
        )
        yield Finding(Check.LEDGER_FOLD, _entry(number), problem)


def _check_versions(snapshot: Snapshot) -> Iterator[Finding]:
    prefixes: dict[str, int] = {}
    before: int | None = None
    for number, entry in snapshot.entries.items():
        published = entry.published
        if number - 1 not in snapshot.entries and number > 0:
            before = None  # it was lost with the entry before this one
        elif published is not None and number > 0 and before is not None:
            yield from _check_successor(number, published, before)
        before = published.version if published else before
        if published is not None:
            yield from _check_directory(snapshot, number, published)
            first = prefixes.setdefault(published.prefix, number)
            if first != number:
                problem = f"prefix is {published.prefix}, as of entry {first}, expected a new one"
                yield Finding(Check.LEDGER_DIRECTORY, _entry(number), problem)


def _check_successor(number: int, published: BaseVersion, before: int) -> Iterator[Finding]:
    if published.version != before + 1 or published.parent != before:
        problem = (
            f"it publishes version {published.version} with parent {published.parent}, expected "
            f"{before + 1} with parent {before}"
        )
        yield Finding(Check.LEDGER_VERSION, _entry(number), problem)


def _check_directory(snapshot: Snapshot, number: int, published: BaseVersion) -> Iterator[Finding]:
    owner = snapshot.place(f"{published.prefix}lineage.json").owner
    if not owner or int(owner.partition("-")[0]) != published.version:
        problem = f"prefix is {published.prefix}, expected one of version {published.version}"
        yield Finding(Check.LEDGER_DIRECTORY, _entry(number), problem)
    named = {**published.files, **(published.state or {})}
    outside = [file.key for name, file in named.items() if file.key != published.prefix + name]
    if outside:
        problem = f"file {outside[0]} lies elsewhere, expected it below {published.prefix}"
        yield Finding(Check.LEDGER_DIRECTORY, _entry(number), problem)
    if model_digest(published) is None:
        problem = "it names no .safetensors file, expected every version to have one"
        yield Finding(Check.LEDGER_DIRECTORY, _entry(number), problem)


def _describe(base: BaseVersion | None) -> str:
    if base is None:
        return "nothing"
    return f"version {base.version} in {base.prefix} with digest {model_digest(base)}"


def _entry(number: int) -> str:
    return f"ledger entry {number}"
