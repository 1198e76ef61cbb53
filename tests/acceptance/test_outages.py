"""Store and broker go away, come back empty, or answer badly: every turn ends, and once."""

from __future__ import annotations

import random
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.local.ports import free_port
from tests.acceptance.own_servers import Servers
from tests.acceptance.servers import slow_proxy
from tests.acceptance.world import World, eventually, open_world, until_fired
from tests.injector import Injector
from tests.integration.proxy import Proxy
from tests.rows import rows, write_rows

pytestmark = pytest.mark.slow

#: A store that is away is given up after three tries, which is half a second: what then goes on
#: is the task's own patience.
QUICK = {
    "COLDFUSION_FUSION_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_LEASE_SECONDS": "3",
    "COLDFUSION_PROGRESS_INTERVAL_SECONDS": "0.1",
    "COLDFUSION_S3_MAX_ATTEMPTS": "3",
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
        opened.start_warm("beat")
        opened.start_warm("fusion_worker", INJECTOR_DIRECTORY=str(injector.directory))
        yield opened


@pytest.fixture
def finetuning(world: World, injector: Injector) -> Iterator[World]:
    """With a finetune worker that reaches the servers in the ordinary way."""
    world.start_warm("finetune_worker", "finetune0", INJECTOR_DIRECTORY=str(injector.directory))
    yield world
    world.kill("finetune0")


def hold(injector: Injector, point: CrashPoint, world: World) -> str:
    """Submit, and wait until a worker is held at the point."""
    with until_fired(injector, point, "hold"):
        return submit(world)


def submit(world: World, *options: object) -> str:
    return world.submit(write_rows(world.data / "notes.jsonl", rows("single")), *TURN, *options)


def events(world: World, *workers: str) -> list[str]:
    return [str(item.get("event")) for name in workers for item in world.events(name)]


def test_a_finished_finetune_outlasts_a_store_that_is_away(
    finetuning: World, own_servers: Servers, injector: Injector
) -> None:
    world = finetuning
    submission = hold(injector, CrashPoint.TURN_TRAINED, world)

    own_servers.stop_s3()
    injector.release(CrashPoint.TURN_TRAINED)
    eventually(lambda: events(world, "finetune0").count("upload_retried") >= 2)
    own_servers.start_s3(world)

    world.wait_complete(submission)
    assert world.starts(submission) == 1  # nothing was trained again


def test_a_store_that_goes_away_in_the_middle_of_an_upload_delays_the_turn(
    world: World, own_servers: Servers
) -> None:
    endpoint = own_servers.variables["COLDFUSION_S3_ENDPOINT"]
    with slow_proxy(endpoint, up=20_000) as proxy:  # two seconds for the tiny model
        world.start_warm("finetune_worker", "finetune0", COLDFUSION_S3_ENDPOINT=proxy.url)
        submission = submit(world)
        eventually(lambda: world.progress(submission).get("phase") == "uploading")
        sent = proxy.num_bytes_up
        eventually(lambda: proxy.num_bytes_up > sent + 20_000)

        own_servers.stop_s3()
        before = events(world, "finetune0").count("upload_retried")
        eventually(lambda: events(world, "finetune0").count("upload_retried") > before)
        own_servers.start_s3(world)

        world.wait_complete(submission)
        world.kill("finetune0")
    assert world.starts(submission) == 1


def test_a_store_that_goes_away_in_the_middle_of_a_fusion_delays_it(
    finetuning: World, own_servers: Servers, injector: Injector
) -> None:
    world = finetuning
    submission = hold(injector, CrashPoint.PUBLISH_MODEL, world)

    own_servers.stop_s3()
    injector.release(CrashPoint.PUBLISH_MODEL)
    eventually(lambda: "fusion_postponed" in events(world, "fusion_worker"))
    own_servers.start_s3(world)

    world.wait_complete(submission)


def test_a_new_and_empty_broker_loses_no_submission(
    finetuning: World, own_servers: Servers, injector: Injector
) -> None:
    world = finetuning
    running = hold(injector, CrashPoint.TURN_DOWNLOADED, world)
    queued = submit(world, "--name", "queued")

    own_servers.replace_valkey()
    injector.release(CrashPoint.TURN_DOWNLOADED)

    world.wait_complete(running, queued)
    assert world.starts(running) == 1


def test_probes_say_that_a_store_is_away_and_ask_for_no_restart(
    world: World, own_servers: Servers
) -> None:
    port = free_port()
    world.start_warm("exporter", COLDFUSION_METRICS_PORT=str(port))
    eventually(lambda: probe(port, "readyz")[0] == 200)

    own_servers.stop_s3()
    eventually(lambda: probe(port, "readyz")[0] == 503)
    assert probe(port, "readyz")[1].startswith("store: ")
    assert probe(port, "livez") == probe(port, "startupz") == (200, "ok\n")
    own_servers.start_s3(world)

    eventually(lambda: probe(port, "readyz") == (200, "ok\n"))
    world.kill("exporter")


def probe(port: int, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{port}/{path}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_answers_that_are_slow_wrong_or_missing_end_in_no_wrong_state(
    world: World, own_servers: Servers
) -> None:
    generator = random.Random(20221201)
    endpoint = own_servers.variables["COLDFUSION_S3_ENDPOINT"]
    weights = {"pass": 80, "503": 7, "drop": 4, "lost": 4, "cut": 2, "slow": 3}
    with Proxy(endpoint) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        proxy.faults = generator.choices(list(weights), list(weights.values()), k=4000)
        world.kill("fusion_worker")
        for kind, name in (("finetune_worker", "finetune0"), ("fusion_worker", "fusion_worker")):
            world.start_warm(kind, name, COLDFUSION_S3_ENDPOINT=proxy.endpoint)

        submissions = [submit(world, "--name", f"faulty{n}", "--turns", 2) for n in range(4)]

        world.wait_complete(*submissions, seconds=90)
        assert len(proxy.faults) < 3500, "too few requests went through the proxy"
        proxy.shutdown()
