"""The real thing that the model is compared with: store, Redis, tasks; only training is not real.

What a process does is the project's own code. Which of them runs, when a message is delivered and
what time it is, is decided by the test.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from celery.exceptions import Retry

from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.errors import LedgerConflictError, NotFoundError, UsageError
from coldfusion_queue.intake.upload import upload_dataset
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue import tasks
from coldfusion_queue.queue.process import Process
from coldfusion_queue.records import ModelIdentity, Policy
from coldfusion_queue.repository.collecting import collect_garbage
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.rolling_back import roll_back
from coldfusion_queue.store import Store
from tests.integration.actors import Actor, Fate, State, current_actor
from tests.integration.model_bench import Bench
from tests.integration.model_broker import Broker, Message
from tests.integration.reference_model import Commit, ReferenceModel

__all__ = ["World"]

_HOUR = 3600


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
        self.acknowledged: list[Message] = []
        self.num_submitted = 0
        self._bench = bench
        self.name = self.settings.repository
        self.broker = Broker(self.process.client, self.name)
        self._taken: dict[Actor, tuple[str, Message]] = {}
        self._num_deleted = 0
        self._touched: set[str] = set()
        self._ids = itertools.count()
        self.broker.wipe()
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
            self.process.sender(self.name).send(submission_id, 1)

        self._start(f"submit {turns}", act, fate, about=submission_id)

    def deliver(self, message: Message, worker: str, fate: Fate | None, training: str) -> None:
        """A worker takes a message, off the queue if it is there, and ends it or dies with it."""
        tag = f"tag-{next(self._ids)}"

        def act() -> None:
            self.broker.take(message, tag)
            tasks.finetune.push_request(**message.request(worker))
            try:
                tasks.finetune.run(*message.arguments)
            except Retry:
                pass
            finally:
                tasks.finetune.pop_request()
            self.broker.acknowledge(tag)
            self.acknowledged.append(message)

        actor = self._make(f"deliver {worker}", act, about=message.turn_id, training=training)
        self._taken[actor] = tag, message
        self._run(actor, fate)

    def replace(self, actor: Actor, fate: Fate | None) -> None:
        """The turn of a paused worker goes to another, as when its heartbeat stopped."""
        self.broker.end_lease(actor.about)
        self.deliver(self._taken[actor][1], "replacement", fate, "trains")

    def fuse(self, fate: Fate | None, *, is_locked: bool) -> None:
        def act() -> None:
            if is_locked:
                tasks.fuse(self.name)
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

    def roll_back(self, fate: Fate | None) -> None:
        """Go back by one version, unless there is none or its files were collected."""

        def act() -> None:
            repository = self._repository()
            version = repository.ledger.base_version().version - 1
            with suppress(NotFoundError, UsageError):
                roll_back(repository, version, "a move")

        self._start("roll back", act, fate)

    def collect(self, fate: Fate | None, *, has_grace: bool) -> None:
        """Collect garbage; without grace only if nobody hands in data that it could take."""
        is_risky = any(self._hands_in_new_data(actor) for actor in self.paused)
        grace = _HOUR if has_grace or is_risky else 0
        name = "collect with grace" if grace else "collect"
        self._start(name, lambda: collect_garbage(self._repository(), grace), fate)

    def reconcile(self, fate: Fate | None) -> None:
        self._start("reconcile", lambda: tasks.reconcile(self.name), fate)

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

    def an_hour_passes(self, *, with_paused: bool) -> None:
        """What dead processes held expires, and what paused ones hold too if these are included."""
        alive = [] if with_paused else self.paused
        tags = {self._taken[actor][0] for actor in alive if actor in self._taken}
        is_fusing = any(actor.name == "fuse locked" for actor in alive)
        self.broker.pass_an_hour(tags, is_fusing=is_fusing)

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

    # --- how it is done -----------------------------------------------------------------------

    def _repository(self) -> Repository:
        return Repository(Store.open(self.settings), self.name)

    def _exists(self, key: str) -> bool:
        return self.repository.store.stat(key) is not None

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
        if actor.go_on(fate) is State.PAUSED:
            self.paused.append(actor)
        self.look()

    def _observe(self, actor: Actor, point: CrashPoint) -> None:
        """The model does what a process has just done."""
        if actor.name == "collect" and point is CrashPoint.GC_DELETED:
            self._num_deleted += 1
        actor.seen_at[point] = self._num_deleted
        self._touched.add(actor.about.partition(".t")[0])
        if point is CrashPoint.SUBMIT_RECORDED:
            turns = int(actor.name.split()[1])
            is_unmarked = self._deleted_since(actor, CrashPoint.SUBMIT_MARKED)
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
                may_be_refused=self._deleted_since(actor, CrashPoint.TURN_DOWNLOADED),
                may_be_unmarked=self._deleted_since(actor, CrashPoint.COMMIT_MARKED),
            )
            self.model.commit(submission_id, turn, commit)

    def _deleted_since(self, actor: Actor, point: CrashPoint) -> bool:
        return actor.seen_at[point] < self._num_deleted

    def close(self) -> None:
        """Let whoever is left die."""
        for actor in list(self.paused):
            with suppress(Exception):
                self.kill(actor)
