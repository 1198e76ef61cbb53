"""``deploy/compose.yaml``, read as Compose reads it, and its services as processes of this machine.

A process gets the command and the environment that the file gives to a container. Replaced are
paths of the container, names of other containers, and ports, of which one machine has each once.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from coldfusion_queue.local.ports import GRPC_OFFSET, free_port
from coldfusion_queue.local.processes import ProcessRecord, is_running, start, stop
from coldfusion_queue.local.seaweed import _weed_binary
from coldfusion_queue.local.valkey import _valkey_binary
from tests.dockerfile import environment

__all__ = ["DEPLOY", "ROOT", "Host", "read_compose", "seconds"]

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
_BIN = Path(sys.executable).parent
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")

#: What a container serves and listens on, by service.
_PORTS = {"valkey": (6379,), "s3": (8333, 9327, 9333, 8080, 8888)}
_METRICS_PORT = 9464


def read_compose(**variables: str) -> dict[str, Any]:
    """The file, with variables of the person who calls Compose."""
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    filled = _VARIABLE.sub(lambda found: variables.get(found[1], found[2] or ""), text)
    return dict(yaml.safe_load(filled.replace("$$", "$")))


def seconds(duration: str) -> int:
    """Such as ``45s``, in seconds."""
    assert duration.endswith("s")
    return int(duration[:-1])


class Host:
    """One machine with the containers of the file as processes.

    Args:
        directory: a fresh one, for volumes, temporary files and logs.
        secrets: directory that ``make_secrets.py`` made.
        variables: of the person who calls Compose.
    """

    def __init__(self, directory: Path, secrets: Path, **variables: str) -> None:
        self.services: dict[str, Any] = read_compose(**variables)["services"]
        self._directory, self._secrets = directory, secrets
        self._processes: dict[str, ProcessRecord] = {}
        self._ports: dict[tuple[str, int], int] = {}
        for service, ports in _PORTS.items():
            for port in ports:
                taken = self._ports.values()
                self._ports[service, port] = free_port(taken, with_grpc=service == "s3")

    def port(self, service: str, port: int = _METRICS_PORT) -> int:
        """Port of this machine that stands for one of a container."""
        if (service, port) not in self._ports:
            self._ports[service, port] = free_port(self._ports.values())
        return self._ports[service, port]

    def start(self, service: str) -> None:
        """Start a service that runs on."""
        command, variables = self.process(service)
        self._processes[service] = start(
            service, command, variables, self._directory, self.log(service), die_with_parent=True
        )

    def run(self, service: str, *command: object) -> subprocess.CompletedProcess[str]:
        """Run a service that ends; with another command, which is taken as it is, in its place."""
        own, variables = self.process(service, *command)
        return subprocess.run(
            own,
            env=variables,
            cwd=self._directory,
            text=True,
            capture_output=True,
            timeout=110,
            check=False,
        )

    def is_healthy(self, service: str) -> bool:
        """Whether the command by which Compose would ask says so."""
        kind, *command = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        mapped = [self._here(service, part, {}) for part in command]
        return self.run(service, *mapped).returncode == 0

    def stop(self, service: str) -> bool:
        """SIGTERM, and whether it ended within the grace that the file gives."""
        grace = seconds(self.services[service]["stop_grace_period"])
        record = self._processes.pop(service)
        os.kill(record.pid, signal.SIGTERM)
        end = time.monotonic() + grace
        while is_running(record):
            if time.monotonic() > end:
                stop([record], 0)
                return False
            time.sleep(0.05)
        return True

    def stop_all(self) -> None:
        """Kill what still runs, and remove the sockets that SeaweedFS leaves then."""
        stop(self._processes.values(), 0)
        for port in _PORTS["s3"]:
            own = self.port("s3", port)
            for name in (f"*-{own}.sock", f"*-grpc-{own + GRPC_OFFSET}.sock"):
                for socket in Path("/tmp").glob(f"seaweedfs-{name}"):
                    socket.unlink(missing_ok=True)

    def log(self, service: str) -> Path:
        """What a service printed."""
        return self._directory / "logs" / f"{service}.log"

    def process(self, service: str, *command: object) -> tuple[list[str], dict[str, str]]:
        """Command and whole environment of a service's process."""
        described = self.services[service]
        full = [*described.get("entrypoint", []), *described["command"]]
        target = described["image"].rpartition("-")[2]
        own = environment(target) if target in {"cpu", "gpu"} else {}
        variables = {**own, **described.get("environment", {})}
        places = self._places(service, described)
        passed_on = {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
        here = {
            **{name: self._here(service, value, places) for name, value in variables.items()},
            **passed_on,
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
        }
        mapped = [self._here(service, part, places) for part in full]
        return self._program([str(part) for part in command] or mapped, target), here

    def _program(self, command: list[str], target: str) -> list[str]:
        program, *arguments = command
        if program == "python" and arguments[0] == "-m" and target == "cpu":
            return [sys.executable, "-m", "tests.cpu_image", *arguments[1:]]
        known = {"python": sys.executable, "weed": _weed_binary, "valkey-server": _valkey_binary}
        found = known.get(program, _BIN / program)
        return [str(found() if callable(found) else found), *arguments]

    def _places(self, service: str, described: Mapping[str, Any]) -> dict[str, Path]:
        """Directory or file of this machine by path of the container."""
        places = {"/tmp": self._directory / "tmp" / service}
        for mount in described.get("tmpfs", []):
            path = mount.partition(":")[0]
            places[path] = self._directory / "tmpfs" / service / path.strip("/").replace("/", "-")
        for mount in described.get("volumes", []):
            source, _, rest = mount.partition(":")
            path = rest.partition(":")[0]
            if not path:
                places[source] = self._directory / "tmp" / service
            elif source.startswith(("./", "/")):
                places[path] = (DEPLOY / source).resolve()
            else:
                places[path] = self._directory / "volumes" / source
        for place in places.values():
            if not place.exists():
                place.mkdir(parents=True)
        if names := described.get("secrets", []):
            secrets = self._directory / "secrets" / service
            secrets.mkdir(parents=True, exist_ok=True)
            for name in names:
                if not (secrets / name).exists():
                    (secrets / name).symlink_to(self._secrets / name)
            places["/run/secrets"] = secrets
        for path, place in places.items():
            if place.is_file():  # a configuration, which has paths and ports in it
                copy = self._directory / "configuration" / place.name
                copy.parent.mkdir(exist_ok=True)
                lines = place.read_text("utf-8").splitlines()
                there = "\n".join(self._here(service, line, places) for line in lines)
                copy.write_text(f"{there}\n", encoding="utf-8")
                places[path] = copy
        return places

    def _here(self, service: str, text: str, places: Mapping[str, Path]) -> str:
        """A value with paths, names and ports of this machine."""
        for (other, port), own in self._ports.items():
            text = text.replace(f"{other}:{port}", f"127.0.0.1:{own}")
            if other == service:
                text = re.sub(rf"(port=|Port=|^port |127\.0\.0\.1:){port}\b", rf"\g<1>{own}", text)
        text = re.sub(r"^(-ip=|-ip\.bind=|bind )(s3|0\.0\.0\.0|\* -::\*)$", r"\g<1>127.0.0.1", text)
        if str(_METRICS_PORT) in text:
            text = re.sub(rf"\b{_METRICS_PORT}\b", str(self.port(service)), text)
        # At once: a directory of this machine may begin like one of the container.
        if not places:
            return text
        paths = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
        whole = re.compile(rf"(^|[=\s])({paths})(?=$|[/\s:])")
        return whole.sub(lambda found: f"{found[1]}{places[found[2]]}", text)
