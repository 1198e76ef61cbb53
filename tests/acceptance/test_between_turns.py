"""A real worker of two processes: one trains, while the other prepares the next turn or uploads."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coldfusion_queue.audit import audit
from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.repository.fusing import fuse_once
from tests.acceptance.conftest import MakeWorld
from tests.acceptance.scene import Scene
from tests.acceptance.world import World, eventually, slow_training, until_fired
from tests.injector import Injector
from tests.rows import rows, write_rows

pytestmark = pytest.mark.slow

QUICK = {
    "COLDFUSION_FUSION_INTERVAL_SECONDS": "1",
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_LEASE_SECONDS": "3",
    "COLDFUSION_PROGRESS_INTERVAL_SECONDS": "0.1",
    "COLDFUSION_SOFT_SHUTDOWN_SECONDS": "10",
}
SHAPE = ("--set", "batch_size=8", "--set", "max_length=16")
#: 75 steps: ten seconds of ``slow_training``, less than one without.
LONG_TURN = ("--set", "epochs=25", *SHAPE)
SHORT_TURN = ("--set", "epochs=1", *SHAPE)
WORKER = "finetune0"


@pytest.fixture(scope="module")
def warm_world(make_world: MakeWorld, injector: Injector) -> Iterator[World]:
    with make_world(**QUICK) as opened:
        opened.start_warm("fusion_worker")
        opened.start_warm("beat")
        start_worker(opened, injector)
        # Each of the two processes has loaded what it needs.
        first = [opened.submit(data(opened), *SHORT_TURN, "--turns", 3) for _ in range(2)]
        opened.wait_complete(*first)
        yield opened


@pytest.fixture
def world(warm_world: World, injector: Injector) -> World:
    if not warm_world.runs(WORKER):
        start_worker(warm_world, injector)
    return warm_world


def start_worker(world: World, injector: Injector, **own: str) -> None:
    directory = str(injector.directory)
    world.start_warm("finetune_worker", WORKER, INJECTOR_DIRECTORY=directory, **own)


def data(world: World) -> Path:
    return write_rows(world.data / "notes.jsonl", rows("single"))


def begin(world: World, injector: Injector, *how: object) -> tuple[str, int]:
    """Submit, and wait until a process has fetched what it needs: submission and process."""
    point = CrashPoint.TURN_DOWNLOADED
    fired = injector.directory / "fired"
    before = set(fired.glob(f"{point}@delay-*"))
    with until_fired(injector, point, "delay 0"):
        submission = world.submit(data(world), *how)
    (new,) = set(fired.glob(f"{point}@delay-*")) - before
    return submission, int(new.name.split("-")[1])


def wait_for_phase(world: World, submission: str, phase: str) -> None:
    eventually(lambda: world.progress(submission).get("phase") == phase)


def one_trains_and_one_waits(
    world: World, injector: Injector
) -> tuple[tuple[str, int], tuple[str, int]]:
    """Two long turns, submission and process of each; call it within ``slow_training``."""
    training = begin(world, injector, *LONG_TURN)
    wait_for_phase(world, training[0], "training")
    waiting = begin(world, injector, *LONG_TURN)
    assert waiting[1] != training[1]
    wait_for_phase(world, waiting[0], "waiting")
    assert world.progress(training[0])["phase"] == "training"
    return training, waiting


def dataset_of(world: World, submission: str) -> str:
    return str(world.repository.submissions.get(submission).dataset_id)


def publish_a_base_version(scene: Scene) -> None:
    submission = scene.repository.submissions.create("other", kind="recycled", dataset_id=None)
    scene.commit_elsewhere(submission)
    fuse_once(scene.repository, scene.world.settings)


def moments(world: World, submission: str, event: str) -> list[int]:
    """Where in the worker's log an event of a submission's first turn is."""
    name = contribution_id(submission, 1)
    return [
        number
        for number, item in enumerate(world.events(WORKER))
        if item.get("event") == event
        and (item.get("contribution") == name or item.get("submission") == submission)
    ]


def test_a_turn_is_prepared_while_another_trains_and_trains_while_that_is_uploaded(
    world: World, injector: Injector
) -> None:
    with slow_training(injector):
        with until_fired(injector, CrashPoint.COMMIT_UPLOADED, "hold"):
            (first, _), (second, _) = one_trains_and_one_waits(world, injector)

        # The second trains while the first is held in its upload, which is not acknowledged
        wait_for_phase(world, second, "training")
        assert world.state(first)["committed_turns"] == 0
        assert world.queued()["unacknowledged"] == 2
    injector.release(CrashPoint.COMMIT_UPLOADED)

    world.wait_complete(first, second)
    eventually(world.is_idle)
    assert [world.starts(name) for name in (first, second)] == [1, 1]
    (ended,), (began,) = (
        moments(world, first, "training_ended"),
        moments(world, second, "training_began"),
    )
    assert ended < began < moments(world, first, "turn_committed")[0]


@pytest.mark.parametrize("phase", ["waiting", "training", "uploading"])
def test_a_process_is_killed_and_neither_its_turn_nor_the_others_is_lost_or_doubled(
    phase: str, world: World, injector: Injector
) -> None:
    uploaded = CrashPoint.COMMIT_UPLOADED
    before = injector.fired(uploaded)
    if phase == "uploading":
        injector.arm(uploaded, "hold")
    with slow_training(injector):
        (first, first_pid), (second, second_pid) = one_trains_and_one_waits(world, injector)
        victim, survivor = (second, first) if phase == "waiting" else (first, second)
        if phase == "uploading":
            wait_for_phase(world, second, "training")
            eventually(lambda: injector.fired(uploaded) > before)

        os.kill(second_pid if phase == "waiting" else first_pid, signal.SIGKILL)

    world.wait_complete(first, second)
    eventually(world.is_idle)
    assert [world.starts(victim), world.starts(survivor)] == [2, 1]
    assert world.runs(WORKER)


def test_a_worker_that_is_told_to_stop_hands_both_turns_back(
    world: World, injector: Injector
) -> None:
    with slow_training(injector):
        (training, _), (waiting, _) = one_trains_and_one_waits(world, injector)
        stopped = time.monotonic()

        world.terminate(WORKER)

        eventually(lambda: not world.runs(WORKER))
    assert time.monotonic() - stopped < int(QUICK["COLDFUSION_SOFT_SHUTDOWN_SECONDS"]) / 2
    assert world.queued() == {"finetune": 2, "unacknowledged": 0, "hints": 2}
    interrupted = {
        item["submission"]: item["step"]
        for item in world.events(WORKER)
        if item.get("event") == "turn_interrupted"
    }
    assert interrupted[training] > 0
    assert interrupted[waiting] == 0
    start_worker(world, injector)
    world.wait_complete(training, waiting)


def test_a_worker_that_is_told_to_stop_ends_its_upload_and_hands_the_other_turn_back(
    world: World, injector: Injector
) -> None:
    with slow_training(injector):
        with until_fired(injector, CrashPoint.COMMIT_UPLOADED, "hold"):
            (uploading, _), (training, _) = one_trains_and_one_waits(world, injector)
        wait_for_phase(world, training, "training")

        world.terminate(WORKER)
        eventually(lambda: moments(world, training, "turn_interrupted"))
    injector.release(CrashPoint.COMMIT_UPLOADED)

    eventually(lambda: not world.runs(WORKER))
    assert world.state(uploading)["committed_turns"] == 1
    assert world.queued()["finetune"] == 1
    start_worker(world, injector)
    world.wait_complete(uploading, training)
    assert world.starts(uploading) == 1


def test_the_base_version_that_is_published_while_a_turn_waits_is_trained_on(
    make_world: MakeWorld, injector: Injector
) -> None:
    # Nothing is fused but what the test fuses.
    with make_world(**QUICK) as world:
        start_worker(world, injector)
        with slow_training(injector):
            (first, _), (second, _) = one_trains_and_one_waits(world, injector)
            publish_a_base_version(Scene(world, injector, dataset_of(world, first)))
            assert world.repository.ledger.base_version().version == 1
            assert world.progress(second)["phase"] == "waiting"

        eventually(lambda: world.state(second)["state"] == "complete")

        found = [world.repository.contributions.find(f"{name}.t00001") for name in (first, second)]
        assert [item and item.base_version for item in found] == [0, 1]
        assert audit(world.settings, world.repository.name).findings == ()


def test_a_second_message_of_a_turn_that_this_worker_has_is_dropped(
    world: World, injector: Injector
) -> None:
    with slow_training(injector):
        submission, _ = begin(world, injector, *LONG_TURN)
        wait_for_phase(world, submission, "training")

        make_app(world.settings).send_task(
            "coldfusion.finetune", args=(world.repository.name, submission, 1), queue="finetune"
        )

        eventually(lambda: moments(world, submission, "turn_held"))
    world.wait_complete(submission)
    assert world.starts(submission) == 1


def test_a_turn_does_not_wait_at_a_worker_whose_training_is_far_from_its_end(
    make_world: MakeWorld, injector: Injector
) -> None:
    own = {**QUICK, "COLDFUSION_PREPARE_AHEAD_SECONDS": "0.5"}
    with make_world(**own) as world, slow_training(injector, step_seconds=0.5):
        world.start_warm("fusion_worker")
        start_worker(world, injector)
        training, _ = begin(world, injector, *LONG_TURN)
        eventually(lambda: world.progress(training).get("step", 0) > 3)

        left = world.submit(data(world), *SHORT_TURN)

        assert world.progress(training)["phase"] == "training"
        assert world.queued()["finetune"] == 1
        world.start_warm("finetune_worker", "finetune1")
        eventually(lambda: world.state(left)["state"] == "complete")
        assert world.progress(training)["phase"] == "training"
