"""Which servers can be the broker: one on a socket, none that is a cluster; what doctor says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from coldfusion_queue.cli.doctor import _broker, _device, _try
from coldfusion_queue.cli.main import cli
from coldfusion_queue.errors import SettingsError
from coldfusion_queue.local.ports import HOST
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.queue.server import check_broker
from coldfusion_queue.settings import Settings, load_settings
from tests.valkeys import valkey
from workers import starting

Reach = Callable[..., Settings]


@pytest.fixture
def reach(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Reach:
    """``reach(url, **variables)``: the settings with another broker, in the environment too."""

    def change(url: str, **variables: str) -> Settings:
        for name, value in {"BROKER_URL": url, **variables}.items():
            monkeypatch.setenv(f"COLDFUSION_{name}", value)
        return load_settings()

    return change


def findings(code: int) -> dict[str, dict[str, Any]]:
    done = CliRunner().invoke(cli, ["doctor", "--json"], standalone_mode=False)
    assert done.exception is None, done.output
    assert done.return_value == code
    return {item["check"]: item for item in json.loads(done.stdout)}


# --- a cluster --------------------------------------------------------------------------------


def test_a_node_of_a_cluster_is_refused_by_workers_and_doctor(
    reach: Reach, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with valkey(tmp_path / "node", "cluster-enabled yes") as (port, _):
        settings = reach(f"redis://{HOST}:{port}/0")

        with pytest.raises(SettingsError, match=r"is a cluster.*sentinel://"):
            check_broker(settings)
        with pytest.raises(SystemExit) as caught:
            starting.check_broker(settings)
        assert caught.value.code == SettingsError.exit_code
        assert "broker_refused" in [record.__dict__.get("event") for record in caplog.records]
        finding = findings(code=4)["broker"]

    assert finding["state"] == "wrong"
    assert "is a cluster" in finding["text"]


def test_a_worker_waits_for_a_broker_that_is_not_there_yet(
    reach: Reach, caplog: pytest.LogCaptureFixture
) -> None:
    starting.check_broker(reach(f"redis://{HOST}:1/0"))

    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{HOST}:1" in record.message


def test_a_worker_ends_when_the_broker_refuses_its_password(reach: Reach, tmp_path: Path) -> None:
    with (
        valkey(tmp_path / "server", password="right") as (port, _),
        pytest.raises(SystemExit) as caught,
    ):
        starting.check_broker(reach(f"redis://{HOST}:{port}/0", BROKER_PASSWORD="wr0ng"))

    assert caught.value.code == 7


# --- a socket ---------------------------------------------------------------------------------


def test_client_and_queue_reach_a_server_on_a_socket(reach: Reach, tmp_path: Path) -> None:
    with valkey(tmp_path / "server", "unixsocket own.sock", password="p/w") as _:
        settings = reach(f"unix://{tmp_path}/server/own.sock?db=3", BROKER_PASSWORD="p/w")
        make_app(settings).send_task("coldfusion.fuse", args=("r",))
        with connect_redis(settings) as client:
            assert client.llen("fusion") == 1


# --- what doctor says of a server ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "state", "words"),
    [
        pytest.param(["appendonly yes"], "ok", [], id="as-it-should-be"),
        pytest.param(["appendonly no"], "note", ["appendonly is off"], id="not-kept"),
        pytest.param(
            ["appendonly yes", "maxmemory-policy allkeys-lru"],
            "note",
            ["maxmemory-policy is allkeys-lru", "set noeviction"],
            id="evicting",
        ),
        pytest.param(
            ["appendonly no", "maxmemory-policy volatile-ttl"],
            "note",
            ["appendonly is off", "maxmemory-policy is volatile-ttl"],
            id="both",
        ),
    ],
)
def test_doctor_says_how_the_broker_is_set_up(
    reach: Reach, tmp_path: Path, lines: list[str], state: str, words: list[str]
) -> None:
    with valkey(tmp_path / "server", *lines) as (port, _):
        reach(f"redis://{HOST}:{port}/0")
        finding = findings(code=8)["broker"]  # there is no repository

    assert finding["state"] == state
    for word in words:
        assert word in finding["text"]
    assert finding["text"].count(";") == len(words) - ("set noeviction" in words)


@pytest.mark.parametrize("rights", ["-info", "-@all +ping"], ids=["no-info", "ping-alone"])
def test_doctor_does_not_blame_a_broker_that_it_may_not_ask(
    reach: Reach, tmp_path: Path, rights: str
) -> None:
    with valkey(tmp_path / "server", f"user default on nopass ~* &* +@all {rights}") as (port, _):
        settings = reach(f"redis://{HOST}:{port}/0")
        starting.check_broker(settings)
        state, text = _broker(settings)

    assert state == "note"
    assert "INFO is not allowed" in text
    assert "could not be read" in text


@pytest.mark.parametrize(
    ("device", "state", "says"),
    [
        pytest.param("cuda", "wrong", "torch sees no GPU", id="none"),
        pytest.param("cuda:1", "wrong", "torch sees no GPU", id="no-second"),
        pytest.param("auto", "note", "no GPU on this machine", id="auto"),
        pytest.param("cpu", "note", "no GPU is used", id="by-setting"),
    ],
)
def test_doctor_says_whether_the_device_is_there(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, device: str, state: str, says: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    finding = _try("device", lambda: _device(settings.model_copy(update={"device": device})))

    assert finding.state == state
    assert finding.exit_code == (20 if state == "wrong" else 0)
    assert says in finding.text
