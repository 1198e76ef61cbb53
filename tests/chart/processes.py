"""The containers that run this program, and their files and variables as on a node."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.chart.objects import Pod, named, pods
from tests.chart.rendering import Object

#: What a file of a secret that the operator makes holds here.
OUTSIDE_VALUE = "made-by-the-operator"


@dataclasses.dataclass(frozen=True)
class Process:
    """A container of this program."""

    pod: Pod
    container: Mapping[str, Any]

    @property
    def command(self) -> list[str]:
        """Command and arguments, in exec form."""
        return [*(self.container.get("command") or []), *(self.container.get("args") or [])]

    @property
    def module(self) -> str:
        """``workers.beat`` of ``python -m workers.beat``; empty if it runs no module."""
        words = self.command
        return words[words.index("-m") + 1] if "-m" in words[:-1] else ""

    @property
    def name(self) -> str:
        """Where it is, for messages."""
        return f"{self.pod.name}, {self.container['name']}"

    def variables(self) -> dict[str, str]:
        """Its environment; what is read from a field of the pod is made up."""
        return {
            entry["name"]: entry.get("value", "of-the-pod")
            for entry in self.container.get("env") or []
        }


def processes(objects: Iterable[Object]) -> list[Process]:
    """Every container that runs a worker, beat, the exporter or the command line."""
    return [
        Process(pod, container)
        for pod in pods(objects)
        for container in pod.containers()
        if any(word.startswith(("workers.", "coldfusion")) for word in _words(container))
    ]


def _words(container: Mapping[str, Any]) -> list[str]:
    return [*(container.get("command") or []), *(container.get("args") or [])]


def lay_out(process: Process, objects: Iterable[Object], root: Path) -> dict[str, str]:
    """Make what is mounted below ``root``, and give the environment with its paths moved there."""
    objects = list(objects)
    volumes = {volume["name"]: volume for volume in process.pod.volumes()}
    moved = {}
    for mount in process.container.get("volumeMounts") or []:
        place = root / mount["mountPath"].lstrip("/")
        moved[mount["mountPath"].rstrip("/")] = str(place)
        files = dict(_files(volumes[mount["name"]], objects))
        if "subPath" in mount and files:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(files[mount["subPath"]], encoding="utf-8")
            continue
        place.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text, encoding="utf-8")
    return {name: _move(value, moved) for name, value in process.variables().items()}


def _move(value: str, moved: Mapping[str, str]) -> str:
    for place in sorted(moved, key=len, reverse=True):
        if value == place or value.startswith(place + "/"):
            return moved[place] + value[len(place) :]
    return value


def _files(volume: Mapping[str, Any], objects: list[Object]) -> Iterator[tuple[str, str]]:
    """The files of a volume, by their path in it."""
    for source in (volume, *((volume.get("projected") or {}).get("sources") or [])):
        for field, kind in (("secret", "Secret"), ("configMap", "ConfigMap")):
            if field in source:
                found = source[field]
                name = found.get("secretName") or found["name"]
                target = named(objects, kind, name)
                texts = None if target is None else _texts(target)
                for item in found.get("items") or [{"key": k, "path": k} for k in texts or {}]:
                    text = OUTSIDE_VALUE if texts is None else texts[item["key"]]
                    yield item["path"], text


def _texts(found: Object) -> dict[str, str]:
    encoded = (found.get("data") or {}) if found["kind"] == "Secret" else {}
    plain = found.get("stringData") if found["kind"] == "Secret" else found.get("data")
    return {key: base64.b64decode(value).decode() for key, value in encoded.items()} | dict(
        plain or {}
    )
