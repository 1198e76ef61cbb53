"""A rendered container on this host: command, environment and files as they are, but for a map.

Three things are mapped, and nothing else: its paths lie in a directory, its ports are free ones of
this host, and the names of Services are loopback addresses. What is mounted nowhere, what no
Service offers and what no image or template sets is not there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coldfusion_queue.local.seaweed import S3Server
from coldfusion_queue.local.valkey import ValkeyServer
from coldfusion_queue.settings import ENV_PREFIX, Settings
from tests.acceptance.world import BIN
from tests.chart.objects import Pod
from tests.dockerfile import environment as image_environment

__all__ = ["STORE_PARTS", "Container"]

#: Parts of SeaweedFS that listen on a port of their own, on loopback, which the chart leaves at
#: what they have by default.
STORE_PARTS = ("master", "volume", "filer")

#: Variables that somebody else than our settings reads, with who does.
FOREIGN_VARIABLES = {
    "TMPDIR": "tempfile",
    "HF_HOME": "huggingface_hub",
    "HF_HUB_OFFLINE": "huggingface_hub",
    "MALLOC_ARENA_MAX": "glibc",
}

#: Addresses of Services, absolute paths and numbers; what follows a colon or a word is part of a
#: URL or of a name.
_MAPPED = re.compile(
    r"(?P<address>[\w.-]+\.svc:\d+)"
    r"|(?P<path>(?<![\w/:.*&~-])/[\w./-]+)"
    r"|(?P<number>(?<![\w.])\d+(?![\w.]))"
)


def _programs() -> str:
    """``PATH`` of all images together."""
    nowhere = Path("/nonexistent")
    commands = [ValkeyServer.new(nowhere).command, S3Server.new(nowhere).command]
    return os.pathsep.join([str(BIN), *(str(Path(words[0]).parent) for words in commands)])


@dataclass(frozen=True)
class Container:
    """A container of one pod; a second pod of the same template has other directories and ports."""

    name: str
    replica: int
    pod: Pod
    spec: Mapping[str, Any]
    directory: Path
    """Where its volumes are."""
    mounts: Mapping[str, Path]
    ports: Mapping[int | str, int]
    """Port here by the container's, or by the part of SeaweedFS."""
    addresses: Mapping[str, str]

    @property
    def is_ours(self) -> bool:
        """Whether its image is one of this project."""
        return "coldfusion" in str(self.spec["image"])

    @property
    def command(self) -> list[str]:
        """As rendered, but for what is mapped."""
        words = [*self.spec["command"], *self.spec.get("args", [])]
        own = [f"-{part}.port={self.ports[part]}" for part in STORE_PARTS if part in self.ports]
        if self.replica and words[-1].endswith("_worker"):
            # Workers are told apart by the names of their hosts, which for pods differ.
            own = ["--name", self.directory.name]
        return [self.mapped(word) for word in words] + own

    @property
    def environment(self) -> dict[str, str]:
        """The image's and the rendered one."""
        found: dict[str, str] = {}
        if self.is_ours:
            variant = str(self.spec["image"]).partition("@")[0].rpartition("-")[2]
            found = image_environment(variant)
        for entry in self.spec.get("env", []):
            assert set(entry) == {"name", "value"}, entry
            found[entry["name"]] = entry["value"]
        mapped = {name: self.mapped(value) for name, value in found.items() if name != "PATH"}
        # Many processes share this host's processors.
        return {**mapped, "PATH": _programs(), "OMP_NUM_THREADS": "1"}

    def mapped(self, text: str, *, is_strict: bool = True) -> str:
        """A text with paths, ports and names of this host.

        Args:
            text: what a container sees.
            is_strict: refuse a path that is mounted nowhere.
        """

        def replace(match: re.Match[str]) -> str:
            found = match[0]
            if match["address"]:
                return self.addresses[found]
            if match["number"]:
                return str(self.ports.get(int(found), found))
            for place in sorted(self.mounts, key=len, reverse=True):
                if found == place or found.startswith(f"{place}/"):
                    return f"{self.mounts[place]}{found[len(place) :]}"
            assert not is_strict, f"{self.name}: {found} is nowhere in {list(self.mounts)}"
            return found

        return _MAPPED.sub(replace, text)

    def unread(self) -> list[str]:
        """Variables and files that nobody is known to read."""
        names = [entry["name"] for entry in self.spec.get("env", [])]
        known = {f"{ENV_PREFIX}{field.upper()}" for field in Settings.model_fields}
        variables = [name for name in names if name not in known and name not in FOREIGN_VARIABLES]
        words = {word for text in self._texts() for word in re.split(r"[\s=]", text)}
        files = []
        for path in self.files():
            # Of a directory that is named as a whole these are looked for.
            is_known = path.name.removeprefix(ENV_PREFIX) != path.name or path.suffix == ".toml"
            if str(path) not in words and not (is_known and str(path.parent) in words):
                files.append(str(path))
        return variables + files

    def _texts(self) -> Iterator[str]:
        yield from (*self.command, *self.environment.values())
        yield from (path.read_text("utf-8") for path in self.files())

    def files(self) -> list[Path]:
        """What was rendered into files, or made by the operator."""
        places = [
            path for path in self.mounts.values() if path.is_relative_to(self.directory / "files")
        ]
        return sorted(path for place in places for path in place.rglob("*") if path.is_file())
