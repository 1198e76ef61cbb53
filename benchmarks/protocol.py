"""What does one fusion cost beside the arithmetic, as the history grows?

Against a fresh S3 server of its own it builds a repository with H decided contributions, as real
records (``contribution.json``, ``decision.json``, ledger entries of 8 decisions, inbox markers
created and deleted), and P pending ones. Then it times what a fusion does besides fusing:

    newest   find the newest of n ledger entries without a hint   2 log2(n) + 2 requests
    settle   settle that entry again, as each fusion does         2 for each decision + 1
    look     read the inbox                                       2 P + P / 1000 pages
    select   choose, with the store's time                        1

This is the floor: each pending one has to be read and be known to have no decision. H must not
matter but for the logarithm. The history grows in one repository; at the end a second one with
the smallest history is measured on the store that is by then full, so that what the protocol
costs can be told from what the server's size costs. ``list_seconds`` is for listing the inbox
alone, below whose prefix H markers were deleted; it is part of ``look``.

    python -m benchmarks.protocol
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.reporting import print_report
from coldfusion_queue.local import embedded_servers
from coldfusion_queue.records import (
    BaseVersion,
    Contribution,
    Decision,
    FileRecord,
    FusedContribution,
    LedgerEntry,
    Outcome,
    Policy,
    State,
)
from coldfusion_queue.repository.ledger import Ledger
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.selection import recently_served, select
from coldfusion_queue.repository.settling import settle
from coldfusion_queue.settings import load_settings
from coldfusion_queue.store import Store

_DECISIONS = 8  # of each ledger entry
_CONTRIBUTORS = 50
_NOW = datetime(2000, 1, 1, tzinfo=UTC)
_FILE = FileRecord(key="model.safetensors", digest="0" * 64, num_bytes=1)

Result = dict[str, Any]


class Site:
    """A repository with a history and an inbox, both of any size."""

    def __init__(self, store: Store, name: str) -> None:
        self.repository = Repository(store, name)
        self.num_entries = 0
        self.pending: list[str] = []

    def grow(self, num_decided: int) -> None:
        """Add to the history until it has at least so many decided contributions."""
        last = -(-num_decided // _DECISIONS)
        first, self.num_entries = self.num_entries, last + 1
        with ThreadPoolExecutor(16) as threads:
            for _ in threads.map(self._write_entry, range(first, last + 1)):
                pass

    def fill(self, num_pending: int) -> None:
        """Let so many be pending."""
        surplus = self.pending[num_pending:]
        self.repository.inbox.remove(surplus)
        names = [f"pending-{number:05}.t00001" for number in range(num_pending)]
        with ThreadPoolExecutor(16) as threads:
            for _ in threads.map(self._commit, names, range(num_pending)):
                pass
        self.pending = names

    def measure(self, repetitions: int) -> Result:
        """Median seconds and number of requests of each part, and of all together."""
        runs = [self._run() for _ in range(repetitions)]
        parts = runs[0].keys()
        seconds = {part: median(run[part][0] for run in runs) for part in parts}
        totals = [sum(run[part][0] for part in parts) for run in runs]
        requests = {part: runs[-1][part][1] for part in parts}
        return {
            "decided": (self.num_entries - 1) * _DECISIONS,
            "pending": len(self.pending),
            "seconds": {part: round(value, 4) for part, value in seconds.items()},
            "total_seconds": round(median(totals), 4),
            "total_seconds_spread": [round(min(totals), 4), round(max(totals), 4)],
            "list_seconds": round(median(self._list() for _ in range(repetitions)), 4),
            "requests": requests,
            "total_requests": sum(requests.values()),
        }

    def _run(self) -> dict[str, tuple[float, int]]:
        repository = self.repository
        parts: dict[str, tuple[float, int]] = {}

        def timed(name: str, step: Callable[[], Any]) -> Any:
            with counted_requests(repository.store) as count:
                begin = time.perf_counter()
                result = step()
                parts[name] = (time.perf_counter() - begin, len(count))
            return result

        ledger = Ledger(repository.store, repository.keys)
        newest = timed("newest", ledger.newest)
        timed("settle", lambda: settle(repository, newest))
        pending = timed("look", repository.inbox.look).pending
        policy, version = newest.after.policy, newest.after.base.version

        def choose() -> Any:
            served = recently_served(ledger, newest, pending)
            return select(policy, version, pending, repository.store.now(), served)

        chosen = timed("select", choose)
        assert len(pending) == len(self.pending)
        assert len(chosen.fusable) == min(policy.max_contributions, len(pending))
        return parts

    def _list(self) -> float:
        begin = time.perf_counter()
        self.repository.inbox.count()
        return time.perf_counter() - begin

    def _write_entry(self, sequence: int) -> None:
        repository, first = self.repository, (sequence - 1) * _DECISIONS
        numbers = range(first, first + _DECISIONS) if sequence else range(0)
        names = [f"decided-{number:05}.t00001" for number in numbers]
        for name, number in zip(names, numbers, strict=True):
            self._commit(name, number)
        entry = _entry(sequence, names)
        repository.store.create(repository.keys.ledger(sequence), entry.to_bytes())
        settle(repository, entry)

    def _commit(self, name: str, number: int) -> None:
        self.repository.contributions.commit(_contribution(name, number % _CONTRIBUTORS))


@contextmanager
def counted_requests(store: Store) -> Iterator[list[str]]:
    """The methods of all requests that the store is sent while the block runs."""
    methods: list[str] = []
    pool = store._pool
    send = pool.urlopen

    def urlopen(method: str, *args: Any, **kwargs: Any) -> Any:
        methods.append(method)
        return send(method, *args, **kwargs)

    pool.urlopen = urlopen  # type: ignore[method-assign]
    try:
        yield methods
    finally:
        pool.urlopen = send  # type: ignore[method-assign]


def _contribution(name: str, contributor: int) -> Contribution:
    return Contribution(
        contribution_id=name,
        submission_id=name,
        contributor_id=f"contributor-{contributor:02}",
        dataset_id=None,
        turn=1,
        attempt="attempt",
        base_version=0,
        base_digest=_FILE.digest,
        form="delta",
        shared=_FILE,
        head=None,
        num_examples=1,
        metrics={"loss": 1.0, "accuracy": 0.5},
        created_at=_NOW,
        created_by="benchmark",
    )


def _entry(sequence: int, names: list[str]) -> LedgerEntry:
    fused = tuple(
        FusedContribution(
            contribution_id=name,
            contributor_id=f"contributor-{number:02}",
            dataset_id=None,
            base_version=max(0, sequence - 1),
            staleness=0,
            coefficient=1 / _DECISIONS,
        )
        for number, name in enumerate(names)
    )
    decisions = tuple(
        Decision(
            contribution_id=name,
            outcome=Outcome.FUSED,
            reason=f"fused into base version {sequence}",
            sequence=sequence,
            version=sequence,
            numbers={"staleness": 0, "coefficient": 1 / _DECISIONS, "relative_norm": 0.01},
        )
        for name in names
    )
    model = _FILE.model_copy(update={"digest": f"{sequence:032x}{0:032x}"})
    base = BaseVersion(
        version=sequence,
        prefix=f"base/{sequence:06}-attempt/",
        files={BaseVersion.MODEL_FILE: model},
        parent=sequence - 1 if sequence else None,
        method="mean",
        server_learning_rate=1.0,
        fused=fused,
    )
    return LedgerEntry(
        sequence=sequence,
        token=f"token-{sequence}",
        created_at=_NOW,
        actor="benchmark",
        published=base,
        decisions=decisions,
        policy=None,
        note="",
        after=State(base=base, policy=Policy()),
    )


def run(store: Store, histories: list[int], pendings: list[int], repetitions: int) -> list[Result]:
    """Measure at each size of the history, then with fewer pending, then the control."""
    site, results = Site(store, "growing"), []

    def measure(of: Site, what: str) -> None:
        results.append({"repository": what, **of.measure(repetitions)})
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)

    for num_decided in histories:
        site.grow(num_decided)
        site.fill(pendings[-1])
        measure(site, "growing")
    for num_pending in reversed(pendings[:-1]):
        site.fill(num_pending)
        measure(site, "growing")
    control = Site(store, "control")
    control.grow(histories[0])
    control.fill(pendings[-1])
    measure(control, "control")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    histories = [10, 100] if arguments.quick else [100, 1000, 10_000]
    pendings = [10, 20] if arguments.quick else [100, 1000]
    with tempfile.TemporaryDirectory() as directory, embedded_servers(Path(directory)) as variables:
        own = {name.removeprefix("COLDFUSION_").lower(): value for name, value in variables.items()}
        store = Store.open(load_settings(**own))
        results = run(store, histories, pendings, arguments.repetitions)
    smallest, largest, control = results[0], results[len(histories) - 1], results[-1]
    ratio = f"ratio_{histories[-1]}_to_{histories[0]}"
    ratios = {
        ratio: largest["total_seconds"] / smallest["total_seconds"],
        f"{ratio}_of_the_fastest": largest["total_seconds_spread"][0]
        / smallest["total_seconds_spread"][0],
        "ratio_to_control": largest["total_seconds"] / control["total_seconds"],
    }
    print_report(
        "protocol",
        ("minio", "urllib3"),
        repetitions=arguments.repetitions,
        results=results,
        **{name: round(value, 3) for name, value in ratios.items()},
    )


if __name__ == "__main__":
    main()
