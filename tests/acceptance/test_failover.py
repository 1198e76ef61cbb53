"""Workers follow a broker that is replaced while they work, and nothing is lost or done twice."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.queue.app import unacked_key
from tests.acceptance.world import World, eventually, open_world, until_fired
from tests.injector import Injector
from tests.rows import rows, write_rows
from tests.valkeys import PASSWORD, SENTINEL_PASSWORD, Watched, watched

pytestmark = pytest.mark.slow

QUICK = {
    "COLDFUSION_FUSION_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_LEASE_SECONDS": "6",
    "COLDFUSION_PROGRESS_INTERVAL_SECONDS": "0.1",
    "COLDFUSION_BROKER_CONNECT_TIMEOUT_SECONDS": "1",
    # A fusion in the moment of the failover cannot give its lock up, which has to expire.
    "COLDFUSION_FUSION_LOCK_SECONDS": "5",
}
TURN = ("--set", "epochs=1", "--set", "batch_size=8", "--set", "max_length=16")


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("watched")) as found:
        yield found


@pytest.fixture
def world(
    servers: Mapping[str, str],
    broker: Watched,
    injector: Injector,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model_dir: Path,
) -> Iterator[World]:
    own = {**QUICK, **broker.variables, "INJECTOR_DIRECTORY": str(injector.directory)}
    directory = tmp_path_factory.mktemp("world")
    with open_world(servers, directory, tiny_model_dir, **own) as opened:
        for kind in ("beat", "fusion_worker", "finetune_worker"):
            opened.start_warm(kind)
        yield opened


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hangs"])
def test_turns_go_on_when_another_server_takes_the_brokers_place(
    world: World, broker: Watched, injector: Injector, number: signal.Signals
) -> None:
    data = write_rows(world.data / "notes.jsonl", rows("single"))
    eventually(broker.has_replica)
    # Given a turn that runs, and one that waits
    with until_fired(injector, CrashPoint.TURN_STEPPED, "hold"):
        running = world.submit(data, *TURN)
    waiting = world.submit(data, *TURN)

    # When another server takes the place of the broker
    before = broker.lose_primary(number)
    eventually(lambda: broker.has_moved(before))
    injector.release(CrashPoint.TURN_STEPPED)

    # Then both are done, and what is submitted now
    later = world.submit(data, *TURN)
    world.wait_complete(running, waiting, later, seconds=40)
    eventually(world.is_idle)
    assert {world.starts(name) for name in (running, waiting, later)} == {1}
    assert world.redis.hlen(unacked_key("finetune")) == 0
    for name in ("beat", "fusion_worker", "finetune_worker"):
        assert world.runs(name)
        text = world.log_file(name).read_text()
        assert PASSWORD not in text
        assert SENTINEL_PASSWORD not in text
