"""Questions to ask of rendered objects: which pods there are, what they name, what selects what."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.chart.rendering import Object

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")


def identity(found: Object) -> str:
    """``Kind/name``, as messages of tests say it."""
    return f"{found['kind']}/{found['metadata']['name']}"


@dataclasses.dataclass(frozen=True)
class Pod:
    """A pod, or the template of one, and the object that it is in."""

    owner: Object
    metadata: Mapping[str, Any]
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The identity of the owner."""
        return identity(self.owner)

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that selectors see."""
        return self.metadata.get("labels") or {}

    def containers(self) -> Iterator[Mapping[str, Any]]:
        """All of them, those that run first too."""
        for group in ("initContainers", "containers", "ephemeralContainers"):
            yield from self.spec.get(group) or []

    def volumes(self) -> Iterator[Mapping[str, Any]]:
        """Its volumes, and those that a StatefulSet makes for it."""
        yield from self.spec.get("volumes") or []
        for claim in self.owner["spec"].get("volumeClaimTemplates") or []:
            yield {"name": claim["metadata"]["name"], "volumeClaimTemplate": claim}


def pods(objects: Iterable[Object]) -> list[Pod]:
    """Every pod that the objects make."""
    found = []
    for owner in objects:
        if owner["kind"] == "Pod":
            found.append(Pod(owner, owner["metadata"], owner["spec"]))
        elif owner["kind"] in WORKLOADS:
            template = owner["spec"]["template"]
            found.append(Pod(owner, template.get("metadata") or {}, template["spec"]))
        elif owner["kind"] == "CronJob":
            template = owner["spec"]["jobTemplate"]["spec"]["template"]
            found.append(Pod(owner, template.get("metadata") or {}, template["spec"]))
    return found


def of_kind(objects: Iterable[Object], *kinds: str) -> list[Object]:
    """The objects of these kinds."""
    return [found for found in objects if found["kind"] in kinds]


def named(objects: Iterable[Object], kind: str, name: str) -> Object | None:
    """The object of that kind and name, if there is one."""
    matches = (found for found in of_kind(objects, kind) if found["metadata"]["name"] == name)
    return next(matches, None)


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes something with these labels; an empty one takes all."""
    selector = selector or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_meets(term, labels) for term in selector.get("matchExpressions") or [])


def _meets(term: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(term["key"])
    match term["operator"]:
        case "In":
            return value in term["values"]
        case "NotIn":
            return value not in term["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise ValueError(f"{term['operator']} is no operator of a label selector")


def strings(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a tree, with its path; keys are strings too."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{path}.{key}", str(key)
            yield from strings(value, f"{path}.{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from strings(value, f"{path}[{index}]")
    elif isinstance(node, str):
        yield path, node


def repeated(items: Iterable[Any]) -> list[Any]:
    """What is there more than once."""
    seen = list(items)
    return sorted({item for item in seen if seen.count(item) > 1})
