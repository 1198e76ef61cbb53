"""Start servers and workers, and see that they come up.

A server that finds one of its ports taken is moved to others. What does not come up is reported
with the end of its log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from coldfusion_queue.errors import ProcessFailedError
from coldfusion_queue.local.ports import accepts_connections, is_free
from coldfusion_queue.local.processes import ProcessRecord, is_running, last_lines, start, stop
from coldfusion_queue.local.servers import Server

__all__ = ["launch", "wait_for_answer", "wait_for_ports"]

_ANSWER_SECONDS = 60.0
_PORT_SECONDS = 30.0

_NUM_TRIES = 5
_POLL_SECONDS = 0.05
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")

S = TypeVar("S", bound=Server)


def launch(
    server: S,
    log: Path,
    on_start: Callable[[S, ProcessRecord], None] | None = None,
    *,
    die_with_parent: bool = False,
) -> tuple[S, ProcessRecord]:
    """Start a server that does not run, and wait until it answers.

    Args:
        server: what to start. It gets other ports if one of its own is in use.
        log: file that its output is appended to.
        on_start: called with what was started, before it answers.
        die_with_parent: see ``processes.start``.

    Returns:
        The server as it was started, and its process.

    Raises:
        ProcessFailedError: it ended, or did not answer in time; it was stopped again.
    """
    for attempt in range(1, _NUM_TRIES + 1):
        if not all(map(is_free, server.ports)):
            server = server.on_free_ports()
        server.prepare()
        record = start(
            server.name,
            server.command,
            _environment(server),
            server.directory,
            log,
            die_with_parent=die_with_parent,
        )
        try:
            if on_start is not None:
                on_start(server, record)
            wait_for_answer(server, record)
        except ProcessFailedError:
            _give_up(server, record)
            # Its ports are free now that it is gone, unless it was somebody else who held one.
            if attempt == _NUM_TRIES or all(map(is_free, server.ports)):
                raise
        except BaseException:
            _give_up(server, record)
            raise
        else:
            break
    return server, record


def wait_for_answer(server: Server, record: ProcessRecord) -> None:
    """Wait until a started server answers.

    Raises:
        ProcessFailedError: it ended, or did not answer within one minute.
    """
    end = time.monotonic() + _ANSWER_SECONDS
    while not server.answers():
        if not is_running(record):
            raise _failure(record, "ended as soon as it was started")
        if time.monotonic() > end:
            raise _failure(record, f"did not answer within {_ANSWER_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def wait_for_ports(records: Sequence[ProcessRecord], ports: Mapping[str, int]) -> None:
    """Watch processes until they serve their metrics, which is the last step of their start.

    One that takes longer than half a minute, on a busy machine, is left to it.

    Args:
        records: what was started.
        ports: port by name; a process without one only has to live as long as this takes.

    Raises:
        ProcessFailedError: one of them ended.
    """
    end = time.monotonic() + _PORT_SECONDS
    waiting = True
    while waiting and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        waiting = not all(
            accepts_connections(ports[record.name]) for record in records if record.name in ports
        )
        for record in records:
            if not is_running(record):
                raise _failure(record, "ended as soon as it was started")


def _failure(record: ProcessRecord, problem: str) -> ProcessFailedError:
    return ProcessFailedError(record.name, problem, record.log, last_lines(Path(record.log)))


def _give_up(server: Server, record: ProcessRecord) -> None:
    stop([record], 0)
    server.clean()


def _environment(server: Server) -> Mapping[str, str]:
    # Not all of ours: WEED_* and AWS_* variables and ~/.seaweedfs would change what it does.
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**passed_on, "HOME": str(server.directory), **server.environment}
