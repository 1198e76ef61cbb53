"""Containers as a cluster runs them: the image's user, a read-only root, no rights."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.images.image import Image

__all__ = ["SECRETS_DIR", "Container", "Containers"]

#: Where chart and compose file mount the secrets.
SECRETS_DIR = "/etc/coldfusion/secrets"
_RIGHTS = ("bounding", "effective", "inheritable", "permitted", "ambient")


class Container:
    """A running one; its main process is process 1 in it, and gets the signals."""

    def __init__(self, name: str, command: Sequence[str], bundle: Path, log: Path) -> None:
        self.name = name
        self.log = log
        self._runc = ["runc", "--root", str(bundle.parent / "runc")]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*self._runc, "run", "--bundle", str(bundle), name],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.command = list(command)

    def runs(self) -> bool:
        """Whether its main process is there."""
        return self._process.poll() is None

    def wait(self, seconds: float) -> int:
        """Its exit status."""
        return self._process.wait(seconds)

    def signal(self, name: str) -> None:
        """Send a signal to process 1."""
        subprocess.run([*self._runc, "kill", self.name, name], check=True, capture_output=True)

    def stop(self) -> None:
        """Kill it and forget it."""
        subprocess.run([*self._runc, "delete", "--force", self.name], capture_output=True)
        self._process.wait(20)

    def output(self) -> str:
        """What it printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")


class Containers:
    """Starts containers of one image on the network of this machine.

    Args:
        image: of all of them.
        directory: a fresh one.
        variables: the environment of each, besides the image's own.
        secrets: files that they find in ``SECRETS_DIR``.
    """

    def __init__(
        self,
        image: Image,
        directory: Path,
        variables: Mapping[str, str],
        secret_files: Mapping[str, str],
    ) -> None:
        self._image, self._directory, self._variables = image, directory, variables
        self._started: list[Container] = []
        self._secrets = directory / "secrets"
        self._secrets.mkdir(parents=True)
        user, group = self.user
        for name, value in secret_files.items():
            path = self._secrets / name
            path.write_text(value, encoding="utf-8")
            path.chmod(0o400)
            os.chown(path, user, group)
        # pytest's directories are for root alone; a mount needs no way there, but its own root does
        self._secrets.chmod(0o755)

    @property
    def user(self) -> tuple[int, int]:
        """User and group of the image, which are numbers."""
        user, _, group = self._image.config["User"].partition(":")
        return int(user), int(group)

    def start(self, *command: str, **variables: str) -> Container:
        """Start a container with this command; the image's own if none is given."""
        name = f"coldfusion-{len(self._started)}-{secrets.token_hex(4)}"
        bundle = self._directory / name
        bundle.mkdir()
        full = list(command) or self._image.config["Cmd"]
        spec = json.dumps(self._spec(full, variables))
        (bundle / "config.json").write_text(spec, encoding="utf-8")
        container = Container(name, full, bundle, self._directory / f"{name}.log")
        self._started.append(container)
        return container

    def run(self, *command: str, seconds: float = 60, **variables: str) -> tuple[int, str]:
        """Exit status and output of a command that ends."""
        container = self.start(*command, **variables)
        return container.wait(seconds), container.output()

    def stop_all(self) -> None:
        """Kill what still runs."""
        for container in self._started:
            container.stop()

    def _spec(self, command: Sequence[str], variables: Mapping[str, str]) -> dict[str, Any]:
        user, group = self.user
        own = dict(line.split("=", 1) for line in self._image.config["Env"])
        environment = {**own, **self._variables, **variables}
        home = f"uid={user}", f"gid={group}"
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(self._image.files), "readonly": True},
            "process": {
                "user": {"uid": user, "gid": group},
                "args": list(command),
                "env": [f"{name}={value}" for name, value in environment.items()],
                "cwd": self._image.config["WorkingDir"],
                "capabilities": {kind: [] for kind in _RIGHTS},
                "noNewPrivileges": True,
            },
            "mounts": [
                _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
                _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
                _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777"),
                _mount("/tmp", "tmpfs", "nosuid", "nodev", "mode=1777"),
                _mount("/var/lib/coldfusion", "tmpfs", "nosuid", "nodev", "mode=0700", *home),
                {
                    "destination": SECRETS_DIR,
                    "type": "bind",
                    "source": str(self._secrets),
                    "options": ["rbind", "ro", "nosuid", "nodev"],
                },
            ],
            "linux": {
                # The network is this machine's, on whose loopback interface the servers listen.
                "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
            },
        }


def _mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}
