"""What objects of a release name in one another, and the keys that they take of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.chart.objects import Object, Pod, identity, of_kind, pods


@dataclasses.dataclass(frozen=True)
class Reference:
    """One object names another; ``keys`` are those of a ConfigMap or Secret that it takes."""

    owner: str
    kind: str
    name: str
    keys: tuple[str, ...] = ()
    optional: bool = False


def references(objects: Iterable[Object]) -> Iterator[Reference]:
    """Every reference to an object that could be one of the release."""
    objects = list(objects)
    for pod in pods(objects):
        yield from _of_pod(pod)
    for found in objects:
        yield from _of_object(found)


def _of_pod(pod: Pod) -> Iterator[Reference]:
    yield Reference(pod.name, "ServiceAccount", pod.spec.get("serviceAccountName", "default"))
    if "priorityClassName" in pod.spec:
        yield Reference(pod.name, "PriorityClass", pod.spec["priorityClassName"])
    for entry in pod.spec.get("imagePullSecrets") or []:
        yield Reference(pod.name, "Secret", entry["name"])
    for volume in pod.volumes():
        yield from _of_volume(pod.name, volume)
    for container in pod.containers():
        owner = f"{pod.name}, {container['name']}"
        for entry in container.get("env") or []:
            source = entry.get("valueFrom") or {}
            for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if field in source:
                    yield _keyed(owner, kind, source[field])
        for entry in container.get("envFrom") or []:
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if field in entry:
                    found = entry[field]
                    optional = bool(found.get("optional"))
                    yield Reference(owner, kind, found["name"], optional=optional)


def _of_volume(owner: str, volume: Mapping[str, Any]) -> Iterator[Reference]:
    sources = [volume, *((volume.get("projected") or {}).get("sources") or [])]
    for source in sources:
        if "configMap" in source:
            yield _items(owner, "ConfigMap", source["configMap"], source["configMap"].get("name"))
        if "secret" in source:
            name = source["secret"].get("secretName") or source["secret"].get("name")
            yield _items(owner, "Secret", source["secret"], name)
    if "persistentVolumeClaim" in volume:
        yield Reference(
            owner, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        )


def _items(owner: str, kind: str, source: Mapping[str, Any], name: str | None) -> Reference:
    keys = tuple(item["key"] for item in source.get("items") or [])
    return Reference(owner, kind, name or "", keys, bool(source.get("optional")))


def _keyed(owner: str, kind: str, source: Mapping[str, Any]) -> Reference:
    return Reference(owner, kind, source["name"], (source["key"],), bool(source.get("optional")))


def _of_object(found: Object) -> Iterator[Reference]:
    owner, spec = identity(found), found.get("spec") or {}
    match found["kind"]:
        case "StatefulSet":
            yield Reference(owner, "Service", spec["serviceName"])
        case "HorizontalPodAutoscaler" | "ScaledObject":
            target = spec["scaleTargetRef"]
            yield Reference(owner, target.get("kind", "Deployment"), target["name"])
        case "TriggerAuthentication":
            for field, kind in (("secretTargetRef", "Secret"), ("configMapTargetRef", "ConfigMap")):
                for entry in spec.get(field) or []:
                    yield Reference(owner, kind, entry["name"], (entry["key"],))
        case "Ingress":
            for rule in spec.get("rules") or []:
                for path in rule["http"]["paths"]:
                    yield Reference(owner, "Service", path["backend"]["service"]["name"])
        case "RoleBinding" | "ClusterRoleBinding":
            yield Reference(owner, found["roleRef"]["kind"], found["roleRef"]["name"])
            for subject in found.get("subjects") or []:
                yield Reference(owner, subject["kind"], subject["name"])
    if found["kind"] == "ScaledObject":
        for trigger in spec["triggers"]:
            if "authenticationRef" in trigger:
                name = trigger["authenticationRef"]["name"]
                yield Reference(owner, "TriggerAuthentication", name)


def data_keys(found: Object) -> set[str]:
    """The keys of a ConfigMap or a Secret."""
    return {key for field in ("data", "stringData", "binaryData") for key in found.get(field) or {}}


def selectors(objects: Iterable[Object]) -> Iterator[tuple[Object, Mapping[str, Any]]]:
    """Every selector of pods, as a label selector, with the object that it is in."""
    for found in of_kind(objects, "Service"):
        if found["spec"].get("selector"):
            yield found, {"matchLabels": found["spec"]["selector"]}
    for found in of_kind(objects, "PodDisruptionBudget", "PodMonitor"):
        yield found, found["spec"]["selector"]
    for found in of_kind(objects, "NetworkPolicy"):
        yield found, found["spec"]["podSelector"]
