"""Valkey servers that are set up as a test needs them: replicas, Sentinels, a cluster's node."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import redis

from coldfusion_queue.local.launch import launch
from coldfusion_queue.local.ports import HOST, free_port
from coldfusion_queue.local.processes import ProcessRecord, stop
from coldfusion_queue.local.servers import Server
from coldfusion_queue.local.valkey import ValkeyServer

__all__ = ["PASSWORD", "SENTINEL_PASSWORD", "Watched", "valkey", "watched"]

#: With all that a URL has to have encoded.
PASSWORD = "p/w#1?@:;%,+x"
SENTINEL_PASSWORD = "of the sentinels"

#: By which the Sentinels know the server.
MASTER = "coldfusion"


@dataclass(frozen=True)
class _Configured(Server):
    """A server with these lines of configuration and no others."""

    directory: Path
    port: int
    lines: tuple[str, ...]
    password: str | None = None
    arguments: tuple[str, ...] = ()

    name = "valkey"

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.port,)

    @property
    def command(self) -> tuple[str, ...]:
        binary = ValkeyServer.new(self.directory).command[0]
        return (binary, str(self.directory / "own.conf"), *self.arguments)

    @property
    def environment(self) -> Mapping[str, str]:
        return {}

    def on_free_ports(self) -> Self:
        return replace(self, port=free_port())

    def prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        own = (f"bind {HOST}", f"port {self.port}", "dir .", "daemonize no")
        if self.password is not None:
            own = (*own, f'requirepass "{self.password}"')
        (self.directory / "own.conf").write_text("\n".join((*own, *self.lines)) + "\n")

    def answers(self) -> bool:
        with (
            contextlib.suppress(redis.RedisError),
            redis.Redis(HOST, self.port, password=self.password, socket_timeout=2) as client,
        ):
            return bool(client.ping())
        return False


@contextmanager
def valkey(
    directory: Path, *lines: str, password: str | None = None, arguments: Sequence[str] = ()
) -> Iterator[tuple[int, ProcessRecord]]:
    """A server's port and process, for the time of the context."""
    server = _Configured(directory, free_port(), lines, password, tuple(arguments))
    server, process = launch(server, directory.with_suffix(".log"), die_with_parent=True)
    try:
        yield server.port, process
    finally:
        with contextlib.suppress(ProcessLookupError):  # one that is stopped hears nothing
            os.kill(process.pid, signal.SIGCONT)
        stop([process], 0)


@dataclass(frozen=True)
class Watched:
    """A server, its replica, and the Sentinels that have the one take the other's place."""

    servers: Mapping[int, ProcessRecord]
    sentinels: tuple[int, ...]

    @property
    def variables(self) -> dict[str, str]:
        """With which a process finds it, wherever it is."""
        hosts = ",".join(f"{HOST}:{port}" for port in self.sentinels)
        return {
            "COLDFUSION_BROKER_URL": f"sentinel://{hosts}/3",
            "COLDFUSION_BROKER_PASSWORD": PASSWORD,
            "COLDFUSION_BROKER_SENTINEL_MASTER": MASTER,
            "COLDFUSION_BROKER_SENTINEL_PASSWORD": SENTINEL_PASSWORD,
        }

    def primary(self) -> int:
        """Port of the server that takes writes, as the Sentinels say."""
        with redis.Redis(HOST, self.sentinels[-1], password=SENTINEL_PASSWORD) as client:
            found: tuple[str, int] = client.sentinel_get_master_addr_by_name(MASTER)  # type: ignore[assignment]
        return int(found[1])

    def has_moved(self, port: int) -> bool:
        """Whether every Sentinel names another server than the one at a port, and says it is up."""
        for sentinel in self.sentinels:
            with redis.Redis(HOST, sentinel, password=SENTINEL_PASSWORD) as client:
                state: dict[str, object] = client.sentinel_master(MASTER)  # type: ignore[assignment]
            if state["port"] == port or state["is_sdown"] or state["is_odown"]:
                return False
        return True

    def has_replica(self) -> bool:
        """Whether every Sentinel knows the others and a replica that has all of the data."""
        for port in self.sentinels:
            with redis.Redis(HOST, port, password=SENTINEL_PASSWORD) as client:
                state: dict[str, object] = client.sentinel_master(MASTER)  # type: ignore[assignment]
                replicas = client.sentinel_slaves(MASTER)
            if state["num-other-sentinels"] != len(self.sentinels) - 1 or not replicas:
                return False
            if replicas[0]["master-link-status"] != "ok" or replicas[0]["is_sdown"]:
                return False
        return True

    def lose_primary(self, number: signal.Signals) -> int:
        """Kill the server that takes writes, or stop it as a machine that hangs.

        Returns:
            Its port.
        """
        port = self.primary()
        os.kill(self.servers[port].pid, number)
        return port


@contextmanager
def watched(directory: Path, num_sentinels: int = 3) -> Iterator[Watched]:
    """Two servers and their Sentinels, which notice within a second that one is gone."""
    common = ("databases 16", 'save ""', f'masterauth "{PASSWORD}"', "repl-diskless-sync-delay 0")
    with ExitStack() as stack:
        first, process = stack.enter_context(
            valkey(directory / "first", *common, password=PASSWORD)
        )
        servers = {first: process}
        second, process = stack.enter_context(
            valkey(directory / "second", *common, f"replicaof {HOST} {first}", password=PASSWORD)
        )
        servers[second] = process
        sentinels = []
        for number in range(num_sentinels):
            port, _ = stack.enter_context(
                valkey(
                    directory / f"sentinel{number}",
                    f"sentinel monitor {MASTER} {HOST} {first} {num_sentinels // 2 + 1}",
                    f'sentinel auth-pass {MASTER} "{PASSWORD}"',
                    f'sentinel sentinel-pass "{SENTINEL_PASSWORD}"',
                    f"sentinel down-after-milliseconds {MASTER} 700",
                    f"sentinel failover-timeout {MASTER} 3000",
                    password=SENTINEL_PASSWORD,
                    arguments=["--sentinel"],
                )
            )
            sentinels.append(port)
        yield Watched(servers, tuple(sentinels))
