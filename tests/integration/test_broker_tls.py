"""TLS on the way to the broker, and to the Sentinels that say where it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import pools

from coldfusion_queue.errors import BrokerUnavailableError
from coldfusion_queue.local.ports import HOST
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.connection import broker_errors, connect_redis
from coldfusion_queue.settings import Settings, load_settings
from tests.tls import CERTIFICATE, Front, tls_front
from tests.valkeys import MASTER, PASSWORD, valkey


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Front, Front]]:
    """In front of a server, and of a Sentinel that knows it by the front's address."""
    directory = tmp_path_factory.mktemp("tls")
    with (
        valkey(directory / "server", password=PASSWORD) as (port, _),
        tls_front((HOST, port), directory / "front") as server,
        valkey(
            directory / "sentinel",
            f"sentinel monitor {MASTER} {HOST} {server.port} 1",
            f'sentinel auth-pass {MASTER} "{PASSWORD}"',
            arguments=["--sentinel"],
        ) as (port, _),
        tls_front((HOST, port), directory / "sentinels-front") as sentinel,
    ):
        yield server, sentinel


@pytest.fixture(params=["rediss", "sentinels"])
def encrypted(
    request: pytest.FixtureRequest,
    fronts: tuple[Front, Front],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    pools.reset()  # the library shares connections, whatever their certificates
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    server, sentinel = fronts
    port = server.port if request.param == "rediss" else sentinel.port
    variables = {
        "BROKER_URL": f"{request.param}://{HOST}:{port}/1",
        "BROKER_PASSWORD": PASSWORD,
        "BROKER_CA_FILE": str(tmp_path / "ca.pem"),
        "BROKER_CONNECT_TIMEOUT_SECONDS": "2",
    }
    if request.param == "sentinels":
        variables["BROKER_SENTINEL_MASTER"] = MASTER
    for name, value in variables.items():
        monkeypatch.setenv(f"COLDFUSION_{name}", value)
    return load_settings()


def test_client_and_queue_encrypt_every_connection(
    encrypted: Settings, fronts: tuple[Front, Front]
) -> None:
    def count() -> tuple[int, int]:
        return tuple(front.num_encrypted for front in fronts)  # type: ignore[return-value]

    at_first = count()
    with connect_redis(encrypted) as client:
        client.flushdb()
        after_client = count()
        make_app(encrypted).send_task("coldfusion.fuse", args=("r",))
        after_queue = count()
        assert client.llen("fusion") == 1

    assert at_first[0] < after_client[0] < after_queue[0]
    if encrypted.broker_sentinel_master is not None:
        assert at_first[1] < after_client[1] < after_queue[1]


def test_certificate_of_an_authority_that_is_not_trusted_is_refused(encrypted: Settings) -> None:
    wrong = encrypted.model_copy(update={"broker_ca_file": None})

    with pytest.raises(BrokerUnavailableError), broker_errors(wrong):
        connect_redis(wrong).ping()
    with pytest.raises(BrokerUnavailableError), broker_errors(wrong):
        make_app(wrong).send_task("coldfusion.fuse", args=("r",))
