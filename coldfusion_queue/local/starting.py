"""One ``up``: start what does not run, and write down each step as it is taken."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from coldfusion_queue.errors import ProcessFailedError
from coldfusion_queue.local.launch import launch, wait_for_answer, wait_for_ports
from coldfusion_queue.local.ports import HOST, free_port, is_free
from coldfusion_queue.local.processes import ProcessRecord, is_running, start
from coldfusion_queue.local.seaweed import S3Server
from coldfusion_queue.local.servers import Server
from coldfusion_queue.local.state import StackState, write_private
from coldfusion_queue.local.valkey import ValkeyServer

__all__ = ["StackStart"]

# Variables of the person's environment that may name another store or broker.
_CONNECTION_PREFIXES = ("COLDFUSION_S3_", "COLDFUSION_BROKER_", "COLDFUSION_SECRETS_DIR")

S = TypeVar("S", bound=Server)


class StackStart:
    """Starts the processes of a stack.

    The state is written as soon as a process was started, before it is known to work: a process
    that nobody remembers could not be stopped, and two servers must never have one directory.

    Args:
        directory: of the stack.
        state_file: where to read and write the state.
    """

    def __init__(self, directory: Path, state_file: Path) -> None:
        self.started: list[ProcessRecord] = []
        self._directory = directory
        self._state_file = state_file
        state = StackState.read(state_file)
        if state is None:
            valkey = ValkeyServer.new(directory / ValkeyServer.name)
            state = StackState.of(valkey, S3Server.new(directory / S3Server.name))
        self._state = state

    def servers(self) -> tuple[ValkeyServer, S3Server]:
        """Have both servers running and answering.

        Raises:
            ProcessFailedError: one of them did not come up.
        """
        valkey, s3 = self._state.servers(self._directory)
        return self._serve(valkey), self._serve(s3)

    def workers(
        self,
        environment: Mapping[str, str],
        finetune_environments: Sequence[Mapping[str, str]],
        connection: Mapping[str, str],
        evaluation_workers: int = 1,
    ) -> None:
        """Have the workers, beat and the exporter running.

        Args:
            environment: variables for all of them.
            finetune_environments: further variables for each finetune worker; as many are
                started.
            connection: variables that go before all others.
            evaluation_workers: how many are to run.

        Raises:
            ProcessFailedError: one of them ended at once.
        """
        modules: dict[str, tuple[list[str], Mapping[str, str]]] = {
            f"finetune-{number}": (["workers.finetune_worker", "--name", f"finetune-{number}"], own)
            for number, own in enumerate(finetune_environments, start=1)
        }
        for number in range(1, evaluation_workers + 1):
            name = "evaluation" if number == 1 else f"evaluation-{number}"
            modules[name] = (["workers.evaluation_worker", "--name", name], {})
        modules["fusion"] = (["workers.fusion_worker"], {})
        modules["beat"] = (["workers.beat"], {})
        modules["exporter"] = (["workers.exporter"], {})
        new: list[ProcessRecord] = []
        for name, (arguments, own) in modules.items():
            known = self._state.processes.get(name)
            if known is None or not is_running(known):
                command = [sys.executable, "-m", *arguments]
                new.append(self._work(name, command, {**environment, **own, **connection}))
        wait_for_ports(new, self._state.metrics_ports)

    def _serve(self, server: S) -> S:
        known = self._state.processes.get(server.name)
        if known is not None and is_running(known):
            try:
                wait_for_answer(server, known)
            except ProcessFailedError:
                if is_running(known):
                    raise
                # Else it was dying when we looked.
            else:
                return server
        server, record = launch(server, self._log(server.name), self._keep_server)
        self.started.append(record)
        return server

    def _keep_server(self, server: Server, record: ProcessRecord) -> None:
        self._keep(self._state.with_server(server, record))

    def _work(
        self, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> ProcessRecord:
        port = self._state.metrics_ports.get(name)
        if port is None or not is_free(port):
            port = free_port(self._state.metrics_ports.values())
        inherited = {
            variable: value
            for variable, value in os.environ.items()
            if not variable.startswith(_CONNECTION_PREFIXES)
        }
        full = {
            "COLDFUSION_METRICS_HOST": HOST,
            **inherited,
            **environment,
            "COLDFUSION_METRICS_PORT": str(port),
        }
        record = start(name, command, full, self._directory, self._log(name))
        self.started.append(record)
        self._keep(self._state.with_worker(record, port))
        return record

    def _keep(self, state: StackState) -> None:
        write_private(self._state_file, state.to_bytes())
        self._state = state

    def _log(self, name: str) -> Path:
        return self._directory / "logs" / f"{name}.log"
