"""The broker goes away from a site's worker, which has but one line to it: for its next turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coldfusion_queue.crash_points import CrashPoint
from tests.acceptance.own_servers import Servers
from tests.acceptance.world import World, eventually, open_world, until_fired
from tests.injector import Injector
from tests.rows import rows, write_rows

pytestmark = pytest.mark.slow

SITE = "clinic"
QUICK = {
    "COLDFUSION_FUSION_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_LEASE_SECONDS": "3",
    # A fusion that was at work when the broker went away leaves its lock in it.
    "COLDFUSION_FUSION_LOCK_SECONDS": "3",
}
TURN = ("--set", "epochs=1", "--set", "batch_size=8", "--set", "max_length=16")


@pytest.fixture(scope="module")
def world(
    own_servers: Servers,
    injector: Injector,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model_dir: Path,
) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("world")
    with open_world(own_servers.variables, directory, tiny_model_dir, **QUICK) as opened:
        write_rows(opened.data / "notes.jsonl", rows("single"))
        opened.start_warm("beat")
        opened.start_warm("fusion_worker")
        yield opened


@contextmanager
def site_worker(world: World, injector: Injector, **own: str) -> Iterator[None]:
    own |= {"COLDFUSION_SITE": SITE, "COLDFUSION_SITE_DATA_DIR": str(world.data)}
    own |= {"INJECTOR_DIRECTORY": str(injector.directory)}
    world.start_warm("finetune_worker", "site", **own)
    try:
        yield
    finally:
        world.kill("site")


def submit(world: World) -> str:
    return world.submit("site:notes.jsonl", "--site", SITE, *TURN)


def hold(injector: Injector, point: CrashPoint, world: World) -> str:
    """Submit, and wait until the site's worker is held at the point."""
    with until_fired(injector, point, "hold"):
        return submit(world)


def says(world: World, text: str) -> int:
    """How often the site's worker said it."""
    return sum(text in str(item.get("message")) for item in world.events("site"))


def end_without_the_broker(injector: Injector, point: CrashPoint, world: World) -> None:
    """Let a turn that is held end, until the worker could not say so."""
    before = says(world, "Couldn't ack")
    injector.release(point)
    eventually(lambda: says(world, "Couldn't ack") > before)


def test_a_worker_whose_one_turn_ended_while_the_broker_was_away_takes_the_next_one(
    world: World, own_servers: Servers, injector: Injector
) -> None:
    with site_worker(world, injector, COLDFUSION_PREPARE_AHEAD_SECONDS="0"):
        running = hold(injector, CrashPoint.TURN_TRAINED, world)

        own_servers.stop_valkey()
        end_without_the_broker(injector, CrashPoint.TURN_TRAINED, world)
        own_servers.start_valkey()

        world.wait_complete(running, submit(world))
    assert world.starts(running) == 1


def test_a_worker_whose_two_turns_ended_while_the_broker_was_away_takes_the_next_one(
    world: World, own_servers: Servers, injector: Injector
) -> None:
    with site_worker(world, injector):
        uploading = hold(injector, CrashPoint.TURN_TRAINED, world)
        training = hold(injector, CrashPoint.TURN_STEPPED, world)

        own_servers.stop_valkey()
        end_without_the_broker(injector, CrashPoint.TURN_TRAINED, world)
        end_without_the_broker(injector, CrashPoint.TURN_STEPPED, world)
        own_servers.start_valkey()

        world.wait_complete(uploading, training, submit(world))
    assert world.starts(uploading) == world.starts(training) == 1


def test_a_worker_that_still_trains_when_the_broker_is_back_trains_that_turn_once(
    world: World, own_servers: Servers, injector: Injector
) -> None:
    with site_worker(world, injector):
        uploading = hold(injector, CrashPoint.TURN_TRAINED, world)
        training = hold(injector, CrashPoint.TURN_STEPPED, world)

        own_servers.stop_valkey()
        end_without_the_broker(injector, CrashPoint.TURN_TRAINED, world)
        own_servers.start_valkey()
        waiting = submit(world)
        injector.release(CrashPoint.TURN_STEPPED)

        world.wait_complete(uploading, training, waiting)
    assert world.starts(uploading) == world.starts(training) == 1


def test_a_worker_with_nothing_in_hand_takes_a_turn_when_the_broker_is_back(
    world: World, own_servers: Servers, injector: Injector
) -> None:
    with site_worker(world, injector):
        world.wait_complete(submit(world))
        before = says(world, "Connection to broker lost")

        own_servers.stop_valkey()
        eventually(lambda: says(world, "Connection to broker lost") > before)
        own_servers.start_valkey()

        world.wait_complete(submit(world))
