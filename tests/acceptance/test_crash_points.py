"""A real process is killed at every named point of the protocol; nothing is lost or doubled.

Each point has its own test: it is armed, something is done that reaches it, the process dies with
SIGKILL and is started again, and everything runs on to quiescence. Then what was submitted is
decided exactly once, and the auditor, which shares no code with what writes, has no finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from coldfusion_queue.audit import audit
from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.names import contribution_id
from coldfusion_queue.records import Policy
from coldfusion_queue.repository.collecting import collect_garbage
from coldfusion_queue.repository.policy import change_policy
from tests.acceptance.conftest import MakeWorld
from tests.acceptance.gate_points import GATE_POINTS
from tests.acceptance.scene import DIVERGING, LONG, QUICK, Scene
from tests.acceptance.world import eventually, slow_training, until_fired
from tests.injector import Injector
from tests.rows import rows, write_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(make_world: MakeWorld, injector: Injector) -> Iterator[Scene]:
    policy = Policy(min_contributions=1, retain_contributions=0, retain_base_versions=2)
    # Every fusion is shared, and its helpers are the other processes of the one fusion worker.
    sharing = {"COLDFUSION_FUSION_SHARE_BYTES": "0"}
    with make_world(policy, max_shard_size="50KB", **sharing, **QUICK) as world:
        assert len(world.repository.ledger.base_version().model_files) > 2
        data = write_rows(world.data / "notes.jsonl", rows("single"))
        first = world.submit(data, "--set", "epochs=1", "--set", "batch_size=8")
        dataset_id = world.repository.submissions.get(first).dataset_id
        assert dataset_id is not None
        scene = Scene(world, injector, dataset_id)
        scene.expect(first)
        scene.start_missing()
        world.start_warm("beat")
        yield scene


@pytest.fixture
def scene(running: Scene) -> Iterator[Scene]:
    running.start_missing()
    yield running
    running.injector.disarm()


@pytest.fixture(scope="module", autouse=True)
def _tally(injector: Injector, request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    reached = injector.reached()
    killed = {point: number for point in CrashPoint if (number := injector.killed(point))}
    lines = [
        f"  {point:24} killed {number}, reached {reached[point]}"
        for point, number in killed.items()
    ]
    missing = [point.value for point in CrashPoint if point not in killed]
    lines.append(
        f"killed at {len(killed)} of {len(CrashPoint)} points; not at: {missing or 'none'}"
    )
    capturing = request.config.pluginmanager.get_plugin("capturemanager")
    with capturing.global_and_fixture_disabled():
        print("\n" + "\n".join(lines))


# --- how each point is reached ----------------------------------------------------------------


def by_a_submission(scene: Scene, point: CrashPoint) -> None:
    """Most points are on the way of any turn, or of the fusion after it."""
    scene.injector.arm(point)
    scene.submit()


def by_a_second_turn(scene: Scene, point: CrashPoint) -> None:
    scene.injector.arm(point)
    scene.submit(turns=2)


def by_a_submission_that_was_never_sent(scene: Scene, point: CrashPoint) -> None:
    scene.injector.arm(point)
    scene.submit(send=False)


def by_a_turn_that_fails(scene: Scene, point: CrashPoint) -> None:
    scene.injector.arm(point)
    scene.submit(how=DIVERGING, fails=True)


def by_a_worker_that_is_told_to_stop(scene: Scene, point: CrashPoint) -> None:
    scene.injector.arm(point)
    with slow_training(scene.injector):
        submission = scene.submit(how=LONG)
        eventually(lambda: scene.world.progress(submission.submission_id).get("step", 0) > 3)
        scene.world.terminate("finetune0")
        eventually(lambda: scene.injector.killed(point))


def by_a_turn_that_was_committed_elsewhere(scene: Scene, point: CrashPoint) -> None:
    submission = scene.hold(CrashPoint.COMMIT_UPLOADED)
    scene.commit_elsewhere(submission)
    scene.injector.arm(point)
    scene.injector.release(CrashPoint.COMMIT_UPLOADED)


def by_a_late_duplicates_marker(scene: Scene, point: CrashPoint) -> None:
    decided = scene.world.decisions()[0].contribution_id
    scene.injector.arm(point)
    scene.repository.store.create(scene.repository.keys.inbox_marker(decided), b"")


def by_a_contribution_that_changes_after_its_inspection(scene: Scene, point: CrashPoint) -> None:
    submission = scene.repository.submissions.create("elsewhere", kind="recycled", dataset_id=None)
    with until_fired(scene.injector, CrashPoint.FUSE_SELECTED, "hold"):
        scene.commit_elsewhere(submission)
    scene.damage(submission)
    scene.injector.arm(point)
    scene.injector.release(CrashPoint.FUSE_SELECTED)


def by_an_entry_of_another_writer(scene: Scene, point: CrashPoint) -> None:
    scene.hold(CrashPoint.PUBLISH_LINEAGE)
    change_policy(scene.repository, {"max_wait_seconds": 901})
    scene.injector.arm(point)
    scene.injector.release(CrashPoint.PUBLISH_LINEAGE)


WORKERS_POINTS: dict[CrashPoint, Callable[[Scene, CrashPoint], None]] = {
    CrashPoint.SEND_HINTED: by_a_second_turn,
    CrashPoint.SEND_SENT: by_a_second_turn,
    CrashPoint.TURN_LEASED: by_a_submission,
    CrashPoint.TURN_DOWNLOADED: by_a_submission,
    CrashPoint.TURN_STEPPED: by_a_submission,
    CrashPoint.CHECKPOINT_UPLOADED: by_a_worker_that_is_told_to_stop,
    CrashPoint.CHECKPOINT_RECORDED: by_a_worker_that_is_told_to_stop,
    CrashPoint.TURN_HANDED_BACK: by_a_worker_that_is_told_to_stop,
    CrashPoint.TURN_TRAINED: by_a_submission,
    CrashPoint.TURN_FAILED: by_a_turn_that_fails,
    CrashPoint.COMMIT_UPLOADED: by_a_submission,
    CrashPoint.COMMIT_MARKED: by_a_submission,
    CrashPoint.COMMIT_RECORDED: by_a_submission,
    CrashPoint.COMMIT_LOST: by_a_turn_that_was_committed_elsewhere,
    CrashPoint.COMMIT_CLEANED: by_a_submission,
    CrashPoint.TURN_RELEASED: by_a_second_turn,
    CrashPoint.SUBMISSION_CLOSED: by_a_submission,
    CrashPoint.RECONCILE_FOUND: by_a_submission_that_was_never_sent,
    CrashPoint.FUSE_LOCKED: by_a_submission,
    CrashPoint.FUSE_SETTLED: by_a_submission,
    CrashPoint.FUSE_UNMARKED: by_a_late_duplicates_marker,
    CrashPoint.FUSE_INSPECTED: by_a_submission,
    CrashPoint.FUSE_SELECTED: by_a_submission,
    CrashPoint.FUSE_REFUSED: by_a_contribution_that_changes_after_its_inspection,
    CrashPoint.SHARE_PLANNED: by_a_submission,
    CrashPoint.SHARE_KEPT: by_a_submission,
    CrashPoint.PUBLISH_MODEL: by_a_submission,
    CrashPoint.PUBLISH_FILES: by_a_submission,
    CrashPoint.PUBLISH_LINEAGE: by_a_submission,
    CrashPoint.DECIDE_APPENDED: by_a_submission,
    CrashPoint.DECIDE_LOST: by_an_entry_of_another_writer,
    CrashPoint.SETTLE_DECISION: by_a_submission,
    CrashPoint.SETTLE_DECISIONS: by_a_submission,
    CrashPoint.SETTLE_UNMARKED: by_a_submission,
}


@pytest.mark.parametrize("point", WORKERS_POINTS, ids=str)
def test_a_worker_is_killed_there_and_nothing_is_lost_or_doubled(
    point: CrashPoint, scene: Scene
) -> None:
    WORKERS_POINTS[point](scene, point)

    eventually(lambda: scene.injector.killed(point))
    eventually(scene.a_worker_died)
    scene.start_missing()
    scene.check()


# --- commands ---------------------------------------------------------------------------------


def killed(scene: Scene, point: CrashPoint, *arguments: object) -> None:
    """Run a command, which dies at the point."""
    scene.injector.arm(point, "kill-one")
    done = scene.world.run_warm(*arguments, INJECTOR_DIRECTORY=str(scene.injector.directory))
    assert done.code == -9, done
    assert scene.injector.killed(point)


@pytest.mark.parametrize("point", [CrashPoint.INIT_UPLOADED, CrashPoint.INIT_APPENDED], ids=str)
def test_init_is_killed_there_and_the_next_one_goes_on(
    point: CrashPoint, make_empty_world: MakeWorld, tiny_model_dir: object, injector: Injector
) -> None:
    with make_empty_world() as world:
        scene = Scene(world, injector, "none")
        killed(scene, point, "init", "--base", tiny_model_dir)

        assert world.run_warm("init", "--base", tiny_model_dir).code == 0

        collect_garbage(world.repository, 0)
        assert audit(world.settings, world.repository.name, 0).findings == ()


@pytest.mark.parametrize(
    "point",
    [CrashPoint.SUBMIT_UPLOADED, CrashPoint.SUBMIT_DATASET, CrashPoint.SUBMIT_MARKED],
    ids=str,
)
def test_submit_is_killed_before_it_is_recorded_and_is_repeated(
    point: CrashPoint, scene: Scene
) -> None:
    data = write_rows(scene.world.data / f"{point}.jsonl", rows("single", seed=len(point)))
    command = ("submit", data, "--set", "epochs=1", "--set", "batch_size=8", "--json")
    before = {item.submission_id for item in scene.repository.submissions.all()}
    killed(scene, point, *command)
    assert {item.submission_id for item in scene.repository.submissions.all()} == before

    scene.expect(scene.world.run_warm(*command).json()["submission"])

    scene.check()


def test_submit_is_killed_after_it_is_recorded_and_need_not_be_repeated(scene: Scene) -> None:
    data = write_rows(scene.world.data / "recorded.jsonl", rows("single", seed=7))
    before = {item.submission_id for item in scene.repository.submissions.all()}
    killed(
        scene,
        CrashPoint.SUBMIT_RECORDED,
        *("submit", data, "--set", "epochs=1", "--set", "batch_size=8"),
    )

    (new,) = {item.submission_id for item in scene.repository.submissions.all()} - before

    scene.expect(new)
    scene.check()


def test_a_change_of_the_policy_is_killed_and_holds(scene: Scene) -> None:
    killed(scene, CrashPoint.POLICY_APPENDED, "policy", "--set", "max_wait_seconds=17")

    assert scene.repository.ledger.newest().after.policy.max_wait_seconds == 17
    scene.submit()
    scene.check()


@pytest.mark.parametrize(
    "point", [CrashPoint.GC_PLANNED, CrashPoint.GC_RECORDED, CrashPoint.GC_DELETED], ids=str
)
def test_a_collection_is_killed_there_and_the_next_one_goes_on(
    point: CrashPoint, scene: Scene
) -> None:
    scene.submit(turns=4)  # each of its versions makes the weights of the one before garbage
    eventually(scene.is_quiet)

    killed(scene, point, "gc", "--grace-seconds", "0")

    scene.check()


def test_a_collection_is_killed_when_it_has_marked_a_lost_contribution_again(scene: Scene) -> None:
    scene.world.kill("fusion_worker")
    submission = scene.submit()
    name = contribution_id(submission.submission_id, 1)
    eventually(lambda: scene.repository.contributions.find(name))
    eventually(lambda: scene.world.queued()["finetune"] == 0)
    scene.repository.inbox.remove([name])

    killed(scene, CrashPoint.GC_MARKED, "gc", "--grace-seconds", "0")

    scene.start_missing()
    scene.check()


@pytest.mark.parametrize(
    "point", [CrashPoint.ROLLBACK_UPLOADED, CrashPoint.ROLLBACK_APPENDED], ids=str
)
def test_a_rollback_is_killed_there_and_is_done_or_repeated(
    point: CrashPoint, scene: Scene
) -> None:
    scene.submit()
    eventually(scene.is_quiet)
    before = scene.repository.ledger.base_version().version

    killed(scene, point, "rollback", before - 1)

    is_done = point is CrashPoint.ROLLBACK_APPENDED
    assert scene.repository.ledger.base_version().version == before + is_done
    scene.submit()
    scene.check()


def test_every_point_has_its_test() -> None:
    rooms = {"init", "submit", "gc", "rollback"}
    commands = {point for point in CrashPoint if point.split(".")[0] in rooms}
    commands.add(CrashPoint.POLICY_APPENDED)

    assert set(CrashPoint) == {*WORKERS_POINTS, *GATE_POINTS, *commands}
