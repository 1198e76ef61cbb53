"""The real thing that the model is compared with: store, Redis, tasks; only training is not real.

What a process does is the project's own code. Where a message is, and what time it is, is the
test's: messages are taken off the real queue here, and what would expire is made to.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from celery import Celery
from celery.exceptions import Retry
from safetensors.numpy import save_file

from coldfusion_queue.audit import audit
from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.errors import LedgerConflictError, NotFoundError
from coldfusion_queue.finetune.run import FinetuneRequest, FinetuneResult
from coldfusion_queue.finetune.training import FinetuneInterrupted
from coldfusion_queue.intake.prepare import PreparedDataset
from coldfusion_queue.intake.upload import upload_dataset
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue import tasks
from coldfusion_queue.queue.app import FINETUNE_QUEUE
from coldfusion_queue.queue.leases import SENT_SECONDS
from coldfusion_queue.queue.process import Process
from coldfusion_queue.records import ModelIdentity, Policy
from coldfusion_queue.repository.collecting import collect_garbage
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.store import Store
from tests.integration.actors import Actor, Fate, State, current_actor
from tests.integration.reference_model import Commit, ReferenceModel

__all__ = ["TENSORS", "Bench", "World", "finetune_without_training"]

#: The base model.
TENSORS = {
    "body.weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "body.bias": np.zeros(2, dtype=np.float32),
}

_HOUR = 3600
_DAY = 24 * _HOUR
_ROUNDS = 30


def finetune_without_training(
    request: FinetuneRequest, settings: object, work_dir: Path, report: object
) -> FinetuneResult:
    """In the place of ``finetune.run.finetune``: writes files, fails, or is told to stop."""
    actor = current_actor()
    assert actor is not None
    if actor.training == "fails":
        raise ValueError("as it was meant to")
    if actor.training == "stops":
        path = work_dir / "checkpoint.safetensors"
        path.write_bytes(b"state")
        raise FinetuneInterrupted(path, 1, 2)
    result = FinetuneResult(work_dir / "shared.safetensors", work_dir / "head.safetensors", {})
    change = np.float32(0.01 * request.turn)
    save_file({key: np.full_like(value, change) for key, value in TENSORS.items()}, result.shared)
    save_file({"head": np.zeros(1, dtype=np.float32)}, result.head)
    return result


@dataclass
class Bench:
    """What all examples share."""

    process: Process
    current: Process
    """What the tasks take for theirs: an example's, with a repository of its own."""
    app: Celery
    model_dir: Path
    datasets: list[PreparedDataset]
    directory: Path
    counter: Iterator[int]


class World:
    """One repository of its own, its processes, and the model of what should be in it."""

    def __init__(self, bench: Bench) -> None:
        number = next(bench.counter)
        settings = bench.process.settings
        self.settings = settings.model_copy(
            update={
                "repository": f"{settings.repository}-{number}",
                "home": bench.directory / f"home-{number}",
            }
        )
        self.process = Process(self.settings, bench.process.client, bench.process.metrics)
        self.model = ReferenceModel()
        self.paused: list[Actor] = []
        self.acknowledged: list[str] = []
        self.num_submitted = 0
        self._bench = bench
        self._name = self.settings.repository
        self._redis = self.process.client
        self._redis_keys = RedisKeys(self._name)
        self._unacknowledged: dict[str, tuple[str, Actor]] = {}
        self._taken: dict[Actor, str] = {}
        self._collections = 0
        self._touched: set[str] = set()
        self._ids = itertools.count()
        self._redis.flushdb()
        self.repository = self._repository()
        base = self.repository.base_versions.upload_first(bench.model_dir)
        identity = ModelIdentity(
            model_type="tiny", hub_id="tiny", tokenizer_digest=None, num_parameters=8
        )
        self.repository.initialise(identity, base, Policy(min_contributions=1))
        self.look()

    # --- what processes do --------------------------------------------------------------------

    def submit(self, dataset: int, turns: int, fate: Fate | None) -> None:
        prepared = self._bench.datasets[dataset]
        submission_id = f"c{dataset}-{self.num_submitted}"
        self.num_submitted += 1

        def act() -> None:
            repository = self._repository()
            record = upload_dataset(repository.store, repository.keys, prepared)
            repository.submissions.create(
                f"c{dataset}",
                dataset_id=record.dataset_id,
                turns=turns,
                submission_id=submission_id,
            )
            self.process.sender(self._name).send(submission_id, 1)

        self._start(f"submit {turns}", act, fate, about=submission_id)

    def queued(self) -> list[str]:
        """Messages on the queue, the oldest first."""
        return self._redis.lrange(FINETUNE_QUEUE, 0, -1)[::-1]

    def deliver(self, message: str, worker: str, fate: Fate | None, training: str) -> None:
        """A worker takes a message, off the queue if it is there, and ends it or dies with it."""
        self._redis.lrem(FINETUNE_QUEUE, 1, message)
        parsed = json.loads(message)
        repository, submission_id, turn = json.loads(base64.b64decode(parsed["body"]))[0]
        assert repository == self._name
        tag = f"tag-{next(self._ids)}"
        taken = json.dumps([parsed, FINETUNE_QUEUE, FINETUNE_QUEUE])
        request = {
            "id": parsed["headers"]["id"],
            "retries": parsed["headers"]["retries"],
            "hostname": worker,
            "called_directly": False,
        }

        def act() -> None:
            self._redis.hset("unacked", tag, taken)
            tasks.finetune.push_request(**request)
            try:
                tasks.finetune.run(repository, submission_id, turn)
            except Retry:
                pass
            finally:
                tasks.finetune.pop_request()
            self._redis.hdel("unacked", tag)
            self.acknowledged.append(message)
            self._unacknowledged.pop(tag, None)

        about = contribution_id(submission_id, turn)
        actor = self._make(f"deliver {worker}", act, about=about, training=training)
        self._unacknowledged[tag] = message, actor
        self._taken[actor] = message
        self._run(actor, fate)

    def replace(self, actor: Actor, fate: Fate | None) -> None:
        """The turn of a paused worker goes to another, as when its heartbeat stopped."""
        self._redis.delete(self._redis_keys.turn(actor.about))
        self.deliver(self._taken[actor], "replacement", fate, "trains")

    def fuse(self, fate: Fate | None, *, is_locked: bool) -> None:
        def act() -> None:
            if is_locked:
                tasks.fuse(self._name)
                return
            try:
                fuse_once(self._repository(), self.settings)
            except LedgerConflictError:
                pass
            except NotFoundError:
                actor = current_actor()
                if actor is None or not actor.was_paused:  # else its base version was collected
                    raise

        self._start("fuse locked" if is_locked else "fuse", act, fate)

    def change_policy(self, changes: Mapping[str, object], fate: Fate | None) -> None:
        self._start("policy", lambda: change_policy(self._repository(), dict(changes)), fate)

    def collect(self, fate: Fate | None, *, has_grace: bool) -> None:
        """Collect garbage; without grace only if nobody hands in data that it could take."""
        is_risky = any(self._hands_in_new_data(actor) for actor in self.paused)
        grace = _HOUR if has_grace or is_risky else 0
        name = "collect with grace" if grace else "collect"
        self._start(name, lambda: collect_garbage(self._repository(), grace), fate)

    def reconcile(self, fate: Fate | None) -> None:
        self._start("reconcile", lambda: tasks.reconcile(self._name), fate)

    def cancel(self, submission_id: str) -> None:
        self.repository.submissions.cancel(submission_id)
        self.repository.submissions.close(submission_id)
        self.model.ended.add(submission_id)

    def go_on(self, actor: Actor, fate: Fate | None) -> None:
        self.paused.remove(actor)
        self._run(actor, fate)

    def kill(self, actor: Actor) -> None:
        self.paused.remove(actor)
        actor.kill()
        self.look()

    # --- what befalls them --------------------------------------------------------------------

    def wipe(self) -> None:
        """Redis loses everything."""
        self._redis.flushdb()

    def an_hour_passes(self, *, with_paused: bool) -> None:
        """What dead processes held expires, and what paused ones hold too if these are included."""
        alive = [] if with_paused else self.paused
        held = {actor.about for actor in alive if actor.name.startswith("deliver")}
        for key in self._keys("turn"):
            name, value = key.rpartition(":")[2], self._redis.get(key)
            if value == "sent":
                self._redis.pexpire(key, 1000 * (SENT_SECONDS - 2 * _HOUR))
            elif name not in held:
                self._redis.delete(key)
        for key in self._keys("missing"):
            self._redis.set(key, int(self._redis.get(key) or 0) - 2000 * _HOUR, keepttl=True)
        if not any(actor.name == "fuse locked" for actor in alive):
            self._redis.delete(self._redis_keys.fusion_lock)
        for tag, (message, owner) in list(self._unacknowledged.items()):
            if owner not in alive:
                del self._unacknowledged[tag]
                if self._redis.hdel("unacked", tag):
                    self._redis.rpush(FINETUNE_QUEUE, message)

    # --- what must hold -----------------------------------------------------------------------

    def look(self) -> None:
        """After each step: the ledger goes on as it may, and nothing is lost from sight."""
        model = self.model
        newest = self.repository.ledger.newest()
        assert newest.sequence + 1 >= len(model.ledger), "the ledger became shorter"
        for sequence in range(max(0, len(model.ledger) - 1), newest.sequence + 1):
            is_newest = sequence == newest.sequence
            model.append(newest if is_newest else self.repository.ledger.entry(sequence))
        keys = self.repository.keys
        for name, turn in model.pending():
            key = keys.inbox_marker(contribution_id(name, turn))
            is_there = model.commits[name, turn].may_be_unmarked or self._exists(key)
            assert is_there, f"{key}: committed, undecided and unmarked"
        for name in model.open() - model.unmarked:
            assert self._exists(keys.open_submission(name)), f"{name} is open and unmarked"
        self.check_turns(*self._touched)
        self._touched.clear()

    def check_turns(self, *names: str) -> None:
        """The model's count of committed turns is the real one."""
        for name in sorted(self.model.turns.keys() & names):
            submission = self.repository.submissions.get(name)
            status = self.repository.submissions.status(submission)
            assert status.committed_turns == self.model.num_committed(name)
            assert (status.next_turn is not None) == (name in self.model.open())

    def check_quiet(self) -> None:
        """Without faults everything comes to its end, exactly once, and nothing is left over."""
        while self.paused:
            self.go_on(self.paused[0], None)
        self.change_policy({"min_contributions": 1, "max_contributions": 9}, None)
        for _ in range(_ROUNDS):
            if not self.model.open() and not self.model.pending():
                break
            self._round()
        assert not self.model.open(), "turns are missing"
        assert not self.model.pending(), "contributions are undecided"
        self.check_turns(*self.model.turns)
        self._audit(_DAY)
        self.collect(None, has_grace=False)
        self._audit(0)

    def _audit(self, grace_seconds: float) -> None:
        findings = audit(self.settings, self._name, grace_seconds).findings
        assert not findings, findings

    def _round(self) -> None:
        for _ in range(2):
            self.an_hour_passes(with_paused=True)
            self.reconcile(None)
        for message in self.queued():
            self.deliver(message, "worker", None, "trains")
        self.fuse(None, is_locked=True)
        # Only what a collection without grace took has to be repaired by one with it.
        if self.model.may_need_repair():
            self.collect(None, has_grace=True)

    # --- how it is done -----------------------------------------------------------------------

    def _repository(self) -> Repository:
        return Repository(Store.open(self.settings), self._name)

    def _exists(self, key: str) -> bool:
        return self.repository.store.stat(key) is not None

    def _keys(self, kind: str) -> list[str]:
        return sorted(self._redis.scan_iter(f"coldfusion:{self._name}:{kind}:*"))

    def _hands_in_new_data(self, actor: Actor) -> bool:
        is_recorded = actor.about in self.model.turns
        contributor = actor.about.partition("-")[0]
        is_named = any(name.startswith(f"{contributor}-") for name in self.model.turns)
        return actor.name.startswith("submit") and not is_recorded and not is_named

    def _start(self, name: str, act: Callable[[], object], fate: Fate | None, **more: Any) -> None:
        self._run(self._make(name, act, **more), fate)

    def _make(self, name: str, act: Callable[[], object], **more: Any) -> Actor:
        def act_here() -> None:
            self._bench.app.set_current()
            self._bench.current = self.process
            act()

        return Actor(name, act_here, self._observe, **more)

    def _run(self, actor: Actor, fate: Fate | None) -> None:
        if actor.name == "collect":
            self._collections += 1
        if actor.go_on(fate) is State.PAUSED:
            self.paused.append(actor)
        self.look()

    def _observe(self, actor: Actor, point: CrashPoint) -> None:
        """The model does what a process has just done."""
        actor.seen_at[point] = self._collections
        self._touched.add(actor.about.partition(".t")[0])
        if point is CrashPoint.SUBMIT_RECORDED:
            turns = int(actor.name.split()[1])
            is_unmarked = self._collected_since(actor, CrashPoint.SUBMIT_MARKED)
            self.model.submit(actor.about, turns, may_be_unmarked=is_unmarked)
        if not actor.name.startswith("deliver"):
            return
        submission_id, _, number = actor.about.rpartition(".t")
        turn = int(number)
        if point is CrashPoint.TURN_FAILED:
            self.model.fail(submission_id, turn, is_meant=actor.training == "fails")
        elif point is CrashPoint.COMMIT_LOST:
            assert (submission_id, turn) in self.model.commits, "lost to nobody"
        elif point is CrashPoint.COMMIT_RECORDED:
            record = self.repository.contributions.find(actor.about)
            assert record is not None
            commit = Commit(
                record.base_version,
                may_be_refused=self._collected_since(actor, CrashPoint.TURN_DOWNLOADED),
                may_be_unmarked=self._collected_since(actor, CrashPoint.COMMIT_MARKED),
            )
            self.model.commit(submission_id, turn, commit)

    def _collected_since(self, actor: Actor, point: CrashPoint) -> bool:
        return actor.seen_at[point] < self._collections

    def close(self) -> None:
        """Let whoever is left die."""
        for actor in list(self.paused):
            with suppress(Exception):
                self.kill(actor)
