"""Rendered containers as processes: started, probed and stopped as a kubelet does it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from coldfusion_queue.local.ports import GRPC_OFFSET, HOST, accepts_connections
from coldfusion_queue.local.processes import last_lines, start, stop
from tests.acceptance.forks import forks, run_command
from tests.acceptance.rendered_container import Container
from tests.acceptance.world import Finished

__all__ = ["Running", "probe", "run", "run_warm"]


_MOST_SECONDS = 90


class Running:
    """A container that was started by a real ``exec`` of its command."""

    def __init__(self, container: Container, log: Path) -> None:
        self.container = container
        self.log = log
        words, environment = container.command, container.environment
        program = shutil.which(words[0], path=environment["PATH"])
        assert program is not None, words[0]
        directory = _working_directory(container)
        self._record = start(
            container.name, [program, *words[1:]], environment, directory, log, die_with_parent=True
        )
        self._code: int | None = None

    def code(self) -> int | None:
        """Its exit code; None while it runs. A signal that ended it counts below zero."""
        if self._code is None:
            pid, status = os.waitpid(self._record.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    @property
    def grace_seconds(self) -> float:
        """From SIGTERM to SIGKILL."""
        return float(self.container.pod.spec.get("terminationGracePeriodSeconds", 30))

    def wait_for(self, kind: str) -> None:
        """Probe until it succeeds, for as long as the kubelet would and a test may."""
        asked = self.container.spec[kind]
        budget = asked["periodSeconds"] * asked.get("failureThreshold", 3)
        budget += asked.get("initialDelaySeconds", 0)
        end = time.monotonic() + min(budget, _MOST_SECONDS)
        while not probe(self.container, kind):
            assert self.code() is None, f"{self.container.name} ended: {last_lines(self.log)}"
            assert time.monotonic() < end, f"{self.container.name}: {kind}: {last_lines(self.log)}"
            time.sleep(0.1)

    def hears(self) -> bool:
        """Whether SIGTERM is handled: process 1 of a container does not hear it otherwise."""
        status = Path(f"/proc/{self._record.pid}/status").read_text("ascii")
        (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)

    def terminate(self) -> None:
        """SIGTERM, and no waiting."""
        os.kill(self._record.pid, signal.SIGTERM)

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None if it runs on."""
        end = time.monotonic() + seconds
        while self.code() is None and time.monotonic() < end:
            time.sleep(0.05)
        return self._code

    def kill(self) -> None:
        """SIGKILL to it and its children, which in a container die with it."""
        if self._code is None:
            stop([self._record], 0)
            self._code = -signal.SIGKILL
        for port in self.container.ports.values():
            for number in (port, port + GRPC_OFFSET):
                for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                    path.unlink(missing_ok=True)


def run(container: Container, *command: str, seconds: float = 100) -> Finished:
    """Run a container's command to its end, or another one in its place."""
    words = list(command) or container.command
    program = shutil.which(words[0], path=container.environment["PATH"])
    assert program is not None, words[0]
    done = subprocess.run(
        [program, *words[1:]],
        env=container.environment,
        cwd=_working_directory(container),
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def run_warm(container: Container, *command: str) -> Finished:
    """The same of ``coldfusion`` and its arguments, by a process that has loaded it already."""
    words = list(command) or container.command
    assert words[0] == "coldfusion"
    directory = _working_directory(container)
    out, err = container.directory / "stdout", container.directory / "stderr"
    child = forks().Process(
        target=run_command, args=(words, container.environment, directory, out, err)
    )
    child.start()
    child.join(100)
    assert child.exitcode is not None
    return Finished(child.exitcode, out.read_text("utf-8"), err.read_text("utf-8"))


def probe(container: Container, kind: str) -> bool:
    """Whether a rendered probe succeeds now."""
    asked: Mapping[str, Any] = container.spec[kind]
    seconds = asked.get("timeoutSeconds", 1)
    action = asked.get("httpGet") or asked["tcpSocket"]
    numbers = {port["name"]: port["containerPort"] for port in container.spec["ports"]}
    port = container.ports[numbers[action["port"]]]
    if "tcpSocket" in asked:
        return accepts_connections(port, seconds)
    assert action.get("scheme", "HTTP") == "HTTP"
    url = f"http://{HOST}:{port}{action['path']}"
    with suppress(OSError), urllib.request.urlopen(url, timeout=seconds) as answer:
        return bool(answer.status == 200)
    return False


def _working_directory(container: Container) -> Path:
    return container.mounts["/var/lib/coldfusion" if container.is_ours else "/data"]
