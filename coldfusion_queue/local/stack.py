"""``coldfusion up`` and ``down``: servers and workers of one person on one machine.

Below ``<home>/stack``::

    stack.json      ports, credentials and processes; ``down`` keeps it for the next ``up``
    stack.env       what other commands need, as COLDFUSION_* variables; there while it runs
    lock            held while an ``up`` or a ``down`` is at work
    valkey/ s3/     data of the two servers
    logs/           one file for each process
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coldfusion_queue.local.processes import ProcessRecord, is_running, stop
from coldfusion_queue.local.seaweed import S3Server
from coldfusion_queue.local.starting import StackStart
from coldfusion_queue.local.state import StackState, connection_variables, write_private
from coldfusion_queue.local.valkey import ValkeyServer
from coldfusion_queue.settings import ENV_PREFIX, Settings, load_settings

__all__ = ["LocalStack", "ProcessStatus"]

_SERVER_NAMES = (ValkeyServer.name, S3Server.name)
_SERVER_GRACE_SECONDS = 15.0
# Longer than ``soft_shutdown_seconds``, after which a worker has put its task back on the queue.
_WORKER_GRACE_SECONDS = 30.0
_CANCEL_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class ProcessStatus:
    """One process of the stack, for people."""

    name: str
    pid: int
    running: bool
    log: Path
    metrics_port: int | None


class LocalStack:
    """The stack below one home directory.

    Args:
        home: ``Settings.home``; made if need be.
    """

    def __init__(self, home: Path) -> None:
        self.home = home.expanduser().absolute()
        self.directory = self.home / "stack"
        self.env_file = self.directory / "stack.env"
        self._state_file = self.directory / "stack.json"

    def up(
        self,
        finetune_workers: int = 1,
        worker_environments: Sequence[Mapping[str, str]] = (),
        environment: Mapping[str, str] | None = None,
        *,
        evaluation_workers: int = 1,
        servers_only: bool = False,
    ) -> Settings:
        """Start what does not run; what runs is left as it is.

        Data, ports and credentials are those of the last time. A server whose port was taken
        meanwhile gets another one. When anything fails, and on Ctrl-C, what this call started is
        stopped again.

        Args:
            finetune_workers: number of finetune workers; if more run already they are left.
            worker_environments: variables for the first, second, ... finetune worker alone.
            environment: variables for finetune and fusion workers, beat and exporter.
            evaluation_workers: number of evaluation workers; the same of those.
            servers_only: start broker and store and nothing else.

        Returns:
            The settings with which to reach it.

        Raises:
            MissingExtraError: the extra ``local`` is not installed.
            ProcessFailedError: a process ended at once; holds the end of its log.
            SettingsError: the environment holds wrong settings; nothing was started.
        """
        common = dict(environment or {})
        self._settings(common)
        with self._lock():
            start = StackStart(self.directory, self._state_file)
            try:
                variables = connection_variables(*start.servers())
                lines = [f"{name}={value}\n" for name, value in variables.items()]
                write_private(self.env_file, "".join(lines).encode())
                if not servers_only:
                    own = [*worker_environments, *[{}] * finetune_workers][:finetune_workers]
                    home = {f"{ENV_PREFIX}HOME": str(self.home)}
                    start.workers(common, own, {**variables, **home}, evaluation_workers)
            except BaseException:
                if any(record.name in _SERVER_NAMES for record in start.started):
                    self.env_file.unlink(missing_ok=True)
                self._stop(start.started, _CANCEL_GRACE_SECONDS)
                raise
        return self._settings({**common, **variables})

    def down(self, remove_data: bool = False) -> None:
        """Stop workers, then servers; what does not run is passed over.

        Args:
            remove_data: also delete data, credentials and logs.
        """
        if not self.directory.is_dir():
            return
        with self._lock():
            # First of all: a command that begins now shall not find half a stack.
            self.env_file.unlink(missing_ok=True)
            state = StackState.read(self._state_file)
            if state is not None:
                self._stop(state.processes.values(), _WORKER_GRACE_SECONDS)
                for server in state.servers(self.directory):
                    server.clean()
                stopped = state.model_copy(update={"processes": {}})
                write_private(self._state_file, stopped.to_bytes())
            if remove_data:
                for name in (*_SERVER_NAMES, "logs"):
                    shutil.rmtree(self.directory / name, ignore_errors=True)
                self._state_file.unlink(missing_ok=True)

    def processes(self) -> list[ProcessStatus]:
        """Every process that was started and not stopped since, servers first."""
        state = StackState.read(self._state_file)
        if state is None:
            return []
        records = sorted(
            state.processes.values(), key=lambda record: record.name not in _SERVER_NAMES
        )
        return [
            ProcessStatus(
                name=record.name,
                pid=record.pid,
                running=is_running(record),
                log=Path(record.log),
                metrics_port=state.metrics_ports.get(record.name),
            )
            for record in records
        ]

    @staticmethod
    def _stop(records: Iterable[ProcessRecord], worker_grace_seconds: float) -> None:
        records = list(records)
        stop([r for r in records if r.name not in _SERVER_NAMES], worker_grace_seconds)
        stop([r for r in records if r.name in _SERVER_NAMES], _SERVER_GRACE_SECONDS)

    def _settings(self, variables: Mapping[str, str]) -> Settings:
        # Those of the person's own environment that name another store or broker do not count.
        overrides: dict[str, object] = {
            name: field.default
            for name, field in Settings.model_fields.items()
            if name.startswith(("s3_", "broker_"))
        }
        for name, value in variables.items():
            if name.startswith(ENV_PREFIX):
                overrides[name.removeprefix(ENV_PREFIX).lower()] = value
        return load_settings(**{**overrides, "home": self.home})

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Wait for another ``up`` or ``down`` to end, and hold off the next one."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # which also gives up the lock
