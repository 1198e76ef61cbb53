"""A worker that drains: what trains goes on to its end, and what has not begun goes elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import MakeWorld
from tests.acceptance.world import World, eventually, slow_training
from tests.injector import Injector
from tests.rows import rows, write_rows

pytestmark = pytest.mark.slow

QUICK = {
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_LEASE_SECONDS": "3",
    "COLDFUSION_PROGRESS_INTERVAL_SECONDS": "0.1",
    "COLDFUSION_PREPARE_AHEAD_SECONDS": "60",
}
SHAPE = ("--set", "batch_size=8", "--set", "max_length=16")
#: 75 steps: seven seconds of ``slow_training``, more than twice the lease.
LONG_TURN = ("--set", "epochs=25", *SHAPE)


@pytest.fixture
def world(make_world: MakeWorld, injector: Injector) -> Iterator[World]:
    with make_world(**QUICK) as opened:
        opened.start_warm("fusion_worker")
        opened.start_warm("beat")
        yield opened


def start(world: World, injector: Injector, name: str, **own: str) -> None:
    directory = str(injector.directory)
    world.start_warm("finetune_worker", name, INJECTOR_DIRECTORY=directory, **own)


def test_a_worker_that_drains_ends_its_turn_once_and_gives_back_what_has_not_begun(
    world: World, injector: Injector
) -> None:
    # Given a worker of a pool that trains one turn, and has prepared another
    data: Path = write_rows(world.data / "notes.jsonl", rows("single"))
    start(world, injector, "drained", COLDFUSION_DRAIN_SECONDS="100", COLDFUSION_POOL="a")
    with slow_training(injector):
        trained = world.submit(data, *LONG_TURN)
        eventually(lambda: world.progress(trained).get("phase") == "training")
        prepared = world.submit(data, *LONG_TURN)
        eventually(lambda: world.progress(prepared).get("phase") == "waiting")
        assert world.redis.hlen("unacked:finetune:a") == 2
        assert world.redis.smembers("coldfusion:pools") == {"a"}

        # When it is told to stop, and there is another worker of its pool
        world.terminate("drained")
        start(world, injector, "other", COLDFUSION_POOL="a")

        # Then the prepared one goes elsewhere while it still trains, for longer than the lease
        eventually(lambda: world.progress(prepared).get("worker", "").startswith("other"))
        assert world.runs("drained")
        eventually(lambda: world.state(trained)["state"] == "complete")
    eventually(lambda: not world.runs("drained"))
    world.wait_complete(trained, prepared)

    def events(worker: str, submission: str) -> list[str]:
        return [
            item["event"] for item in world.events(worker) if item.get("submission") == submission
        ]

    whole = ["turn_started", "training_began", "training_ended", "turn_committed", "celery"]
    assert events("drained", trained) == whole
    assert events("other", trained) == []
    assert "turn_interrupted" in events("drained", prepared)
    assert events("other", prepared) == whole
    assert world.redis.hlen("unacked:finetune:a") == 0
