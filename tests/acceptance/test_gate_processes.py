"""The gate with real processes and real probes: killed on the way, and with nobody to probe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.records import Policy
from coldfusion_queue.repository.policy import change_policy
from tests.acceptance.conftest import MakeWorld
from tests.acceptance.gate_points import GATE_POINTS
from tests.acceptance.scene import QUICK, WORKERS, Scene
from tests.acceptance.world import eventually
from tests.injector import Injector
from tests.rows import rows, write_rows

pytestmark = pytest.mark.slow

_WITH_PROBES = {**WORKERS, "evaluation_worker": "evaluation_worker"}


@pytest.fixture(scope="module")
def running(make_world: MakeWorld, injector: Injector) -> Iterator[Scene]:
    # What the probes find is not the matter here: every model passes.
    policy = Policy(min_contributions=1, gate_tolerance=0.99, gate_max_drift=None)
    with make_world(policy, **QUICK) as world:
        data = write_rows(world.data / "notes.jsonl", rows("single", 60))
        first = world.submit(data, "--set", "epochs=1", "--set", "batch_size=8")
        dataset_id = world.repository.submissions.get(first).dataset_id
        assert dataset_id is not None
        change_policy(world.repository, {"gate_datasets": (dataset_id,)})
        scene = Scene(world, injector, dataset_id, _WITH_PROBES)
        scene.expect(first)
        scene.start_missing()
        world.start_warm("beat")
        yield scene


@pytest.fixture
def scene(running: Scene) -> Iterator[Scene]:
    running.start_missing()
    yield running
    running.injector.disarm()


@pytest.mark.parametrize("point", GATE_POINTS, ids=str)
def test_a_worker_is_killed_there_and_nothing_is_lost_or_doubled(
    point: CrashPoint, scene: Scene
) -> None:
    scene.injector.arm(point)
    scene.submit()

    eventually(lambda: scene.injector.killed(point))
    eventually(scene.a_worker_died)
    scene.start_missing()
    scene.check()

    assert scene.repository.ledger.newest().after.gate is not None
    assert list(scene.repository.evaluations.wanted()) == []


def test_without_anybody_to_probe_finetunes_go_on_and_nothing_is_published(scene: Scene) -> None:
    eventually(scene.is_quiet, 60)
    scene.world.kill("evaluation_worker")
    before = scene.repository.ledger.base_version().version

    submission = scene.submit(turns=3)

    name = submission.submission_id
    eventually(lambda: scene.world.state(name)["committed_turns"] == 3)
    eventually(
        lambda: scene.repository.candidates.is_waiting(
            scene.repository.ledger.newest().sequence + 1
        )
    )
    assert scene.repository.ledger.base_version().version == before
    status = scene.world.run_warm("status", "--json").json()
    assert status["candidate"]["version"] == before + 1
    assert status["candidate"]["missing"] == 1
    scene.start_missing()
    scene.check()
