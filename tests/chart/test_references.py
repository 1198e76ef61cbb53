"""What an object names exists, or is the operator's; what a selector looks for is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.chart.objects import Pod, identity, named, of_kind, pods, repeated, selects, strings
from tests.chart.references import Reference, data_keys, references, selectors
from tests.chart.rendering import Object

#: Values that name what the operator has made outside the release.
OUTSIDE = (
    "baseModelClaim",
    "caSecret",
    "embeddedSecret",
    "existing",
    "priorityClassName",
    "pullSecrets",
    "roleSecrets",
    "serviceAccount",
)


def outside_names(node: Any, inside: bool = False) -> Iterator[str]:
    """The strings of a tree of values below a key that names something outside the release."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from outside_names(value, inside or key.startswith(OUTSIDE))
    elif isinstance(node, list):
        for item in node:
            yield from outside_names(item, inside)
    elif inside and isinstance(node, str):
        yield node


def missing(objects: tuple[Object, ...], outside: set[str]) -> list[str]:
    """What is named and is neither rendered nor of the operator."""
    return [
        f"{found.owner} names {found.kind}/{found.name}{list(found.keys) or ''}"
        for found in references(objects)
        if found.name not in outside and not _is_there(objects, found)
    ]


def _is_there(objects: tuple[Object, ...], wanted: Reference) -> bool:
    target = named(objects, wanted.kind, wanted.name)
    if target is None:
        return wanted.optional
    return wanted.optional or set(wanted.keys) <= data_keys(target) or not wanted.keys


def test_what_is_named_exists(objects: tuple[Object, ...], values_file: Path) -> None:
    values = yaml.safe_load(values_file.read_text(encoding="utf-8")) or {}

    assert missing(objects, set(outside_names(values))) == []


def test_every_mount_has_its_volume_and_every_volume_its_mount(
    objects: tuple[Object, ...],
) -> None:
    assert [text for pod in pods(objects) for text in _unmatched_volumes(pod)] == []


def _unmatched_volumes(pod: Pod) -> Iterator[str]:
    volumes = {volume["name"] for volume in pod.volumes()}
    mounts = {
        mount["name"]
        for container in pod.containers()
        for mount in container.get("volumeMounts") or []
    }
    if volumes != mounts:
        yield f"{pod.name}: volumes {sorted(volumes)}, mounts {sorted(mounts)}"


def test_every_config_map_secret_and_claim_is_used(objects: tuple[Object, ...]) -> None:
    """A secret that nothing mounts is one more place to lose it from. Grafana finds its own."""
    used = {(found.kind, found.name) for found in references(objects)}
    idle = [
        identity(found)
        for found in of_kind(objects, "ConfigMap", "Secret", "PersistentVolumeClaim")
        if (found["kind"], found["metadata"]["name"]) not in used
        and "grafana_dashboard" not in found["metadata"]["labels"]
    ]

    assert idle == []


def test_every_selector_finds_a_pod(objects: tuple[Object, ...]) -> None:
    lost = [
        f"{identity(found)}: {selector}"
        for found, selector in selectors(objects)
        if not any(selects(selector, pod.labels) for pod in pods(objects))
    ]

    assert lost == []


def test_a_workload_owns_its_pods_and_no_others(objects: tuple[Object, ...]) -> None:
    """Two deployments that select the same pods delete one another's."""
    wrong = []
    for workload in of_kind(objects, "Deployment", "StatefulSet", "DaemonSet"):
        selector = workload["spec"]["selector"]
        assert selector.get("matchLabels"), identity(workload)
        taken = [pod.name for pod in pods(objects) if selects(selector, pod.labels)]
        if taken != [identity(workload)]:
            wrong.append(f"{identity(workload)} selects {taken}")

    assert wrong == []


def test_a_pod_has_at_most_one_disruption_budget(objects: tuple[Object, ...]) -> None:
    """The API refuses to evict a pod that two budgets select: its node never drains."""
    budgets = of_kind(objects, "PodDisruptionBudget")
    twice = [
        pod.name
        for pod in pods(objects)
        if sum(selects(budget["spec"]["selector"], pod.labels) for budget in budgets) > 1
    ]

    assert twice == []


def test_a_workload_has_at_most_one_autoscaler_and_then_no_replicas(
    objects: tuple[Object, ...],
) -> None:
    """`replicas` beside an autoscaler sets the number back at every upgrade."""
    scalers = of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    targets = [found["spec"]["scaleTargetRef"]["name"] for found in scalers]
    workloads = of_kind(objects, "Deployment", "StatefulSet")
    scaled = {found["metadata"]["name"] for found in workloads if "replicas" not in found["spec"]}

    assert repeated(targets) == []
    assert scaled == set(targets)


def test_monitors_find_every_pod_with_metrics(objects: tuple[Object, ...]) -> None:
    """The operator passes over pods without a port of that name."""
    unseen = [
        pod.name
        for monitor in of_kind(objects, "PodMonitor")
        for pod in pods(objects)
        if "metrics" in _ports(pod) and not selects(monitor["spec"]["selector"], pod.labels)
    ]
    ports = {
        end["port"]
        for monitor in of_kind(objects, "PodMonitor")
        for end in monitor["spec"]["podMetricsEndpoints"]
    }

    assert unseen == []
    assert ports <= {"metrics"}


def test_ports_of_services_are_ports_of_their_pods(objects: tuple[Object, ...]) -> None:
    wrong = []
    for found, selector in selectors(objects):
        wanted: set[str | int] = set()
        if found["kind"] == "Service":
            wanted = {port.get("targetPort", port["port"]) for port in found["spec"]["ports"]}
        for pod in pods(objects):
            if selects(selector, pod.labels) and (lost := wanted - _ports(pod)):
                wrong.append(f"{identity(found)}: {pod.name} has no port {lost}")

    assert wrong == []


def _ports(pod: Pod) -> set[str | int]:
    return {
        value
        for container in pod.containers()
        for port in container.get("ports") or []
        for value in (port.get("name"), port["containerPort"])
        if value
    }


def test_probes_ask_a_port_that_the_container_has(objects: tuple[Object, ...]) -> None:
    wrong = []
    for pod in pods(objects):
        for container in pod.containers():
            names = {
                value
                for port in container.get("ports") or []
                for value in (port.get("name"), port["containerPort"])
            }
            for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                for action in ("httpGet", "tcpSocket"):
                    asked = ((container.get(probe) or {}).get(action) or {}).get("port")
                    if asked is not None and asked not in names:
                        wrong.append(f"{pod.name}, {container['name']}: {probe} asks {asked}")

    assert wrong == []


def test_service_monitors_find_a_service_and_its_port(objects: tuple[Object, ...]) -> None:
    wrong = []
    for monitor in of_kind(objects, "ServiceMonitor"):
        matches = [
            service
            for service in of_kind(objects, "Service")
            if selects(monitor["spec"]["selector"], service["metadata"]["labels"])
        ]
        ports = {port["name"] for service in matches for port in service["spec"]["ports"]}
        wanted = {end["port"] for end in monitor["spec"]["endpoints"]}
        if not matches or not wanted <= ports:
            wrong.append(f"{identity(monitor)}: {wanted} of {ports}")

    assert wrong == []


def test_names_of_services_in_settings_are_services_of_the_release(
    objects: tuple[Object, ...],
) -> None:
    """Addresses in the environment, in arguments and in scalers name what there is."""
    services = {found["metadata"]["name"] for found in of_kind(objects, "Service")}
    hosts = {
        text.partition(".coldfusion.svc")[0].rpartition("/")[2].rpartition("@")[2]
        for found in objects
        for _, text in strings(found)
        if ".coldfusion.svc" in text and " " not in text
    }

    assert hosts <= services


def test_a_missing_secret_and_a_missing_key_are_seen() -> None:
    pod: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one"},
        "spec": {
            "serviceAccountName": "theirs",
            "volumes": [
                {"name": "a", "secret": {"secretName": "gone"}},
                {"name": "b", "projected": {"sources": [{"configMap": _items("there", "no")}]}},
                {"name": "c", "secret": {"secretName": "gone-too", "optional": True}},
            ],
            "containers": [],
        },
    }
    there: Object = {"kind": "ConfigMap", "metadata": {"name": "there"}, "data": {"yes": ""}}

    assert missing((pod, there), {"theirs"}) == [
        "Pod/one names Secret/gone",
        "Pod/one names ConfigMap/there['no']",
    ]


def _items(name: str, key: str) -> dict[str, Any]:
    return {"name": name, "items": [{"key": key, "path": key}]}
