"""A worker that loses its broker comes back, whatever it was doing at that moment.

The worker knows what to do about errors of connections, and ends itself for any other that it
meets while it reconnects: it would not come back. Two moments at which the libraries raise such
another error are mended here, and a third at which nobody notices that the broker is away, each
by the least that makes them go on.
"""

from __future__ import annotations

import functools
from typing import Any

import redis
from celery.concurrency.asynpool import AsynPool
from kombu.transport.redis import Channel, QoS

__all__ = ["mend_reconnecting"]


def mend_reconnecting() -> None:
    """Make workers of this process come back from what the libraries take for their end.

    Idempotent. Seen with celery and kombu 5.7.0.
    """
    if not getattr(Channel._connparams, "is_mended", False):
        Channel._connparams = _without_connection(Channel._connparams)
    if not getattr(AsynPool._track_child_process, "is_mended", False):
        AsynPool._track_child_process = _without_dead_children(AsynPool._track_child_process)
    for name in ("ack", "reject"):
        if not getattr(getattr(QoS, name), "is_mended", False):
            setattr(QoS, name, _out_of_hand(getattr(QoS, name)))


def _without_connection(original: Any) -> Any:
    """A channel without a connection says so by a connection error.

    It asks the connection it belongs to for host and port whenever it needs a client. When the
    connection was given up a moment before (a server that was restarted, and a message that is
    acknowledged or put back just then), that raises ``AttributeError``. The same as issue 582 of
    kombu, of 2016.
    """

    @functools.wraps(original)
    def connection_parameters(channel: Any, *args: Any, **kwargs: Any) -> Any:
        if channel.connection.client is None:
            raise redis.ConnectionError("the connection to the broker was given up")
        return original(channel, *args, **kwargs)

    connection_parameters.is_mended = True  # type: ignore[attr-defined]
    return connection_parameters


def _without_dead_children(original: Any) -> Any:
    """The pool does not watch a child again whose end it has seen.

    A child that is killed can be seen to end before the kernel tells how; it is then left in the
    pool, for up to five seconds, with nothing to watch. A broker that comes back in these seconds
    has the pool watch all of its children anew, which raises ``ValueError``.
    """

    @functools.wraps(original)
    def track_child_process(pool: Any, child: Any, hub: Any) -> None:
        has_ended = getattr(child, "_sentinel_poll", child) is None
        if not has_ended:
            original(pool, child, hub)

    track_child_process.is_mended = True  # type: ignore[attr-defined]
    return track_child_process


def _out_of_hand(original: Any) -> Any:
    """A message whose end the broker could not be told is not in this worker's hand any more.

    The worker logs that error and forgets the message, but its channel would go on to count it. One
    that counts as many as it may have waits for no message, and a site's worker has no other line
    on which it sees that the broker is away: it would never take anything again. So the channel
    forgets the message too, waits for the next one, and thereby finds out and reconnects. What the
    broker still has of the message is stamped no more (``renewal``) and is delivered again, as that
    of a dead worker.
    """

    @functools.wraps(original)
    def tell(qos: Any, delivery_tag: str, *args: Any, **kwargs: Any) -> None:
        try:
            original(qos, delivery_tag, *args, **kwargs)
        except qos.channel.connection_errors:
            qos._quick_ack(delivery_tag)
            raise

    tell.is_mended = True  # type: ignore[attr-defined]
    return tell
