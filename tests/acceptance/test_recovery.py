"""Workers that die, stop, sleep or disagree about the time: every turn is fused exactly once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.records import Policy
from tests.acceptance.conftest import MakeWorld
from tests.acceptance.world import World, eventually, slow_training, until_fired
from tests.injector import Injector
from tests.rows import rows, write_rows

#: Everything that recovers looks often. The lease of three seconds is also how long a message may
#: stay unacknowledged without being renewed.
QUICK = {
    "COLDFUSION_FUSION_INTERVAL_SECONDS": "1",
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_LEASE_SECONDS": "3",
    "COLDFUSION_PROGRESS_INTERVAL_SECONDS": "0.1",
    "COLDFUSION_SOFT_SHUTDOWN_SECONDS": "10",
    # One turn at a time: test_between_turns has two.
    "COLDFUSION_PREPARE_AHEAD_SECONDS": "0",
}
#: 45 steps: seven seconds of ``slow_training``, time to hit the middle of it.
LONG_TURN = ("--set", "epochs=15", "--set", "batch_size=8", "--set", "max_length=16")
LONGER_TURN = ("--set", "epochs=40", "--set", "batch_size=8", "--set", "max_length=16")
SHORT_TURN = ("--set", "epochs=1", "--set", "batch_size=8", "--set", "max_length=16")
WORKERS = ("finetune0", "finetune1")


@pytest.fixture(scope="module")
def warm_world(make_world: MakeWorld, injector: Injector) -> Iterator[World]:
    """Two finetune workers, which most tests here kill one of."""
    with make_world(**QUICK) as opened:
        opened.start("fusion_worker")
        opened.start("beat")
        yield opened


@pytest.fixture
def world(warm_world: World, injector: Injector) -> World:
    """The same, with the workers that an earlier test killed started again."""
    for name in WORKERS:
        if not warm_world.runs(name):
            directory = str(injector.directory)
            warm_world.start_warm("finetune_worker", name, INJECTOR_DIRECTORY=directory)
    return warm_world


def data(world: World, name: str = "notes") -> Path:
    return write_rows(world.data / f"{name}.jsonl", rows("single"))


def wait_for_training(world: World, submission: str, after_step: int = 3) -> str:
    """Until a turn is in the middle of its training, a slow one; the name of the worker."""

    def trains() -> bool:
        report = world.progress(submission)
        return report.get("phase") == "training" and report["step"] > after_step

    eventually(trains)
    return str(world.progress(submission)["worker"]).partition("@")[0]


def events(world: World, submission: str) -> list[tuple[str, str]]:
    """What happened to a submission's turns, and on which worker."""
    return [
        (str(item["event"]), name)
        for name in (*WORKERS, "fusion_worker")
        for item in world.events(name)
        if item.get("submission") == submission
    ]


def received(world: World, name: str) -> set[str]:
    """Ids of the finetune tasks that a worker got."""
    messages = " ".join(item["message"] for item in world.events(name))
    return set(re.findall(r"coldfusion\.finetune\[([0-9a-f-]+)\] received", messages))


def digest(world: World, submission: str) -> str:
    """Of the shared parameters that a submission's first turn contributed."""
    contribution = world.repository.contributions.find(f"{submission}.t00001")
    assert contribution is not None
    return contribution.shared.digest


# --- Redis --------------------------------------------------------------------------------------


def test_a_redis_that_loses_everything_loses_no_submission_and_doubles_no_turn(
    world: World, injector: Injector
) -> None:
    # Given one turn in training, one that is half committed, and two that wait
    with until_fired(injector, CrashPoint.COMMIT_MARKED, "hold"):
        half = world.submit(data(world), *SHORT_TURN, "--name", "half")
    with slow_training(injector):
        running = world.submit(data(world), *LONGER_TURN)
        wait_for_training(world, running)
        queued = [world.submit(data(world), *SHORT_TURN, "--name", f"queued{n}") for n in range(2)]
        assert world.queued() == {"finetune": 2, "unacknowledged": 2, "hints": 4}

        world.redis.flushdb()
        eventually(lambda: ("turn_resent", "fusion_worker") in events(world, queued[0]))
    injector.release(CrashPoint.COMMIT_MARKED)

    # Then what waited is sent again, and what ran is not run a second time
    world.wait_complete(half, running, *queued)
    assert [world.starts(name) for name in (half, running)] == [1, 1]


# --- workers that die ---------------------------------------------------------------------------


def test_the_turn_of_a_killed_pool_child_is_run_again(world: World, injector: Injector) -> None:
    with slow_training(injector):
        submission = world.submit(data(world), *LONG_TURN)
        worker = wait_for_training(world, submission)

        world.kill_pool_child(worker)

    world.wait_complete(submission)
    assert world.starts(submission) == 2
    assert world.runs(worker)  # with a new child


def test_a_turn_that_kills_its_workers_is_given_up_after_a_bounded_number_of_them(
    make_world: MakeWorld, injector: Injector
) -> None:
    # What the kernel does when memory runs out, each time that this turn gets so far
    quick = {**QUICK, "COLDFUSION_TASK_MAX_WORKER_LOSSES": "2"}
    with make_world(**quick) as world:
        for kind in ("fusion_worker", "beat"):
            world.start_warm(kind)
        own = Injector(world.directory / "injector")
        world.start_warm("finetune_worker", "finetune0", INJECTOR_DIRECTORY=str(own.directory))
        own.arm(CrashPoint.TURN_DOWNLOADED, "every kill-one")
        submission = world.submit(data(world), *SHORT_TURN)

        eventually(lambda: world.state(submission)["state"] == "failed")

        own.disarm()
        failure = world.state(submission)["failure"]
        assert failure.error == "TrainingFailedError"
        assert "its worker died 3 times in it, expected at most 2" in failure.reason
        assert own.fired(CrashPoint.TURN_DOWNLOADED) == 3
        # And the worker goes on with what others ask for
        world.wait_complete(world.submit(data(world), *SHORT_TURN))


def test_the_turn_of_a_killed_worker_is_run_again_within_the_lease(
    world: World, injector: Injector
) -> None:
    with slow_training(injector):
        submission = world.submit(data(world), *LONG_TURN)
        worker = wait_for_training(world, submission)
        (other,) = set(WORKERS) - {worker}

        world.kill(worker)
    killed = time.monotonic()

    eventually(lambda: ("turn_started", other) in events(world, submission))
    # A second for two processes that look at most every half second, and for this one.
    assert time.monotonic() - killed < int(QUICK["COLDFUSION_LEASE_SECONDS"]) + 1
    world.wait_complete(submission)


def test_a_worker_whose_device_is_not_there_ends_and_takes_no_turn(
    make_world: MakeWorld,
) -> None:
    with make_world(**QUICK) as world:
        submission = world.submit(data(world), *SHORT_TURN)

        world.start_warm("finetune_worker", "finetune0", COLDFUSION_DEVICE="cuda:99")

        eventually(lambda: not world.runs("finetune0"))
        lost = [item for item in world.events("finetune0") if item.get("event") == "device_lost"]
        assert lost
        assert "device cuda:99: it is not there" in lost[0]["message"]
        world.start_warm("finetune_worker", "finetune1")
        eventually(lambda: world.state(submission)["state"] == "complete")
        assert world.starts(submission) == 1


def test_a_turn_that_takes_longer_than_the_lease_is_run_once(
    world: World, injector: Injector
) -> None:
    # Given another worker that has nothing to do but to take what comes back
    before = {name: received(world, name) for name in WORKERS}
    delay = f"delay {3 * int(QUICK['COLDFUSION_LEASE_SECONDS'])}"
    with until_fired(injector, CrashPoint.TURN_TRAINED, delay):
        submission = world.submit(data(world), *SHORT_TURN)
    worker = str(world.progress(submission)["worker"]).partition("@")[0]
    (other,) = set(WORKERS) - {worker}

    world.wait_complete(submission)

    assert world.starts(submission) == 1
    # Nor did its message come back, which would only have been dropped.
    assert received(world, other) == before[other]


def test_a_worker_that_sleeps_loses_its_turn_and_does_not_commit_it_when_it_wakes(
    world: World, injector: Injector
) -> None:
    # Given a zombie: another worker has run its turn meanwhile, which is fused
    with slow_training(injector):
        submission = world.submit(data(world), *LONG_TURN)
        zombie = wait_for_training(world, submission)
        (other,) = set(WORKERS) - {zombie}
        world.pause(zombie)
    world.wait_complete(submission)
    assert ("turn_committed", other) in events(world, submission)
    version = world.repository.ledger.base_version().version

    world.wake(zombie)

    outcomes = {"turn_superseded", "turn_duplicate"}
    eventually(
        lambda: {event for event, name in events(world, submission) if name == zombie} & outcomes
    )
    eventually(world.is_idle)
    world.wait_complete(submission)
    assert world.repository.ledger.base_version().version == version


# --- workers that are told to stop --------------------------------------------------------------


def test_sigterm_hands_a_turn_on_and_another_worker_goes_on_from_its_checkpoint(
    world: World, injector: Injector
) -> None:
    with slow_training(injector):
        submission = world.submit(data(world), *LONG_TURN)
        worker = wait_for_training(world, submission, after_step=10)
        (other,) = set(WORKERS) - {worker}
        stopped = time.monotonic()

        world.terminate(worker)

        # It ends when its turn is handed on, not when the time it has for that is over.
        eventually(lambda: not world.runs(worker))
    assert time.monotonic() - stopped < int(QUICK["COLDFUSION_SOFT_SHUTDOWN_SECONDS"]) / 2
    world.wait_complete(submission)
    assert ("turn_interrupted", worker) in events(world, submission)
    assert ("turn_committed", other) in events(world, submission)
    (step,) = [
        item["step"]
        for item in world.events(worker)
        if item.get("event") == "turn_interrupted" and item["submission"] == submission
    ]
    assert step > 10
    # And not from the start: its first report there is of a later step.
    resumed = [item for item in world.events(other) if item.get("event") == "turn_resumed"]
    assert resumed[-1]["step"] == step


def test_an_interrupted_turn_ends_with_the_bytes_of_one_that_was_left_alone(
    make_world: MakeWorld, injector: Injector
) -> None:
    # Both from base version 0, because fusion waits for two, and from heads of the same numbers.
    turn = (*LONG_TURN, "--set", "head=fresh")
    own = {"INJECTOR_DIRECTORY": str(injector.directory)}
    with make_world(Policy(min_contributions=2, max_copy_cosine=None), **QUICK) as world:
        for kind in ("fusion_worker", "beat"):
            world.start_warm(kind)
        world.start_warm("finetune_worker", "finetune0", **own)
        alone = world.submit(data(world), *turn)
        eventually(lambda: world.state(alone)["state"] == "complete")
        with slow_training(injector):
            interrupted = world.submit(data(world), *turn)
            wait_for_training(world, interrupted, after_step=10)
            world.terminate("finetune0")
            eventually(lambda: not world.runs("finetune0"))
        world.start_warm("finetune_worker", "finetune0")

        world.wait_complete(alone, interrupted)

        assert digest(world, interrupted) == digest(world, alone)


def test_a_turn_that_cannot_stop_in_time_is_killed_and_run_by_another(
    world: World, injector: Injector
) -> None:
    own = {"COLDFUSION_SOFT_SHUTDOWN_SECONDS": "1", "INJECTOR_DIRECTORY": str(injector.directory)}
    for name in WORKERS:
        world.kill(name)
    world.start_warm("finetune_worker", "finetune0", **own)
    with until_fired(injector, CrashPoint.TURN_TRAINED, "delay 60"):
        submission = world.submit(data(world), *SHORT_TURN)

    world.terminate("finetune0")

    eventually(lambda: not world.runs("finetune0"))
    world.start_warm("finetune_worker", "finetune1")
    world.wait_complete(submission)


# --- clocks -------------------------------------------------------------------------------------


def test_clocks_an_hour_apart_cost_nothing(make_world: MakeWorld) -> None:
    hour = 3600
    # Turns that are longer than the lease
    with make_world(**QUICK, COLDFUSION_DUTY_CYCLE="0.2") as world:
        world.start_warm("beat", CLOCK_OFFSET_SECONDS=str(hour))
        world.start_warm("fusion_worker", CLOCK_OFFSET_SECONDS=str(-hour))
        world.start_warm("finetune_worker", "finetune0", CLOCK_OFFSET_SECONDS=str(hour))
        world.start_warm("finetune_worker", "finetune1", CLOCK_OFFSET_SECONDS=str(-hour))
        long = [world.submit(data(world), *LONGER_TURN, "--name", f"long{n}") for n in range(2)]
        short = world.submit(data(world), *SHORT_TURN, "--turns", 3)

        world.wait_complete(*long, short)

        assert [world.starts(name) for name in (*long, short)] == [1, 1, 3]
        written = world.repository.contributions.find(f"{short}.t00001")
        assert written is not None
        error = abs((written.created_at - datetime.now(UTC)).total_seconds())
        assert error > 3000, "no clock was wrong"
