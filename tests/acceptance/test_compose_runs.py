"""The compose file's own commands and environments, run as processes of this machine."""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from coldfusion_queue.local.ports import accepts_connections
from tests.acceptance.world import eventually
from tests.compose import DEPLOY, Host
from tests.rows import rows, write_rows

PROCESSES = ("finetune-cpu", "evaluation-cpu", "fusion", "beat", "exporter")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Iterator[Host]:
    """Broker and store of the file, a repository made by its ``setup``, and its processes."""
    path = DEPLOY / "compose" / "make_secrets.py"
    spec = importlib.util.spec_from_file_location("make_secrets", path)
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    directory = tmp_path_factory.mktemp("host")
    maker.make_secrets(directory / "made")
    model = {"MODELS_DIRECTORY": str(tiny_model_dir.parent)}
    host = Host(
        directory,
        directory / "made",
        BASE_MODEL=f"/models/{tiny_model_dir.name}",
        MIN_CONTRIBUTIONS="1",
        **model,
    )
    try:
        for service in ("valkey", "s3"):
            host.start(service)
        # As Compose does: after their health checks, and again when it fails
        eventually(lambda: is_up(host), 60)
        retries = int(host.services["setup"]["restart"].rpartition(":")[2])
        done = [host.run("setup")]
        while done[-1].returncode != 0 and len(done) <= retries:
            done.append(host.run("setup"))
        assert done[-1].returncode == 0, done[-1].stderr
        for service in PROCESSES:
            host.start(service)
        yield host
    finally:
        host.stop_all()


def get(host: Host, service: str, path: str, port: int = 9464) -> str | None:
    """What a service answers; None while it does not."""
    try:
        url = f"http://127.0.0.1:{host.port(service, port)}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read(), "utf-8")
    except OSError:
        return None


def is_up(host: Host) -> bool:
    """What the health checks of broker and store ask; they need programs of their images."""
    *_, url = host.services["s3"]["healthcheck"]["test"]
    path = urlsplit(url).path
    is_broker_up = accepts_connections(host.port("valkey", 6379))
    return is_broker_up and get(host, "s3", path, 8333) is not None


@pytest.mark.slow
def test_a_dataset_that_is_submitted_is_finetuned_on_and_fused(host: Host, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "notes.jsonl", rows("single"))
    quick = ("epochs=2", "batch_size=8", "max_length=16", "learning_rate=1e-3")
    options = [part for pair in quick for part in ("--set", pair)]

    done = host.run("cli", "coldfusion-submit", data, *options, "--wait", "--json")

    assert done.returncode == 0, done.stderr + host.log("finetune-cpu").read_text("utf-8")[-2000:]
    assert json.loads(done.stdout)["state"] == "complete"

    def version() -> int:
        shown = host.run("cli", "coldfusion", "status", "--json")
        return int(json.loads(shown.stdout)["base_version"])

    eventually(lambda: version() == 1, 60)
    lines = eventually(lambda: get(host, "exporter", "/metrics")).splitlines()
    assert "coldfusion_base_version" in {line.split("{")[0].split()[0] for line in lines}


def test_setup_a_second_time_leaves_everything_as_it_is(host: Host) -> None:
    done = host.run("setup")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("service", PROCESSES)
def test_each_process_is_healthy_by_the_file_and_ready(host: Host, service: str) -> None:
    eventually(lambda: host.is_healthy(service), 60)
    eventually(lambda: get(host, service, "/readyz"), 60)


def test_doctor_finds_nothing_wrong(host: Host) -> None:
    done = host.run("cli", "coldfusion", "doctor", "--json")

    found = {item["check"]: item for item in json.loads(done.stdout)}
    assert found.pop("device")["state"] == "note"  # no GPU is wanted here
    assert {item["state"] for item in found.values()} == {"ok"}, done.stdout


@pytest.mark.parametrize("service", PROCESSES)
def test_each_process_ends_within_the_grace_of_the_file(host: Host, service: str) -> None:
    assert host.stop(service), host.log(service).read_text("utf-8")[-2000:]
