"""A broker behind Sentinels, one that is on a socket, and one that is a cluster."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
import redis
from prometheus_client import REGISTRY

from coldfusion_queue.errors import AccessDeniedError, BrokerUnavailableError
from coldfusion_queue.local.ports import HOST
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.connection import broker_errors, connect_redis
from coldfusion_queue.settings import Settings, load_settings
from tests.valkeys import PASSWORD, SENTINEL_PASSWORD, Watched, watched

Wait = Callable[..., object]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("watched"), num_sentinels=1) as found:
        yield found


@pytest.fixture
def behind(broker: Watched, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in broker.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLDFUSION_BROKER_CONNECT_TIMEOUT_SECONDS", "0.5")
    return load_settings()


def num_requests(settings: Settings) -> float:
    name = "coldfusion_broker_request_duration_seconds_count"
    return REGISTRY.get_sample_value(name, {"repository": settings.repository}) or 0


def test_client_and_queue_reach_the_server_that_the_sentinels_name(
    behind: Settings, broker: Watched
) -> None:
    make_app(behind).send_task("coldfusion.fuse", args=("r",))
    client = connect_redis(behind)

    before = num_requests(behind)
    assert client.llen("fusion") == 1
    assert num_requests(behind) == before + 1
    with redis.Redis(HOST, broker.primary(), password=PASSWORD, db=3) as direct:
        assert direct.llen("fusion") == 1
    client.close()


def test_wrong_password_of_the_sentinels_is_told(
    behind: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLDFUSION_BROKER_SENTINEL_PASSWORD", "n0t-it")
    wrong = load_settings()

    with pytest.raises(AccessDeniedError) as caught, broker_errors(wrong):
        connect_redis(wrong).ping()

    text = str(caught.value)
    assert "COLDFUSION_BROKER_PASSWORD and COLDFUSION_BROKER_SENTINEL_PASSWORD" in text
    assert "n0t-it" not in text
    assert PASSWORD not in text


def test_name_that_no_sentinel_knows_is_told(
    behind: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLDFUSION_BROKER_SENTINEL_MASTER", "nobody")
    wrong = load_settings()

    with (
        pytest.raises(BrokerUnavailableError, match="knows of 'nobody'") as caught,
        broker_errors(wrong),
    ):
        connect_redis(wrong).ping()
    assert SENTINEL_PASSWORD not in str(caught.value)


def test_client_and_queue_follow_a_failover(
    behind: Settings, broker: Watched, wait_until: Wait
) -> None:
    wait_until(broker.has_replica)
    app, client = make_app(behind), connect_redis(behind)
    client.set("before", "1")
    before = broker.lose_primary(signal.SIGSTOP)

    wait_until(lambda: broker.has_moved(before))

    def writes() -> bool:
        try:
            return bool(client.set("after", "1"))
        except redis.RedisError:
            return False

    wait_until(writes)
    app.send_task("coldfusion.help_fusion", args=("r",))
    with redis.Redis(HOST, broker.primary(), password=PASSWORD, db=3) as direct:
        assert direct.mget("before", "after") == [b"1", b"1"]
        assert b"help_fusion" in direct.lindex("fusion", 0)  # type: ignore[operator]
    client.close()
