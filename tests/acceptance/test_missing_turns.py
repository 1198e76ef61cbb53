"""Turns that are queued nowhere are found while beat is down, and while a fusion runs."""

from __future__ import annotations

from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.keys import RedisKeys
from tests.acceptance.conftest import MakeWorld
from tests.acceptance.world import World, eventually
from tests.injector import Injector
from tests.rows import rows, write_rows

QUICK = {
    "COLDFUSION_FUSION_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_LEASE_SECONDS": "3",
}
TURN = ("--set", "epochs=1", "--set", "batch_size=8", "--set", "max_length=16")


def submit(world: World, name: str) -> str:
    return world.submit(write_rows(world.data / f"{name}.jsonl", rows("single")), *TURN)


def resent(world: World) -> list[str]:
    """Submissions of which the fusion worker sent a turn again."""
    events = world.events("fusion_worker")
    return [str(item["submission"]) for item in events if item.get("event") == "turn_resent"]


def test_a_fusion_worker_alone_sends_what_was_recorded_and_never_sent(
    make_world: MakeWorld,
) -> None:
    with make_world(**QUICK) as world:
        submission = submit(world, "never-sent")
        world.redis.flushdb()  # as if its sender had died before it sent anything

        world.start_warm("fusion_worker")

        eventually(lambda: world.queued()["finetune"] == 1, 15)
        assert resent(world) == [submission]


def test_a_turn_that_is_missing_waits_for_no_fusion(make_world: MakeWorld) -> None:
    with make_world(**QUICK) as world:
        injector = Injector(world.directory / "injector")
        variables = {"INJECTOR_DIRECTORY": str(injector.directory)}
        world.start_warm("beat")
        world.start_warm("fusion_worker", **variables)
        injector.arm(CrashPoint.FUSE_SELECTED, "hold")
        world.start_warm("finetune_worker")
        submit(world, "fused")
        eventually(lambda: injector.fired(CrashPoint.FUSE_SELECTED))
        world.kill("finetune_worker")
        missing = submit(world, "missing")

        hint = RedisKeys(world.repository.name).turn(f"{missing}.t00001")
        world.redis.delete("finetune", hint)  # but not the lock of the fusion

        eventually(lambda: resent(world) == [missing], 10)
        assert world.repository.ledger.base_version().version == 0
        injector.release(CrashPoint.FUSE_SELECTED)
        eventually(lambda: world.repository.ledger.base_version().version == 1)
