"""What a local stack remembers: ports, credentials and processes, in files for us alone."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field

from coldfusion_queue.local.processes import ProcessRecord
from coldfusion_queue.local.seaweed import S3Server
from coldfusion_queue.local.servers import Server
from coldfusion_queue.local.valkey import ValkeyServer
from coldfusion_queue.records import Record

__all__ = ["StackState", "connection_variables", "write_private"]


class StackState(Record):
    """``stack.json``. It holds passwords: never log it, never show it."""

    valkey_port: int
    valkey_password: str = Field(repr=False)
    s3_ports: Mapping[str, int]
    s3_access_key: str = Field(repr=False)
    s3_secret_key: str = Field(repr=False)
    s3_bucket: str
    metrics_ports: Mapping[str, int] = Field(default_factory=dict)
    """Port of each worker's ``/metrics``, by the process's name."""
    processes: Mapping[str, ProcessRecord] = Field(default_factory=dict)
    """What was started, by name; it may have ended since."""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The state in a file; None if there is no file.

        Raises:
            InvalidRecordError: the file holds something else.
        """
        try:
            return cls.from_bytes(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None

    @classmethod
    def of(cls, valkey: ValkeyServer, s3: S3Server) -> Self:
        """The state of a stack of which nothing runs yet."""
        return cls(
            valkey_port=valkey.port,
            valkey_password=valkey.password,
            s3_ports=s3.own_ports,
            s3_access_key=s3.access_key,
            s3_secret_key=s3.secret_key,
            s3_bucket=s3.bucket,
        )

    def servers(self, directory: Path) -> tuple[ValkeyServer, S3Server]:
        """The two servers, with their data below ``directory``."""
        return (
            ValkeyServer(directory / "valkey", self.valkey_port, self.valkey_password),
            S3Server(
                directory / "s3",
                self.s3_ports,
                self.s3_access_key,
                self.s3_secret_key,
                self.s3_bucket,
            ),
        )

    def with_server(self, server: Server, record: ProcessRecord) -> Self:
        """The same with a server that was started, perhaps on other ports."""
        update: dict[str, object] = {"processes": {**self.processes, record.name: record}}
        if isinstance(server, ValkeyServer):
            update["valkey_port"] = server.port
        elif isinstance(server, S3Server):
            update["s3_ports"] = dict(server.own_ports)
        return self.model_copy(update=update)

    def with_worker(self, record: ProcessRecord, metrics_port: int) -> Self:
        """The same with a worker that was started."""
        processes = {**self.processes, record.name: record}
        ports = {**self.metrics_ports, record.name: metrics_port}
        return self.model_copy(update={"processes": processes, "metrics_ports": ports})


def connection_variables(valkey: ValkeyServer, s3: S3Server) -> dict[str, str]:
    """The ``COLDFUSION_*`` variables with which a process finds the two servers."""
    return {
        "COLDFUSION_BROKER_URL": valkey.url,
        "COLDFUSION_S3_ENDPOINT": s3.endpoint,
        "COLDFUSION_S3_ACCESS_KEY": s3.access_key,
        "COLDFUSION_S3_SECRET_KEY": s3.secret_key,
        "COLDFUSION_S3_BUCKET": s3.bucket,
    }


def write_private(path: Path, content: bytes) -> None:
    """Replace a file at once by one that nobody else can read."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
