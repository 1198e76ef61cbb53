"""Private data: a site's worker finetunes on it, and nothing of it is anywhere else."""

from __future__ import annotations

import base64
import csv
import json
import random
import re
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import safe_open

from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.local.ports import free_port
from tests.acceptance.access import acl_rules
from tests.acceptance.conftest import MakeWorld
from tests.acceptance.leaks import Wire, found, listening, objects, redis_values
from tests.acceptance.world import World, eventually, until_fired
from tests.collector import Collector, collecting
from tests.injector import Injector
from tests.rows import rows, write_rows

SITE = "hospital-a"
QUICK = ("--set", "epochs=1", "--set", "batch_size=8", "--set", "max_length=16")

#: What must be nowhere but at the site.
TEXT, PAIR, COLUMN, FILE, VALUE = (f"zqx{name}zqx" for name in ("te", "pa", "co", "fi", "va"))
LABELS = ("zqxlazqx", "zqxlbzqx")
CANARIES = (TEXT, PAIR, COLUMN, FILE, VALUE, *LABELS)


def private_rows(number: int = 24) -> list[dict[str, object]]:
    pairs = rows("pair", number)
    for index, row in enumerate(pairs):
        row["text"] = f"{row['text']} {TEXT}"
        row["text_pair"] = f"{PAIR} {row['text_pair']}"
        row["label"] = random.Random(index).choice(LABELS)
        row[COLUMN] = index
    return pairs


def write_private(directory: Path) -> None:
    """A good folder, and three ways in which data is bad."""
    for name in ("notes", "people"):
        (directory / name).mkdir(parents=True)
    write_rows(directory / "notes" / "train.parquet", private_rows())
    write_rows(directory / "notes" / "validation.jsonl", private_rows(8))
    write_rows(directory / "bad-row.csv", private_rows())
    with (directory / "bad-row.csv").open("a", encoding="utf-8") as file:
        file.write(f"{TEXT},{PAIR}\n")
    with (directory / "no-header.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([[f"{TEXT} once", label] for label in LABELS * 4])
    for number in range(2):  # which of them is the training split cannot be known
        write_rows(directory / "people" / f"{FILE}{number}.jsonl", private_rows())


@dataclass(frozen=True)
class Scene:
    """What was submitted to a site, and all that could be seen from outside meanwhile."""

    world: World
    wire: Wire
    metrics: bytes
    traces: Collector
    submissions: dict[str, str]


@pytest.fixture(scope="module")
def scene(make_world: MakeWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A site's worker with credentials of its own beside an ordinary one, and every ending."""
    private = tmp_path_factory.mktemp("private")
    write_private(private)
    injector = Injector(tmp_path_factory.mktemp("injector"))
    quick = {
        "COLDFUSION_FUSION_INTERVAL_SECONDS": "1",
        "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "1",
        "COLDFUSION_LEASE_SECONDS": "9",
        "COLDFUSION_PROGRESS_INTERVAL_SECONDS": "0.01",
        "COLDFUSION_TRACES": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with collecting() as traces, ExitStack() as stack:
        quick["OTEL_EXPORTER_OTLP_ENDPOINT"] = traces.endpoint
        world = stack.enter_context(make_world(**quick))
        wire = stack.enter_context(listening(world))
        ports = {name: str(free_port()) for name in ("site", "exporter")}
        own = {
            "COLDFUSION_SITE_DATA_DIR": str(private),
            "COLDFUSION_SITE": SITE,
            "COLDFUSION_BROKER_URL": own_user(world),
            "COLDFUSION_METRICS_PORT": ports["site"],
            "COLDFUSION_LOG_LEVEL": "DEBUG",
            "INJECTOR_DIRECTORY": str(injector.directory),
        }
        world.start("finetune_worker", "site", **own)
        world.start("exporter", COLDFUSION_METRICS_PORT=ports["exporter"])
        world.start_all()
        submissions = run_everything(world, injector)
        eventually(lambda: metrics_of(ports["exporter"]))
        metrics = b"".join(map(metrics_of, ports.values()))
        denied = [item["object"] for item in world.redis.acl_log() if item["username"] == SITE]
        assert denied == []
        eventually(lambda: traces.spans("commit", submission=submissions["escaped"]))
        yield Scene(world, wire, metrics, traces, submissions)


def own_user(world: World) -> str:
    """The broker's URL with a user who may do no more than a site needs, as in docs/sites.md."""
    rules = acl_rules("site", world.repository.name, SITE)
    world.redis.execute_command("ACL", "SETUSER", SITE, "on", ">its-own", *rules)
    url = world.settings.broker_url.get_secret_value()
    return f"redis://{SITE}:its-own@{url.rpartition('@')[2]}"


def run_everything(world: World, injector: Injector) -> dict[str, str]:
    """Turns that are committed, that fail on bad data, and that break with a value in the text."""

    def submit(path: str, *options: str) -> str:
        return world.submit(f"site:{path}", "--site", SITE, *QUICK, *options)

    def failed(name: str) -> bool:
        return bool(world.state(name)["state"] == "failed")

    done = {"good": submit("notes", "--turns", "2")}
    for path in ("bad-row.csv", "no-header.csv", "people"):
        done[path] = submit(path)
    world.wait_complete(done["good"])
    for name in list(done.values())[1:]:
        eventually(lambda name=name: failed(name))
    with until_fired(injector, CrashPoint.TURN_DOWNLOADED, f"raise {VALUE} {TEXT}"):
        done["broken"] = submit("notes")
    eventually(lambda: failed(done["broken"]))
    # Where no task catches it, so that Celery logs it and publishes an event.
    with until_fired(injector, CrashPoint.TURN_RELEASED, f"raise {VALUE} {TEXT}"):
        done["escaped"] = submit("notes")
    world.wait_complete(done["escaped"])
    return done


def metrics_of(port: str) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


@pytest.mark.parametrize("canary", CANARIES)
def test_a_canary_is_found_in_whatever_form_it_leaves(canary: str) -> None:
    for shift in range(3):
        message = json.dumps({"body": " " * shift + f"a row: {canary}, 3"}).encode()
        forms = (message, message.hex().encode(), base64.b64encode(message))
        assert all(found(canary, b"\0\xff" + form) for form in forms)
    assert found(canary, f"x{canary}y".encode("utf-16"))
    assert not found(canary, b"zqxzqx" * 100)


@pytest.mark.slow
def test_nothing_of_private_data_leaves_the_site(scene: Scene) -> None:
    world = scene.world
    places = {f"object {key}": data for key, data in objects(world)}
    places |= {f"redis {key}": data for key, data in redis_values(world)}
    logs = (world.directory / "logs").iterdir()
    places |= {f"log {log.name}": log.read_bytes() for log in logs}
    places |= {"commands to redis": bytes(scene.wire.data), "metrics": scene.metrics}
    places["traces"] = bytes(scene.traces.raw)

    leaks = {
        f"{canary} in {place}"
        for place, data in places.items()
        for canary in CANARIES
        if found(canary, data)
    }

    assert leaks == set()
    # All of it was looked at, while something happened.
    assert {"log site.log", "log fusion_worker.log", "log exporter.log"} <= places.keys()
    assert any("/head.safetensors" in place for place in places)
    assert scene.wire.holds(r'"PUBLISH" "/\d+\.celeryev/')
    assert scene.wire.holds(rf"coldfusion:{world.repository.name}:progress")
    assert b"coldfusion_finetunes_total" in scene.metrics
    labels = f'queue="finetune.{SITE}",repository="{world.repository.name}",site="{SITE}"'
    assert f"coldfusion_queue_length{{{labels}}} 0.0".encode() in scene.metrics
    # No data, compressed or not, and no state of a training.
    assert not [place for place, data in places.items() if b"PAR1" in data]
    assert not [place for place in places if "/datasets/" in place or "/checkpoints/" in place]


def test_a_submission_to_a_site_where_nobody_is_waits_and_says_so(idle_world: World) -> None:
    arguments = ("site:notes/2024.csv", "--site", "nowhere", "--turns", "2")
    done = idle_world.run("coldfusion-submit", *arguments)

    assert done.code == 0
    assert "note: no worker of site nowhere is there now; the turn waits for one" in done.err
    assert "notes/2024.csv of site nowhere, which is checked there; 2 turn(s)" in done.err
    assert done.out.startswith("nowhere-2024-")
    assert idle_world.redis.llen("finetune.nowhere") == 1
    assert idle_world.redis.llen("finetune") == 0
    # Nothing of the file is needed here, and nothing is uploaded.
    assert not [key for key in idle_world.objects() if "/datasets/" in key]
    answer = idle_world.run("coldfusion-submit", *arguments, "--json").json()
    assert answer["dataset"] == "site:nowhere/notes/2024.csv"
    assert answer["notes"] == ["no worker of site nowhere is there now; the turn waits for one"]


@pytest.mark.slow
def test_a_site_is_told_enough_to_mend_its_data(scene: Scene) -> None:
    def reason(name: str) -> str:
        return str(scene.world.state(scene.submissions[name])["failure"].reason)

    assert "site:bad-row.csv: line 26 has 2 fields, expected 4" in reason("bad-row.csv")
    assert "site:no-header.csv: none of its columns is known" in reason("no-header.csv")
    assert "2 names that stay at the site" in reason("no-header.csv")
    assert "site:people: it has no split 'train'" in reason("people")
    assert reason("broken") == "unexpected InjectedError, see worker's log"
    (told,) = [
        item
        for item in scene.world.events("site")
        if item.get("event") == "turn_failed" and item["submission"] == scene.submissions["broken"]
    ]
    assert told["traceback"].startswith("InjectedError at coldfusion_queue/crash_points.py:")
    assert "coldfusion_queue/turn.py:" in told["traceback"]


@pytest.mark.slow
def test_only_the_sites_worker_runs_its_turns_and_what_it_commits_is_told(scene: Scene) -> None:
    world, good = scene.world, scene.submissions["good"]
    ours = set(scene.submissions.values())
    started = {
        name: {item["submission"] for item in world.events(name) if is_start(item)}
        for name in ("site", "finetune0")
    }
    assert started == {"site": ours, "finetune0": set()}

    contribution = world.run("coldfusion", "show", f"{good}.t00002", "--json").json()
    assert contribution["dataset_id"] == f"site:{SITE}/notes"
    assert contribution["num_examples"] == 24
    figures = {"train_loss", "num_steps", "stopped_early", "validation_accuracy"}
    assert contribution["metrics"].keys() == figures
    head = world.directory / "head.safetensors"
    head.write_bytes(world.store.get(contribution["head"]["key"]))
    with safe_open(head, framework="numpy") as file:
        meaning = json.loads(file.metadata()["head"])
    assert meaning["labels"] == ["0", "1"]
    shown = world.run("coldfusion", "status", "--all", "--json").json()
    assert {item["site"] for item in shown["submissions"]} == {SITE}
    assert shown["queues"][f"finetune.{SITE}"] == 0
    text = world.run("coldfusion", "status", "--all").out
    assert re.search(rf"{good} +{SITE} +complete +2/2", text)
    # Nothing of the data is left on the site's own disk either.
    assert list((world.directory / "home" / "site" / "scratch").iterdir()) == []
    answer = world.run("coldfusion-submit", "site:notes", "--site", SITE, "--json").json()
    assert answer["notes"] == []  # somebody is there


def is_start(item: dict[str, object]) -> bool:
    return item.get("event") == "turn_started"
