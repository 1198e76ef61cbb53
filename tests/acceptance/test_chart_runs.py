"""What the chart renders runs: servers, workers, commands, each with its own rights and no more."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from coldfusion_queue.errors import AccessDeniedError, NotFoundError
from coldfusion_queue.local.ports import GRPC_OFFSET
from coldfusion_queue.store import Store
from tests.acceptance.grpc import call, field, token
from tests.acceptance.rendered_release import (
    DRAIN_SECONDS,
    SERVERS,
    SITE,
    SOFT_SECONDS,
    USERS,
    Release,
)
from tests.acceptance.rendered_runs import run, run_warm
from tests.acceptance.world import eventually
from tests.rows import rows, write_rows

pytestmark = pytest.mark.slow

SHAPE = ("--set", "batch_size=8", "--set", "max_length=16")
#: 1200 and 450 steps: many seconds, of which a drain takes one, and some.
LONG, SHORTER = (("--set", f"epochs={number}", *SHAPE) for number in (400, 150))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Iterator[Release]:
    """All of it, as a cluster starts it: everything but the servers at once."""
    release = Release(tmp_path_factory.mktemp("release"), tiny_model_dir)
    try:
        for running in [release.start(part) for part in SERVERS]:
            running.wait_for("startupProbe")
        workers = [release.start(part) for part in USERS]
        done = run(release.pod("setup"))
        assert done.code == 0, done.err
        for running in workers:
            running.wait_for("startupProbe")
        yield release
    finally:
        release.close()


def test_every_deployment_runs_and_its_probes_succeed(release: Release) -> None:
    parts = release.cluster.parts("Deployment", "StatefulSet")
    assert sorted([*SERVERS, *USERS]) == parts
    for running in release.running.values():
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            running.wait_for(kind)


def test_whatever_is_rendered_is_read_by_somebody(release: Release) -> None:
    parts = release.cluster.parts("Deployment", "StatefulSet", "Pod")
    unread = {part: release.pod(part).unread() for part in (*parts, "setup")}
    assert unread == {part: [] for part in unread}


def test_set_up_again_leaves_the_repository_as_it_is(release: Release) -> None:
    record = release.world.repository.record()
    done = run(release.pod("setup"))
    assert done.code == 0
    assert "repository rendered exists and was left as it is" in done.out
    assert release.world.repository.record() == record


def test_helm_test_succeeds_with_the_rights_of_who_submits(release: Release) -> None:
    doctor = run_warm(release.pod("test-doctor"))
    assert doctor.code == 0, doctor.out
    assert "wrong" not in doctor.out
    loop = run(release.pod("test-loop"))
    assert loop.code == 0, loop.err
    assert "complete: 1 contribution(s), fused into base version" in loop.out


def test_a_site_makes_a_turn_from_what_is_mounted(release: Release) -> None:
    turn = release.submit("site:notes.jsonl", "--site", SITE, "--set", "epochs=1", *SHAPE)
    release.world.wait_complete(turn)
    (site,) = release.of(f"pool-{SITE}")
    assert release.events(site, turn) == ["started", "committed"]


def test_the_exporter_is_reached_by_its_service(release: Release) -> None:
    address = release.cluster.addresses["cf-coldfusion-exporter.coldfusion.svc:9464"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    assert 'coldfusion_up{repository="rendered"} 1.0' in lines
    labels = f'queue="finetune.{SITE}",repository="rendered",site="{SITE}"'
    assert f"coldfusion_queue_length{{{labels}}} 0.0" in lines


def test_nobody_reaches_the_store_without_a_key_of_his_own(release: Release) -> None:
    """Its parts ask each other, and whoever else comes, for what only security.toml holds."""
    (store,) = release.of("store")
    url = f"http://127.0.0.1:{store.container.ports['filer']}/"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=10)
    refused.value.close()
    assert refused.value.code == 401
    # Who adds an identity over gRPC can do everything; that port listens on all addresses.
    credentials = field(1, b"intruder") + field(2, b"intruder's own")
    identity = field(1, b"intruder") + field(2, credentials) + field(3, b"Admin")
    method = "/messaging_pb.SeaweedS3IamCache/PutIdentity"
    port = store.container.ports[8333] + GRPC_OFFSET
    keys = {"s3_access_key": SecretStr("intruder"), "s3_secret_key": SecretStr("intruder's own")}
    settings = release.world.settings.model_copy(update=keys)
    call(port, method, field(1, identity))
    with pytest.raises(AccessDeniedError):
        Store.open(settings).get("anything")
    call(port, method, field(1, identity), token(release.secret["jwt-write"]))
    with pytest.raises(NotFoundError):  # the request is one that would have worked
        Store.open(settings).get("anything")


def test_a_worker_that_is_told_to_stop_hands_on_its_turn_within_its_grace(release: Release) -> None:
    # Given a worker in the middle of a turn
    world, worker = release.world, release.worker()
    data = write_rows(world.data / "drained.jsonl", rows("single"))
    turn = release.submit(data, *LONG)
    eventually(lambda: world.progress(turn).get("phase") == "training")

    # When its pod is deleted, and another one takes its place
    started = time.monotonic()
    worker.terminate()
    other = release.start("pool-cpu")

    # Then it trains on, saves a checkpoint and ends before it is killed
    assert worker.wait(worker.grace_seconds) == 0
    seconds = time.monotonic() - started
    assert seconds >= DRAIN_SECONDS
    assert worker.grace_seconds > DRAIN_SECONDS + SOFT_SECONDS
    assert release.events(worker, turn) == ["started", "interrupted"]
    # And the other one goes on from there
    world.wait_complete(turn)
    assert release.events(other, turn) == ["started", "resumed", "committed"]
    assert world.redis.hlen("unacked:finetune:cpu") == 0


def test_a_worker_that_has_no_grace_loses_nothing(release: Release) -> None:
    world, worker = release.world, release.worker()
    data = write_rows(world.data / "killed.jsonl", rows("single", seed=2))
    turn = release.submit(data, *SHORTER)
    eventually(lambda: world.progress(turn).get("phase") == "training")

    worker.kill()
    assert world.redis.hlen("unacked:finetune:cpu") == 1
    other = release.start("pool-cpu")

    world.wait_complete(turn)
    assert "committed" not in release.events(worker, turn)
    assert release.events(other, turn) == ["started", "committed"]
    assert world.redis.hlen("unacked:finetune:cpu") == 0


@pytest.mark.parametrize("part", ["beat", "exporter", "fusion"])
def test_a_pod_that_is_deleted_while_it_starts_does_not_go_on_starting(
    release: Release, part: str
) -> None:
    running = release.start(part)
    eventually(running.hears)
    assert running.log.read_text("utf-8") == ""  # Celery, which has its own ear, is still to come
    running.terminate()
    assert running.wait(running.grace_seconds) == 0
    assert running.log.read_text("utf-8") == ""


def test_everybody_is_the_user_of_his_role_and_is_refused_nothing(release: Release) -> None:
    for running in release.of(*USERS):
        if running.code() is None:
            running.wait_for("readinessProbe")  # for which it asks the broker
    refused = {
        (item["username"], item["object"].partition(".")[2].partition("\x06")[0])
        for item in release.world.redis.acl_log()
    }
    # Doctor would ask the workers, which is not for everybody who submits.
    assert refused <= {("submit", "reply.celery.pidbox")}
    clients = release.world.redis.client_list()
    assert {client["user"] for client in clients} == {*USERS.values(), "admin"}


def test_all_end_when_they_are_told_to_within_their_grace(release: Release) -> None:
    """The last of these tests: it ends what the others use."""
    for parts in (tuple(USERS), SERVERS):
        told = [running for running in release.of(*parts) if running.code() is None]
        for running in told:
            running.terminate()
        codes = {it.container.directory.name: it.wait(it.grace_seconds) for it in told}
        assert codes == dict.fromkeys(codes, 0)
        assert {name.rpartition("-")[0] for name in codes} == set(parts)
