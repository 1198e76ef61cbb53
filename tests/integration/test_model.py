"""Random interleavings of everything against a small model, on real servers.

Whoever submits, trains, fuses, collects garbage or changes the policy is a process of ``actors``,
which pauses or dies at any named point. ``make test-model`` tries ten times as many examples as
every test run does. A failure prints its moves as a program; shrunk, they are a handful.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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

from coldfusion_queue.settings import Settings
from tests.integration.actors import Actor, Fate, interleaved
from tests.integration.model_bench import Bench, make_bench
from tests.integration.model_rest import come_to_rest
from tests.integration.model_world import World
from tests.integration.moves import MOVES, PLANNED, POLICIES, Move

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "quick")


class ProtocolMachine(RuleBasedStateMachine):
    """Each move is a step of one process, or something that befalls them.

    One that is not possible now becomes another, which brings things forward.
    """

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.world = World(bench)
        self.is_sound = False

    @initialize(turns=st.integers(1, 2), policy=POLICIES)
    def begin(self, turns: int, policy: dict[str, object]) -> None:
        self.change_policy(policy, None)
        self.submit(0, turns, None)
        self.is_sound = True

    @rule(move=MOVES)
    def step(self, move: Move) -> None:
        name, arguments = move
        self.is_sound = False  # what goes wrong here is told, and not what it leads to
        getattr(self, name)(**arguments)
        self.is_sound = True

    def teardown(self) -> None:
        try:
            if self.is_sound:
                come_to_rest(self.world)
        finally:
            self.world.close()

    # --- one process takes a step -------------------------------------------------------------

    def submit(self, dataset: int, turns: int, fate: Fate | None) -> None:
        if len(self.world.model.open()) < 3:
            self.world.submit(dataset, turns, fate)
        else:
            self.deliver(0, fate, "trains")

    def deliver(self, index: int, fate: Fate | None, training: str) -> None:
        queued = self.world.broker.queued()
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
        if not self.world.broker.queued():
            self.an_hour_passes(with_paused=False, is_wiped=False, fate=None)
        self.deliver(0, late, "trains")
        sleeper = self.turns_under_way()[-1:]
        if sleeper and "replace" in meanwhile:
            self.world.replace(sleeper[0], None)
        if "fuse" in meanwhile:
            self.world.fuse(None, is_locked=False)
        if "policy" in meanwhile:
            self.world.change_policy({"max_contributions": 3}, None)
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
        self.append(rival)
        if sleeper:
            self.world.go_on(sleeper[0], None)

    def fuse_after_a_crash(self, dead: Fate, rival: str) -> None:
        """A fuser dies, and somebody else writes the next ledger entry."""
        self.fuse(False, dead)
        self.append(rival)
        self.world.fuse(None, is_locked=False)

    def append(self, rival: str) -> None:
        if rival == "fuse":
            self.world.fuse(None, is_locked=False)
        elif rival == "change_policy":
            self.world.change_policy({"max_contributions": 2}, None)
        elif rival == "roll_back":
            self.world.roll_back(None)
        else:
            self.world.collect(None, has_grace=False)

    def change_policy(self, changes: dict[str, object], fate: Fate | None) -> None:
        self.world.change_policy(changes, fate)

    def roll_back(self, fate: Fate | None) -> None:
        self.world.roll_back(fate)

    def collect_garbage(self, has_grace: bool, fate: Fate | None) -> None:
        self.world.collect(fate, has_grace=has_grace)

    def collect_late(self, turn: Fate, fate: Fate | None) -> None:
        """A worker sleeps while garbage is looked for, and commits before it is deleted."""
        self.deliver(0, turn, "trains")
        self.world.collect(PLANNED, has_grace=False)
        for actor in self.world.paused[-2:]:
            self.world.go_on(actor, fate)

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
            self.world.broker.wipe()
        for own_fate in (None, fate):  # what is missing at two looks is sent again
            self.world.an_hour_passes(with_paused=with_paused)
            self.world.reconcile(own_fate)

    def lose_redis(self) -> None:
        self.world.broker.wipe()


@pytest.fixture
def bench(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # Else five of six examples would be the sixth with one of its moves made twice.
    mutations = "generate_mutations_from"
    monkeypatch.setattr(ConjectureRunner, mutations, lambda *_: None, raising=False)
    made = make_bench(settings, tmp_path, monkeypatch)
    with interleaved():
        yield made


@pytest.mark.timeout(3600 if PROFILE == "nightly" else 600)
def test_whatever_happens_each_contribution_is_decided_once_and_none_is_lost(
    bench: Bench,
) -> None:
    run_state_machine_as_test(
        lambda: ProtocolMachine(bench), settings=hypothesis_settings.get_profile(PROFILE)
    )
