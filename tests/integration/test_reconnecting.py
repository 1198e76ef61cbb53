"""A broker that goes away at the worst moment, as the broker library meets it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import redis
from celery.concurrency.asynpool import AsynPool
from kombu import Connection
from kombu.asynchronous import Hub
from kombu.transport.redis import Channel, QoS

from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.reconnecting import mend_reconnecting
from coldfusion_queue.settings import Settings


@pytest.fixture
def _as_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    mended = [(Channel, "_connparams"), (AsynPool, "_track_child_process")]
    for kind, name in (*mended, (QoS, "ack"), (QoS, "reject")):
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

        with given_up(channel), pytest.raises(redis.ConnectionError, match="given up"):
            message.ack()


@contextmanager
def given_up(channel: Channel) -> Iterator[None]:
    """The channel is as ``Connection.release`` leaves it."""
    transport, client = channel.connection, channel.connection.client
    channel._disconnect_pools()
    transport.client = None
    yield
    transport.client = client


@pytest.mark.usefixtures("_as_in_a_worker")
@pytest.mark.parametrize("end", ["ack", "reject", "requeue"])
def test_message_whose_end_the_broker_was_not_told_makes_room_for_the_next_and_comes_back(
    settings: Settings, end: str
) -> None:
    make_app(settings).send_task("coldfusion.fuse", args=("r",))
    with Connection(settings.broker_url.get_secret_value()) as connection:
        channel = connection.channel()
        channel.basic_qos(0, 1, False)
        message = channel.basic_get("fusion")
        assert not channel.qos.can_consume()

        with given_up(channel), pytest.raises(redis.ConnectionError, match="given up"):
            getattr(message, end)()

        assert channel.qos.can_consume()
        # As it is found by whoever looks for what the dead have left.
        channel.qos.restore_by_tag(message.delivery_tag)
        again = channel.basic_get("fusion")
        assert again.headers["id"] == message.headers["id"]
        again.ack()


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
