"""A broker that goes away at the worst moment, as the broker library meets it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import redis
from celery.concurrency.asynpool import AsynPool
from kombu import Connection
from kombu.asynchronous import Hub
from kombu.transport.redis import Channel

from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.reconnecting import mend_reconnecting
from coldfusion_queue.settings import Settings


@pytest.fixture
def _as_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, name in ((Channel, "_connparams"), (AsynPool, "_track_child_process")):
        monkeypatch.setattr(kind, name, getattr(kind, name))  # what is put back
    mend_reconnecting()
    mend_reconnecting()  # twice is once


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


@pytest.mark.usefixtures("_as_in_a_worker")
def test_pool_watches_its_children_anew_but_for_one_that_has_ended() -> None:
    hub, pool = Hub(), SimpleNamespace(_event_process_exit=None)
    reader, writer = os.pipe()  # of which the child has the other end
    try:
        child = SimpleNamespace(_popen=SimpleNamespace(sentinel=reader))
        AsynPool._track_child_process(pool, child, hub)
        assert set(hub.readers) == {child._sentinel_poll}
        # What the pool leaves of a child that it has seen to end and cannot take away yet.
        AsynPool._untrack_child_process(pool, child, hub)
        assert child._sentinel_poll is None

        AsynPool._track_child_process(pool, child, hub)

        assert not hub.readers
    finally:
        os.close(reader)
        os.close(writer)
        hub.close()
