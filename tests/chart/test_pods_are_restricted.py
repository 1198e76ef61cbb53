"""Every pod keeps to the Pod Security Standard `restricted`, and to what the chart adds to it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.chart.objects import Pod, pods
from tests.chart.pod_promises import PROMISES
from tests.chart.pod_security import RESTRICTED, violations
from tests.chart.rendering import Object

GOOD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "good"},
    "spec": {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "serviceAccountName": "one-of-its-own",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "main",
                "image": "registry.example:5000/thing:1.2",
                "resources": {
                    "requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"},
                    "limits": {"memory": "1Gi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    },
}


def test_pods_are_restricted(objects: tuple[Object, ...]) -> None:
    assert [text for pod in pods(objects) for text in violations(pod, RESTRICTED)] == []


def test_pods_keep_the_promises_of_the_chart(objects: tuple[Object, ...]) -> None:
    assert [text for pod in pods(objects) for text in violations(pod, PROMISES)] == []


def broken(path: str, value: object) -> Pod:
    """The good pod with one thing changed; ``path`` begins at its spec."""
    owner = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    node: Any = owner["spec"]
    for name in parents:
        node = node[int(name)] if name.isdigit() else node.setdefault(name, {})
    node[last] = value
    return Pod(owner, owner["metadata"], owner["spec"])


def test_the_good_pod_breaks_no_rule() -> None:
    pod = Pod(GOOD, GOOD["metadata"], GOOD["spec"])

    assert violations(pod, RESTRICTED + PROMISES) == []


@pytest.mark.parametrize(
    ("rule", "path", "value"),
    [
        ("host_processes", "securityContext.windowsOptions", {"hostProcess": True}),
        ("host_namespaces", "hostNetwork", True),
        ("host_namespaces", "hostPID", True),
        ("host_namespaces", "hostIPC", True),
        ("privileged_containers", "containers.0.securityContext.privileged", True),
        ("capabilities", "containers.0.securityContext.capabilities", {"drop": ["NET_RAW"]}),
        (
            "capabilities",
            "containers.0.securityContext.capabilities",
            {"drop": ["ALL"], "add": ["SYS_ADMIN"]},
        ),
        ("volume_types", "volumes", [{"name": "host", "hostPath": {"path": "/"}}]),
        ("host_ports", "containers.0.ports", [{"containerPort": 1, "hostPort": 1}]),
        (
            "hosts_of_probes_and_hooks",
            "containers.0.livenessProbe",
            {"httpGet": {"port": 1, "host": "10.0.0.1"}},
        ),
        (
            "hosts_of_probes_and_hooks",
            "containers.0.lifecycle",
            {"preStop": {"tcpSocket": {"port": 1, "host": "10.0.0.1"}}},
        ),
        ("apparmor", "securityContext.appArmorProfile", {"type": "Unconfined"}),
        ("selinux", "securityContext.seLinuxOptions", {"type": "spc_t"}),
        ("selinux", "securityContext.seLinuxOptions", {"user": "system_u"}),
        ("proc_mount", "containers.0.securityContext.procMount", "Unmasked"),
        ("sysctls", "securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
        ("privilege_escalation", "containers.0.securityContext.allowPrivilegeEscalation", True),
        ("running_as_non_root", "securityContext.runAsNonRoot", None),
        ("running_as_non_root", "containers.0.securityContext.runAsNonRoot", False),
        ("non_root_user", "containers.0.securityContext.runAsUser", 0),
        ("seccomp", "securityContext.seccompProfile", None),
        ("seccomp", "containers.0.securityContext.seccompProfile", {"type": "Unconfined"}),
        ("read_only_root", "containers.0.securityContext.readOnlyRootFilesystem", False),
        ("user_is_a_number", "securityContext.runAsUser", None),
        ("no_api_token", "automountServiceAccountToken", None),
        ("no_service_links", "enableServiceLinks", True),
        ("own_service_account", "serviceAccountName", "default"),
        ("resources", "containers.0.resources", {"requests": {"cpu": "1"}}),
        ("pinned_images", "containers.0.image", "registry.example:5000/thing"),
        ("pinned_images", "containers.0.image", "thing:latest"),
    ],
)
def test_a_pod_that_breaks_a_rule_is_seen(rule: str, path: str, value: object) -> None:
    found = violations(broken(path, value), RESTRICTED + PROMISES)

    assert any(f": {rule}: " in text for text in found)
