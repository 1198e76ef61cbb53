"""Servers of one's own, which a test can stop, start again and replace."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from coldfusion_queue.errors import StoreUnavailableError
from coldfusion_queue.local.launch import launch
from coldfusion_queue.local.processes import ProcessRecord, stop
from coldfusion_queue.local.seaweed import S3Server
from coldfusion_queue.local.state import connection_variables
from coldfusion_queue.local.valkey import ValkeyServer
from tests.acceptance.world import World, eventually

__all__ = ["Servers"]


class Servers:
    """A Valkey and an S3 server of one's own, which can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._valkey, self._valkey_process = self._launch_valkey(
            ValkeyServer.new(directory / "valkey", num_databases=1024)
        )
        self._s3, self._s3_process = self._launch_s3(
            S3Server.new(directory / "s3", volume_megabytes=64)
        )

    @property
    def variables(self) -> dict[str, str]:
        return dict(connection_variables(self._valkey, self._s3))

    def stop_s3(self) -> None:
        stop([self._s3_process], 5)

    def start_s3(self, world: World) -> None:
        """As it was; wait until what was written before can be read, which takes it a while."""
        self._s3, self._s3_process = self._launch_s3(self._s3)

        def is_readable() -> bool:
            with suppress(StoreUnavailableError):
                return bool(world.repository.record())
            return False

        eventually(is_readable)

    def stop_valkey(self) -> None:
        stop([self._valkey_process], 5)

    def start_valkey(self) -> None:
        """As it was, with all that was in it."""
        self._valkey, self._valkey_process = self._launch_valkey(self._valkey)

    def replace_valkey(self) -> None:
        """Another server at the same address, with nothing in it."""
        stop([self._valkey_process], 0)
        for path in (self.directory / "valkey").iterdir():
            if path.name.startswith(("appendonly", "dump")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.start_valkey()

    def close(self) -> None:
        stop([self._valkey_process, self._s3_process], 0)
        self._s3.clean()

    def _launch_valkey(self, server: ValkeyServer) -> tuple[ValkeyServer, ProcessRecord]:
        return launch(server, self.directory / "valkey.log", die_with_parent=True)

    def _launch_s3(self, server: S3Server) -> tuple[S3Server, ProcessRecord]:
        return launch(server, self.directory / "s3.log", die_with_parent=True)
