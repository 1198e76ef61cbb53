"""A worker that loses its broker comes back, whatever it was doing at that moment.

The broker library's channel asks the connection it belongs to for host and port whenever it needs
a client. When the connection was given up a moment before (a server that was restarted, and a
message that is acknowledged or put back just then), it is not there any more, and the library
raises ``AttributeError``. The worker knows what to do about errors of connections, and ends itself
for any other: it would not come back.
"""

from __future__ import annotations

import functools
from typing import Any

import redis
from kombu.transport.redis import Channel

__all__ = ["raise_connection_errors"]


def raise_connection_errors() -> None:
    """Make a channel without a connection say so by a connection error, in this process.

    Idempotent. Seen with kombu 5.7.0; the same as its issue 582 of 2016.
    """
    original = Channel._connparams
    if getattr(original, "raises_connection_errors", False):
        return

    @functools.wraps(original)
    def connection_parameters(channel: Any, *args: Any, **kwargs: Any) -> Any:
        if channel.connection.client is None:
            raise redis.ConnectionError("the connection to the broker was given up")
        return original(channel, *args, **kwargs)

    connection_parameters.raises_connection_errors = True  # type: ignore[attr-defined]
    Channel._connparams = connection_parameters
