"""Every object is one that Kubernetes takes, whatever the values and the name of the release."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.kubernetes_schemas import CUSTOM_KINDS, KUBERNETES_VERSIONS, fault
from tests.chart.objects import Pod, identity, named, of_kind, pods, repeated
from tests.chart.rendering import (
    CHART,
    LONG_RELEASE,
    VALUE_FILES,
    Object,
    RefusedError,
    helm,
    load_objects,
    render,
)

LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")

#: What Kubernetes or an operator makes of the name has to fit into 63 characters too: the pods of
#: a StatefulSet have a label of its name and 11 more, the jobs of a CronJob end with 11 digits.
LONGEST_NAMES = {"StatefulSet": 52, "CronJob": 52}

STANDARD_LABELS = {"name", "instance", "component", "version", "managed-by", "part-of"}


def test_there_is_a_file_of_values_for_each_way_to_run_the_chart() -> None:
    assert len(VALUE_FILES) >= 12


def test_chart_has_its_versions_apart() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))

    assert chart["apiVersion"] == "v2"
    assert re.fullmatch(r"\d+\.\d+\.\d+", chart["version"])
    assert isinstance(chart["appVersion"], str)
    assert "kubeVersion" in chart
    assert "dependencies" not in chart


def test_lint_finds_nothing(values_file: Path) -> None:
    helm("lint", "--strict", str(CHART), "--values", str(values_file))


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_objects_are_valid_in_the_newest_versions_of_kubernetes(
    values_file: Path, version: str
) -> None:
    found = render(values_file, kubernetes=version)

    assert len(found) > 5
    assert [text for text in (fault(one, version) for one in found) if text] == []


def test_objects_of_the_longest_release_name_are_valid(values_file: Path) -> None:
    version = KUBERNETES_VERSIONS[-1]

    faults = [fault(found, version) for found in render(values_file, LONG_RELEASE)]

    assert [text for text in faults if text] == []


def test_every_custom_kind_is_rendered_by_some_file() -> None:
    """But ServiceMonitor: processes are scraped as pods, and most have no service."""
    rendered = {
        (found["apiVersion"], found["kind"]) for path in VALUE_FILES for found in render(path)
    }

    assert {kind for _, kind in CUSTOM_KINDS - rendered} <= {"ServiceMonitor"}


def test_two_renderings_differ_in_generated_passwords_only(values_file: Path) -> None:
    """Whatever else differed would roll the pods at every sync of a tool that renders anew."""
    again = render.__wrapped__(values_file)

    changed = [
        identity(found)
        for found, other in zip(render(values_file), again, strict=True)
        if found != other and found["kind"] != "Secret"
    ]

    assert changed == []


def test_no_object_is_there_twice(objects: tuple[Object, ...]) -> None:
    assert repeated(identity(found) for found in objects) == []


def test_names_fit_what_is_made_of_them(objects: tuple[Object, ...]) -> None:
    too_long = [
        f"{identity(found)} has {len(name)} characters"
        for found in objects
        if len(name := found["metadata"]["name"]) > LONGEST_NAMES.get(found["kind"], 63)
    ]
    parts = [
        f"{pod.name}: {part['name']}"
        for pod in pods(objects)
        for part in (*pod.containers(), *pod.volumes())
        if len(part["name"]) > 63
    ]

    assert too_long + parts == []


def test_objects_are_in_no_namespace_but_the_one_of_the_release(
    objects: tuple[Object, ...],
) -> None:
    elsewhere = [
        identity(found)
        for found in objects
        if found["metadata"].get("namespace", "coldfusion") != "coldfusion"
    ]

    assert elsewhere == []


def test_every_object_has_the_standard_labels(objects: tuple[Object, ...]) -> None:
    missing = []
    for found in objects:
        labels = found["metadata"].get("labels") or {}
        absent = {name for name in STANDARD_LABELS if f"app.kubernetes.io/{name}" not in labels}
        if not pods([found]):
            absent.discard("component")
        if found["kind"] == "Pod":
            absent.discard("version")
        elif "helm.sh/chart" not in labels:
            absent.add("helm.sh/chart")
        if absent:
            missing.append(f"{identity(found)}: {sorted(absent)}")

    assert missing == []


def test_pods_and_claims_have_labels_that_do_not_change_with_a_version(
    objects: tuple[Object, ...],
) -> None:
    """A new chart alone rolls no worker that trains; jobs and claims cannot be changed at all."""
    changing = {"helm.sh/chart", "app.kubernetes.io/version"}
    rolled = [
        pod.name
        for pod in pods(objects)
        if pod.owner["kind"] != "Pod" and changing & set(pod.labels)
    ]
    claims = [
        f"{identity(found)}, {claim['metadata']['name']}"
        for found in of_kind(objects, "StatefulSet")
        for claim in found["spec"].get("volumeClaimTemplates") or []
        if changing & set(claim["metadata"].get("labels") or {})
    ]

    assert rolled + claims == []


def test_labels_are_ones_that_kubernetes_takes(objects: tuple[Object, ...]) -> None:
    wrong = [
        f"{identity(found)}: {key}={value}"
        for found in objects
        for key, value in _labels(found)
        if len(value) > 63 or not LABEL.fullmatch(value)
    ]

    assert wrong == []


def _labels(node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("labels", "matchLabels") and isinstance(value, dict):
                yield from value.items()
            else:
                yield from _labels(value)
    elif isinstance(node, list):
        for item in node:
            yield from _labels(item)


def test_no_field_is_null(objects: tuple[Object, ...]) -> None:
    """A null takes away a default of the API, and comes from a value that is not there."""
    assert [f"{identity(found)}: {path}" for found in objects for path in _nulls(found)] == []


def _nulls(node: Any, path: str = "") -> Iterator[str]:
    if node is None:
        yield path
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _nulls(value, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _nulls(value, f"{path}[{index}]")


def test_nothing_in_a_pod_has_the_name_of_something_else(objects: tuple[Object, ...]) -> None:
    """Server-side apply, which helm 4 does, refuses lists whose keys are there twice."""
    assert [text for pod in pods(objects) for text in _twice(pod)] == []


def _twice(pod: Pod) -> Iterator[str]:
    containers = list(pod.containers())
    lists: dict[str, list[Any]] = {
        "container": [container["name"] for container in containers],
        "volume": [volume["name"] for volume in pod.volumes()],
        "port name": [
            port["name"] for container in containers for port in container.get("ports") or []
        ],
    }
    for container in containers:
        name = container["name"]
        ports = container.get("ports") or []
        lists[f"{name}: variable"] = [entry["name"] for entry in container.get("env") or []]
        lists[f"{name}: mount"] = [
            mount["mountPath"].rstrip("/") for mount in container.get("volumeMounts") or []
        ]
        lists[f"{name}: port"] = [
            (port["containerPort"], port.get("protocol", "TCP")) for port in ports
        ]
    for what, items in lists.items():
        if twice := repeated(items):
            yield f"{pod.name}: {what} {twice}"


def test_ports_of_a_service_are_there_once(objects: tuple[Object, ...]) -> None:
    twice = []
    for service in of_kind(objects, "Service"):
        ports = service["spec"]["ports"]
        twice += repeated((service["metadata"]["name"], port["name"]) for port in ports)
        twice += repeated(
            (service["metadata"]["name"], port["port"], port.get("protocol", "TCP"))
            for port in ports
        )

    assert twice == []


def test_a_key_that_is_written_twice_is_seen() -> None:
    with pytest.raises(yaml.constructor.ConstructorError, match="'a' is there twice"):
        load_objects("a: 1\nb: 2\na: 3\n")


def test_a_kind_that_kubernetes_dropped_is_a_fault() -> None:
    budget = {"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {}}

    text = fault({**budget, "metadata": {"name": "old"}}, KUBERNETES_VERSIONS[0])

    assert text is not None
    assert "has no PodDisruptionBudget of policy/v1beta1" in text


def test_a_field_that_no_version_has_is_a_fault() -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "wrong"},
        "spec": {"ports": [{"port": 1, "targetport": 2}]},
    }

    assert "targetport" in (fault(service, KUBERNETES_VERSIONS[-1]) or "")


def test_helm_says_why_it_refuses() -> None:
    with pytest.raises(RefusedError, match="unknown flag"):
        helm("template", "--no-such-flag")


def test_secrets_are_there_to_be_named() -> None:
    """A guard of the helpers: `named` finds what is rendered."""
    account = next(found for found in render(VALUE_FILES[0]) if found["kind"] == "ServiceAccount")

    assert named(render(VALUE_FILES[0]), "ServiceAccount", account["metadata"]["name"]) == account
