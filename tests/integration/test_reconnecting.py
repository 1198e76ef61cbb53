"""A broker that goes away at the worst moment, as the broker library meets it."""

from __future__ import annotations

import pytest
import redis
from kombu import Connection
from kombu.transport.redis import Channel

from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.reconnecting import raise_connection_errors
from coldfusion_queue.settings import Settings


@pytest.fixture
def _as_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Channel, "_connparams", Channel._connparams)  # what is put back
    raise_connection_errors()
    raise_connection_errors()  # twice is once


@pytest.mark.usefixtures("_as_in_a_worker")
def test_acknowledging_over_a_connection_that_was_given_up_is_a_connection_error(
    settings: Settings,
) -> None:
    make_app(settings).send_task("coldfusion.fuse", args=("r",))
    with Connection(settings.broker_url.get_secret_value()) as connection:
        channel = connection.channel()
        message = channel.basic_get("fusion")
        transport, client = channel.connection, channel.connection.client
        channel._disconnect_pools()
        transport.client = None  # what Connection.release leaves

        with pytest.raises(redis.ConnectionError, match="given up"):
            message.ack()

        transport.client = client
