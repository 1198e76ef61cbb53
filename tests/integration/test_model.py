"""Random interleavings of everything against a small model, on real servers.

``make test-model`` tries many more than the 50 of every test run. A failure prints the steps as a
program; shrunk, they are a handful.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture.engine import ConjectureRunner
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from prometheus_client import CollectorRegistry
from safetensors.numpy import save_file

from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.finetune import run
from coldfusion_queue.intake.prepare import prepare_dataset
from coldfusion_queue.metrics import TaskMetrics
from coldfusion_queue.queue import tasks
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.queue.process import Process
from coldfusion_queue.settings import Settings
from tests.integration.actors import Actor, Fate, State, interleaved
from tests.integration.model_world import TENSORS, Bench, World, finetune_without_training

Move = tuple[str, dict[str, Any]]

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "quick")

#: Nothing expires by the real clock.
TIMELESS = {
    "lease_seconds": 3600,
    "fusion_lock_seconds": 3600.0,
    "task_max_worker_losses": 1000,
    "transfer_threads": 1,
}


def fates(points: Sequence[CrashPoint]) -> st.SearchStrategy[Fate | None]:
    """In half of all cases nothing goes wrong."""
    endings = (State.PAUSED, State.CRASHED)
    bad = [Fate(ending, point) for point in points for ending in endings]
    return st.sampled_from([*[None for _ in bad], *bad])


def points(*beginnings: str) -> list[CrashPoint]:
    """The points whose names begin so, those of the first beginning first."""
    return [point for name in beginnings for point in CrashPoint if point.startswith(name)]


def asleep(points: Sequence[CrashPoint]) -> st.SearchStrategy[Fate]:
    """It pauses at one of these."""
    return st.builds(Fate, st.just(State.PAUSED), st.sampled_from(points))


def times(
    number: int, name: str, **arguments: st.SearchStrategy[Any]
) -> list[st.SearchStrategy[Move]]:
    """Moves of one kind: the name of a method and what it is called with."""
    fixed = st.fixed_dictionaries(arguments)
    return [st.tuples(st.just(name), fixed) for _ in range(number)]


INDEX = st.integers(0, 5)
YES_OR_NO = st.booleans()
SUBMIT = fates(points("submit", "send"))
TURN = fates(points("commit", "turn", "send", "submission", "checkpoint"))
FUSION = fates(points("decide", "settle", "publish", "fuse"))
POLICY = fates(points("policy", "settle"))
COLLECTION = fates(points("gc", "settle"))
SENDING = fates(points("send", "reconcile"))
#: A worker that will commit late, and a fuser that will append late.
LATE_TURN = asleep(points("commit.up", "commit.mark", "turn.trained", "turn.down"))
LATE_FUSION = asleep(points("publish", "fuse.selected", "fuse.settled"))
DEAD_FUSION = st.builds(Fate, st.just(State.CRASHED), st.sampled_from(points("decide", "settle")))
TRAININGS = st.sampled_from(["trains", "trains", "trains", "trains", "stops", "fails"])
#: What others do while a worker sleeps.
MEANWHILE = ["replace fuse", "collect", "replace fuse collect", "fuse collect", "replace", ""]
#: Who appends to the ledger while a fuser sleeps.
RIVALS = ["fuse", "change_policy", "collect"]
POLICIES = st.fixed_dictionaries(
    {
        "min_contributions": st.sampled_from([1, 1, 1, 2, 3]),
        "max_contributions": st.integers(1, 3),
        "max_staleness": st.none() | st.integers(0, 2),
        "retain_base_versions": st.integers(1, 2),
        "retain_contributions": st.none() | st.integers(0, 1),
    },
)

#: These are no rules of their own, because of those a part is left out of each example, and
#: without deliveries little happens. A number is how often a kind is among them.
MOVES = st.one_of(
    *times(2, "submit", dataset=st.integers(0, 1), turns=st.integers(1, 2), fate=SUBMIT),
    *times(3, "deliver", index=INDEX, fate=TURN, training=TRAININGS),
    *times(1, "deliver", index=INDEX, fate=LATE_TURN, training=st.just("trains")),
    *times(1, "deliver_once_more", index=INDEX, fate=TURN),
    *times(1, "replace_a_paused_worker", index=INDEX, fate=TURN),
    *times(3, "commit_late", late=LATE_TURN, meanwhile=st.sampled_from(MEANWHILE)),
    *times(2, "fuse", is_locked=YES_OR_NO, fate=FUSION),
    *times(2, "fuse_late", late=LATE_FUSION, rival=st.sampled_from(RIVALS)),
    *times(1, "fuse_after_a_crash", dead=DEAD_FUSION, fate=FUSION),
    *times(2, "go_on", index=INDEX, fate=TURN),
    *times(2, "collect_garbage", has_grace=YES_OR_NO, fate=COLLECTION),
    *times(1, "change_policy", changes=POLICIES, fate=POLICY),
    *times(1, "an_hour_passes", with_paused=YES_OR_NO, is_wiped=YES_OR_NO, fate=SENDING),
    *times(1, "cancel", index=INDEX),
    *times(1, "kill", index=INDEX),
    *times(1, "lose_redis"),
)


class ProtocolMachine(RuleBasedStateMachine):
    """Each move is a step of one process, or something that befalls them.

    One that is not possible now becomes another, which brings things forward.
    """

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.world = World(bench)

    @initialize(turns=st.integers(1, 2), policy=POLICIES)
    def begin(self, turns: int, policy: dict[str, object]) -> None:
        self.change_policy(policy, None)
        self.submit(0, turns, None)

    @rule(move=MOVES)
    def step(self, move: Move) -> None:
        name, arguments = move
        getattr(self, name)(**arguments)

    def teardown(self) -> None:
        try:
            self.world.check_quiet()
        finally:
            self.world.close()

    # --- one process takes a step -------------------------------------------------------------

    def submit(self, dataset: int, turns: int, fate: Fate | None) -> None:
        if len(self.world.model.open()) < 3:
            self.world.submit(dataset, turns, fate)
        else:
            self.deliver(0, fate, "trains")

    def deliver(self, index: int, fate: Fate | None, training: str) -> None:
        queued = self.world.queued()
        if queued:
            message = queued[index % len(queued)]
            self.world.deliver(message, f"worker{index % 2}", fate, training)
        elif self.world.model.open():
            self.an_hour_passes(with_paused=True, is_wiped=False, fate=fate)
        else:
            self.world.submit(1, 2, fate)

    def deliver_once_more(self, index: int, fate: Fate | None) -> None:
        messages = self.world.acknowledged
        if messages:
            self.world.deliver(messages[index % len(messages)], "another", fate, "trains")

    def replace_a_paused_worker(self, index: int, fate: Fate | None) -> None:
        turns = self.turns_under_way()
        if turns:
            self.world.replace(turns[index % len(turns)], fate)
        else:
            self.deliver(index, fate, "trains")

    def commit_late(self, late: Fate, meanwhile: str) -> None:
        """A worker sleeps, and goes on when others have done what they did."""
        if not self.world.queued():
            self.an_hour_passes(with_paused=False, is_wiped=False, fate=None)
        self.deliver(0, late, "trains")
        sleeper = self.turns_under_way()[-1:]
        if sleeper and "replace" in meanwhile:
            self.world.replace(sleeper[0], None)
        if "fuse" in meanwhile:
            self.world.fuse(None, is_locked=False)
        if "collect" in meanwhile:
            self.world.collect(None, has_grace=False)
        if sleeper:
            self.world.go_on(sleeper[0], None)

    def fuse(self, is_locked: bool, fate: Fate | None) -> None:
        if not self.world.model.pending():
            self.deliver(0, None, "trains")
        self.world.fuse(fate, is_locked=is_locked)

    def fuse_late(self, late: Fate, rival: str) -> None:
        """A fuser sleeps, and goes on when somebody else has written its ledger entry."""
        self.fuse(False, late)
        sleeper = [actor for actor in self.world.paused if actor.name == "fuse"][-1:]
        if rival == "fuse":
            self.world.fuse(None, is_locked=False)
        elif rival == "change_policy":
            self.world.change_policy({"max_contributions": 2}, None)
        else:
            self.world.collect(None, has_grace=False)
        if sleeper:
            self.world.go_on(sleeper[0], None)

    def fuse_after_a_crash(self, dead: Fate, fate: Fate | None) -> None:
        self.fuse(False, dead)
        self.world.fuse(fate, is_locked=False)

    def change_policy(self, changes: dict[str, object], fate: Fate | None) -> None:
        self.world.change_policy(changes, fate)

    def collect_garbage(self, has_grace: bool, fate: Fate | None) -> None:
        self.world.collect(fate, has_grace=has_grace)

    def cancel(self, index: int) -> None:
        names = sorted(self.world.model.open())
        if len(names) > 1:
            self.world.cancel(names[index % len(names)])

    def go_on(self, index: int, fate: Fate | None) -> None:
        if self.world.paused:
            self.world.go_on(self.world.paused[index % len(self.world.paused)], fate)
        else:
            self.deliver(index, fate, "trains")

    def turns_under_way(self) -> list[Actor]:
        return [actor for actor in self.world.paused if actor.name.startswith("deliver")]

    # --- something befalls them ---------------------------------------------------------------

    def kill(self, index: int) -> None:
        if self.world.paused:
            self.world.kill(self.world.paused[index % len(self.world.paused)])

    def an_hour_passes(self, with_paused: bool, is_wiped: bool, fate: Fate | None) -> None:
        if is_wiped:
            self.world.wipe()
        for own_fate in (None, fate):  # what is missing at two looks is sent again
            self.world.an_hour_passes(with_paused=with_paused)
            self.world.reconcile(own_fate)

    def lose_redis(self) -> None:
        self.world.wipe()


@pytest.fixture
def bench(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    own = settings.model_copy(update=TIMELESS)
    process = Process(own, connect_redis(own), TaskMetrics(CollectorRegistry()))
    model_dir = tmp_path / "model"
    model_dir.mkdir()
    save_file(TENSORS, model_dir / "model.safetensors")
    (model_dir / "config.json").write_text("{}", encoding="utf-8")
    datasets = []
    for number in range(2):
        data = tmp_path / f"data{number}.jsonl"
        rows = [{"text": f"{number} {row}", "label": str(row % 2)} for row in range(4)]
        data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        work_dir = tmp_path / f"work{number}"
        work_dir.mkdir()
        datasets.append(prepare_dataset(str(data), work_dir=work_dir))
    homes = tmp_path / "homes"
    made = Bench(process, process, make_app(own), model_dir, datasets, homes, itertools.count())
    monkeypatch.setattr(tasks, "this_process", lambda: made.current)
    monkeypatch.setattr(run, "finetune", finetune_without_training)
    # Else five of six examples would be the sixth with one of its moves made twice.
    mutations = "generate_mutations_from"
    monkeypatch.setattr(ConjectureRunner, mutations, lambda *_: None, raising=False)
    with interleaved():
        yield made
    shutil.rmtree(homes, ignore_errors=True)


@pytest.mark.timeout(3600)
def test_whatever_happens_each_contribution_is_decided_once_and_none_is_lost(
    bench: Bench,
) -> None:
    run_state_machine_as_test(
        lambda: ProtocolMachine(bench), settings=hypothesis_settings.get_profile(PROFILE)
    )
