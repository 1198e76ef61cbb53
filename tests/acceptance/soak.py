"""Chaos: a stack under load whose processes are killed at random, and what is left of it."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from coldfusion_queue.audit import audit
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.records import Hyperparameters
from coldfusion_queue.repository.collecting import collect_garbage
from tests.acceptance.own_servers import Servers
from tests.acceptance.world import World, eventually

__all__ = ["Size", "Soak"]

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Size:
    """How much of it."""

    submissions: int
    workers: int
    seconds: float
    """For which processes are killed."""
    kill_every_seconds: float
    outage_seconds: float
    """For which the store is away, once; at half of the time."""
    patience_seconds: float
    """Until everything has to be decided after that."""


class Soak:
    """One run.

    Args:
        world: a repository without workers.
        servers: of that world.
        size: how much.
        seed: of what is killed and when submissions come; not of what the processes do then.
    """

    def __init__(self, world: World, servers: Servers, size: Size, seed: int) -> None:
        self._world = world
        self._servers = servers
        self._size = size
        self._random = random.Random(seed)
        self._kinds = {f"finetune{n}": "finetune_worker" for n in range(size.workers)}
        self._kinds |= {"fusion_worker": "fusion_worker", "beat": "beat"}
        self._kills: Counter[str] = Counter()
        self._alive: set[str] = set()
        #: What ended though nobody killed it.
        self._ended: Counter[str] = Counter()
        self._submissions: list[str] = []

    def run(self, dataset_id: str) -> dict[str, Any]:
        """Submit, kill, wipe Redis, stop the store, replace Redis; then wait for all decisions.

        Returns:
            What happened, and what the auditor found.
        """
        began = time.monotonic()
        self._start_missing()
        submitting = threading.Thread(target=self._submit_all, args=(dataset_id,), daemon=True)
        submitting.start()
        self._kill_for_a_while()
        submitting.join()
        self._start_missing()
        try:
            eventually(self._is_decided, self._size.patience_seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self._undecided()}") from error
        decided = time.monotonic() - began
        return {**self._report(), "seconds": round(decided, 1)}

    # --- what is asked of it ------------------------------------------------------------------

    def _submit_all(self, dataset_id: str) -> None:
        """All submissions, spread over the first two thirds of the time, whatever is away."""
        settings, repository = self._world.settings, self._world.repository
        sender = TurnSender(make_app(settings), self._world.redis, settings, settings.repository)
        pause = self._size.seconds * 2 / 3 / self._size.submissions
        # A second or two each, so that kills hit the middle of many.
        how = Hyperparameters(epochs=60, batch_size=8, max_length=16)
        while len(self._submissions) < self._size.submissions:
            try:
                made = repository.submissions.create(
                    f"contributor{len(self._submissions) % 10}",
                    dataset_id=dataset_id,
                    hyperparameters=how,
                )
                self._submissions.append(made.submission_id)
                sender.send(made.submission_id, 1)
            except Exception:  # noqa: S110 - a store or broker that is away; reconcile sends it
                pass
            time.sleep(pause)

    # --- what is done to it -------------------------------------------------------------------

    def _kill_for_a_while(self) -> None:
        began = time.monotonic()
        half = self._size.seconds / 2
        # The store is started again by this thread: it dies with the one that starts it.
        events = [
            (self._size.seconds / 3, self._world.redis.flushall),
            (half, self._servers.stop_s3),
            (half + self._size.outage_seconds, lambda: self._servers.start_s3(self._world)),
            (self._size.seconds * 0.9, self._servers.replace_valkey),
        ]
        while (elapsed := time.monotonic() - began) < self._size.seconds or events:
            self._kill_one()
            if events and elapsed > events[0][0]:
                events.pop(0)[1]()
            self._wait_and_restart(began + elapsed + self._size.kill_every_seconds)

    def _kill_one(self) -> None:
        name = self._random.choice([name for name in self._kinds if name in self._alive])
        if name.startswith("finetune") and self._random.random() < 0.3:
            self._world.kill_pool_child(name)
            self._kills["pool child"] += 1
        else:
            self._world.kill(name)
            self._alive.remove(name)
            self._kills[self._kinds[name]] += 1

    def _wait_and_restart(self, end: float) -> None:
        while time.monotonic() < end:
            self._start_missing()
            time.sleep(_POLL_SECONDS)

    def _start_missing(self) -> None:
        self._note_ended()
        for name in [name for name in self._kinds if name not in self._alive]:
            self._world.start_warm(self._kinds[name], name)
            self._alive.add(name)

    def _note_ended(self) -> None:
        for name in [name for name in self._alive if not self._world.runs(name)]:
            self._alive.remove(name)
            self._ended[self._kinds[name]] += 1

    # --- what is left -------------------------------------------------------------------------

    def _is_decided(self) -> bool:
        """Whether every submission has ended and nothing is pending."""
        repository = self._world.repository
        if any(repository.submissions.open()) or repository.inbox.count():
            time.sleep(1)  # each look costs some requests for each submission
            return False
        return self._world.is_idle()

    def _undecided(self) -> dict[str, Any]:
        """What is still to do, and which processes are there to do it."""
        world = self._world
        found = world.repository.submissions.open()
        return {
            "open": [status.submission.submission_id for status in found],
            "inbox": world.repository.inbox.count(),
            "queued": world.queued(),
            "runs": {name: world.runs(name) for name in self._kinds},
        }

    def _report(self) -> dict[str, Any]:
        world = self._world
        self._note_ended()
        decisions = world.decisions()
        outcomes = Counter(item.outcome.value for item in decisions)
        states = Counter(world.state(name)["state"] for name in self._submissions)
        expected = {contribution_id(name, 1) for name in self._submissions}
        decided = Counter(item.contribution_id for item in decisions)
        first = audit(world.settings, world.repository.name)
        collected = collect_garbage(world.repository, 0)
        last = audit(world.settings, world.repository.name, 0)
        events = Counter(item.get("event") for name in self._kinds for item in world.events(name))
        return {
            "submissions": len(self._submissions),
            "states": dict(states),
            "outcomes": dict(outcomes),
            "lost": len([name for name in expected if not decided[name]]) - states["failed"],
            "doubled": sum(number > 1 for number in decided.values()),
            "base_version": world.repository.ledger.base_version().version,
            "kills": dict(self._kills),
            "ended_unasked": dict(self._ended),
            "turns_started": events["turn_started"],
            "turns_resent": events["turn_resent"],
            "garbage_collected": len(collected),
            "findings": len(first.findings),
            "findings_after_collection": len(last.findings),
        }
