"""What all processes of a whole loop log: one JSON object a line, and nothing that is secret."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from coldfusion_queue.local.ports import free_port
from coldfusion_queue.records import Policy
from tests.acceptance.conftest import MakeWorld
from tests.acceptance.leaks import found
from tests.acceptance.world import World, eventually
from tests.rows import rows, write_rows

OPTIONS = ("--set", "epochs=1", "--set", "batch_size=8", "--set", "max_length=16")
TEXT, LABEL = "zqxtezqx", "zqxlazqx"
WORKERS = ("finetune0", "evaluation_worker", "fusion_worker", "beat", "exporter")

Logs = dict[str, list[str]]


@pytest.fixture(scope="module")
def loop(make_world: MakeWorld) -> Iterator[tuple[World, str]]:
    """A world whose processes have ended after a submission was fused and measured."""
    world_variables = {
        "COLDFUSION_LOG_LEVEL": "DEBUG",
        "COLDFUSION_FUSION_INTERVAL_SECONDS": "1",
        "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "1",
        "COLDFUSION_GC_INTERVAL_SECONDS": "1",
    }
    policy = Policy(min_contributions=1, max_copy_cosine=None)
    with make_world(policy, **world_variables) as world, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        world.start_all()
        world.start("evaluation_worker")
        world.start("exporter", COLDFUSION_METRICS_PORT=str(free_port()))
        # Whose requests fail, with URLs that are signed.
        away = f"http://127.0.0.1:{unused.getsockname()[1]}"
        world.start("fusion_worker", "away", COLDFUSION_S3_ENDPOINT=away)
        data = [row | {"text": f"{row['text']} {TEXT}"} for row in rows("single")]
        data = [row | {"label": f"{LABEL}{row['label']}"} for row in data]
        submission = world.submit(write_rows(world.data / "notes.jsonl", data), *OPTIONS)
        world.wait_complete(submission)
        dataset = world.repository.submissions.get(submission).dataset_id
        assert world.run("coldfusion", "evaluate", "--dataset", dataset).code == 0
        eventually(lambda: events(world, "evaluation_worker", "evaluation_recorded"))
        eventually(lambda: events(world, "away", "store_unchecked"))
        for name in (*WORKERS, "away"):
            world.terminate(name)
        eventually(lambda: not any(world.runs(name) for name in (*WORKERS, "away")))
        yield world, submission


def events(world: World, name: str, event: str) -> list[dict[str, Any]]:
    return [item for item in world.events(name) if item.get("event") == event]


def lines(world: World) -> Iterator[tuple[str, str]]:
    for log in sorted((world.directory / "logs").iterdir()):
        for line in log.read_text("utf-8").splitlines():
            yield log.stem, line


@pytest.mark.slow
def test_every_line_of_every_process_is_a_record_with_an_event(loop: tuple[World, str]) -> None:
    world, _ = loop
    seen: dict[str, set[str]] = {}
    for name, line in lines(world):
        record = json.loads(line)
        assert {"time", "level", "logger", "message", "event", "repository"} <= record.keys(), line
        seen.setdefault(name, set()).add(record["event"])

    # The exporter has nothing to say as long as all is well.
    assert {*WORKERS, "away"} - seen.keys() <= {"exporter"}
    assert {"turn_started", "turn_committed", "worker_stopping", "celery"} <= seen["finetune0"]
    assert {"fusion_committed", "collection_ended"} <= seen["fusion_worker"]
    assert {"evaluation_recorded", "celery"} <= seen["evaluation_worker"]


@pytest.mark.slow
def test_every_record_of_a_turn_has_all_ids_of_it(loop: tuple[World, str]) -> None:
    world, submission = loop
    ours = [
        item for item in world.events("finetune0") if item["event"].startswith(("turn", "train"))
    ]
    ids = {
        "repository": world.repository.name,
        "submission": submission,
        "turn": 1,
        "contribution": f"{submission}.t00001",
    }

    assert {item["event"] for item in ours} >= {"turn_started", "training_began", "turn_committed"}
    assert all(ids.items() <= item.items() for item in ours), ours
    (task,) = {item["task"] for item in ours}
    (ended,) = [
        item
        for item in world.events("finetune0")
        if item["logger"] == "celery.app.trace" and item["task"] == task
    ]
    assert ids.items() <= ended.items()


@pytest.mark.slow
def test_records_of_fusion_and_evaluation_name_their_task_and_version(
    loop: tuple[World, str],
) -> None:
    world, _ = loop
    (fused,) = events(world, "fusion_worker", "fusion_committed")
    (measured, *_) = events(world, "evaluation_worker", "evaluation_recorded")

    assert fused["base_version"] == 1
    assert len({fused["task"], measured["task"]}) == 2
    assert measured["evaluation"]


@pytest.mark.slow
def test_no_line_holds_a_secret_or_a_row(loop: tuple[World, str]) -> None:
    world, _ = loop
    settings = world.settings
    assert settings.s3_access_key is not None
    assert settings.s3_secret_key is not None
    password = urlsplit(settings.broker_url.get_secret_value()).password
    secrets = {
        "access key": settings.s3_access_key.get_secret_value(),
        "secret key": settings.s3_secret_key.get_secret_value(),
        "broker's password": str(password),
        "text": TEXT,
        "label": LABEL,
    }
    data = b"\n".join(log.read_bytes() for log in (world.directory / "logs").iterdir())

    assert [name for name, secret in secrets.items() if found(secret, data)] == []
    # One was there, and was taken out.
    assert b"X-Amz-Signature=***" in data
