"""Processes and servers that die in the middle of it: every submission still completes, once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from coldfusion_queue.local.launch import launch
from coldfusion_queue.local.processes import stop
from coldfusion_queue.local.seaweed import S3Server
from coldfusion_queue.local.state import connection_variables
from coldfusion_queue.local.valkey import ValkeyServer
from tests.acceptance.conftest import MakeWorld
from tests.acceptance.world import World, eventually, open_world, rows, write_rows

#: Everything that recovers looks every second.
QUICK = {
    "COLDFUSION_FUSION_INTERVAL_SECONDS": "1",
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_LEASE_SECONDS": "3",
    "COLDFUSION_PROGRESS_INTERVAL_SECONDS": "0.1",
    "COLDFUSION_SOFT_SHUTDOWN_SECONDS": "10",
    "COLDFUSION_DUTY_CYCLE": "0.2",
}
#: 45 steps, with the pauses of the duty cycle some four seconds: time to hit the middle of it.
LONG_TURN = ("--set", "epochs=15", "--set", "batch_size=8", "--set", "max_length=16")
SHORT_TURN = ("--set", "epochs=1", "--set", "batch_size=8", "--set", "max_length=16")
WORKERS = ("finetune0", "finetune1")


@pytest.fixture(scope="module")
def warm_world(make_world: MakeWorld) -> Iterator[World]:
    """Two finetune workers, which most tests here kill one of; the other has torch loaded."""
    with make_world(**QUICK) as opened:
        opened.start_all(finetune_workers=len(WORKERS))
        yield opened


@pytest.fixture
def world(warm_world: World) -> World:
    """The same, with the workers that an earlier test killed started again."""
    for name in WORKERS:
        if not warm_world.runs(name):
            warm_world.start("finetune_worker", name)
    return warm_world


def data(world: World, name: str = "notes") -> Path:
    return write_rows(world.data / f"{name}.jsonl", rows("single"))


def wait_for_training(world: World, submission: str, after_step: int = 3) -> str:
    """Until a turn is in the middle of its training; the name of the worker."""

    def trains() -> bool:
        report = world.progress(submission)
        return report.get("phase") == "training" and report["step"] > after_step

    eventually(trains)
    return str(world.progress(submission)["worker"]).partition("@")[0]


def wait_complete(world: World, *submissions: str, seconds: float = 60) -> None:
    """Until all turns are committed and fused."""

    def complete() -> bool:
        states = [world.state(name) for name in submissions]
        assert not any(state["failure"] for state in states), states
        return all(state["state"] == "complete" for state in states)

    eventually(complete, seconds)
    eventually(lambda: world.repository.inbox.count() == 0)


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


def test_a_redis_that_loses_everything_loses_no_submission(world: World) -> None:
    longer = (*LONG_TURN, "--set", "epochs=40")
    running = [world.submit(data(world), *longer) for _ in range(2)]
    queued = [world.submit(data(world), *SHORT_TURN, "--name", f"queued{n}") for n in range(2)]
    for submission in running:
        wait_for_training(world, submission)
    assert world.queued() == {"finetune": 2, "unacknowledged": 2, "hints": 4}

    world.redis.flushdb()

    wait_complete(world, *running, *queued)
    assert {("turn_resent", "fusion_worker")} <= set(events(world, queued[0]))
    world.check_fused_once(*running, *queued)


def test_the_turn_of_a_killed_pool_child_is_run_again(world: World) -> None:
    submission = world.submit(data(world), *LONG_TURN)
    worker = wait_for_training(world, submission)

    world.kill_pool_child(worker)

    wait_complete(world, submission)
    started = [event for event, _ in events(world, submission) if event == "turn_started"]
    assert len(started) == 2
    assert world.runs(worker)  # with a new child
    world.check_fused_once(submission)


def test_the_turn_of_a_killed_worker_is_sent_again_when_its_hint_expires(world: World) -> None:
    submission = world.submit(data(world), *LONG_TURN)
    worker = wait_for_training(world, submission)

    world.kill(worker)

    # The dead worker's hint stands for a minute at most, and that is all there is to wait for.
    hint = f"coldfusion:{world.repository.name}:turn:{submission}.t00001"
    assert 0 < world.redis.ttl(hint) <= 60  # type: ignore[operator]
    world.redis.expire(hint, 1)
    wait_complete(world, submission)
    assert ("turn_resent", "fusion_worker") in events(world, submission)
    world.check_fused_once(submission)


def test_sigterm_puts_a_turn_back_and_another_worker_finishes_it(world: World) -> None:
    submission = world.submit(data(world), *LONG_TURN)
    worker = wait_for_training(world, submission)
    (other,) = set(WORKERS) - {worker}
    message = received(world, worker)

    world.terminate(worker)

    wait_complete(world, submission)
    assert not world.runs(worker)
    assert ("turn_committed", other) in events(world, submission)
    # The very message came back, it is not only that reconcile sent another one.
    eventually(lambda: message & received(world, other))
    world.check_fused_once(submission)


def test_a_store_that_is_away_for_some_seconds_delays_a_turn(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    valkey, broker_process = launch(
        ValkeyServer.new(tmp_path / "valkey", num_databases=1024),
        tmp_path / "valkey.log",
        die_with_parent=True,
    )
    s3, store_process = launch(
        S3Server.new(tmp_path / "s3", volume_megabytes=64),
        tmp_path / "s3.log",
        die_with_parent=True,
    )
    try:
        variables = connection_variables(valkey, s3)
        quick = {**QUICK, "COLDFUSION_S3_MAX_ATTEMPTS": "2"}
        with open_world(variables, tmp_path / "world", tiny_model_dir, **quick) as world:
            world.start_all()
            submission = world.submit(data(world), *LONG_TURN)
            wait_for_training(world, submission)

            stop([store_process], 5)
            eventually(
                lambda: "turn_retried" in {e.get("event") for e in world.events("finetune0")}
            )
            s3, store_process = launch(s3, tmp_path / "s3.log", die_with_parent=True)

            wait_complete(world, submission)
            world.check_fused_once(submission)
    finally:
        stop([broker_process, store_process], 0)
        s3.clean()
