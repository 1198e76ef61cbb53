"""Everything of a world that is not at a site, and whether a piece of private data is in it."""

from __future__ import annotations

import base64
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import redis

from tests.acceptance.world import World

__all__ = ["Wire", "found", "listening", "objects", "redis_values"]


def found(canary: str, data: bytes) -> bool:
    """Whether a text is in some bytes: as it is, as UTF-16, in hex or in base64."""
    return any(form in data for form in _forms(canary))


def _forms(canary: str) -> Iterator[bytes]:
    raw = canary.encode()
    yield raw
    yield raw.upper()
    yield canary.encode("utf-16-le")
    yield raw.hex().encode()
    for shift in range(
        3
    ):  # by where it begins within three bytes, without what its neighbours touch
        encoded = base64.b64encode(b"\0" * shift + raw)
        yield encoded[-(-shift * 4 // 3) : (shift + len(raw)) * 4 // 3]


def objects(world: World) -> Iterator[tuple[str, bytes]]:
    """Key and bytes of every object of the bucket below the repository, and the keys once more."""
    for key in world.objects():
        yield key, key.encode() + b"\n" + world.store.get(key)


def redis_values(world: World) -> Iterator[tuple[str, bytes]]:
    """Every key of the world's Redis database and its value, whatever its type."""
    with redis.Redis.from_url(world.settings.broker_url.get_secret_value()) as client:
        for key in client.scan_iter("*"):
            yield key.decode(), key + b"\n" + _value(client, key)


def _value(client: redis.Redis, key: bytes) -> bytes:
    readers: dict[bytes, Any] = {
        b"string": lambda: [client.get(key)],
        b"list": lambda: client.lrange(key, 0, -1),
        b"set": lambda: client.smembers(key),
        b"zset": lambda: client.zrange(key, 0, -1),
        b"hash": lambda: [item for pair in client.hgetall(key).items() for item in pair],
        b"none": list,  # it expired meanwhile
    }
    kind: bytes = client.type(key)  # type: ignore[assignment]
    return b"\n".join(item or b"" for item in readers[kind]())


class Wire:
    """All commands that a Redis server was sent, as it tells them itself (``MONITOR``)."""

    def __init__(self) -> None:
        self.data = bytearray()

    def listen(self, connection: socket.socket) -> None:
        """Until the connection is shut down."""
        while piece := connection.recv(1 << 20):
            self.data += piece

    def holds(self, text: str) -> bool:
        """Whether some command was seen."""
        return re.search(text.encode(), bytes(self.data)) is not None


@contextmanager
def listening(world: World) -> Iterator[Wire]:
    """Listen to the world's Redis server for the time of the context."""
    url, wire = urlsplit(world.settings.broker_url.get_secret_value()), Wire()
    with socket.create_connection((str(url.hostname), int(url.port or 0))) as connection:
        connection.sendall(f"AUTH {unquote(url.password or '')}\r\nMONITOR\r\n".encode())
        listener = threading.Thread(target=wire.listen, args=(connection,))
        listener.start()
        try:
            yield wire
        finally:
            connection.shutdown(socket.SHUT_RDWR)
            listener.join()
