"""The Pod Security Standard `restricted`, as functions of a pod.

Source: kubernetes.io/docs/concepts/security/pod-security-standards, baseline and restricted, of
Linux pods. Each rule looks at one pod and yields what breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.chart.objects import Pod

Rule = Callable[[Pod], Iterator[str]]

RESTRICTED: list[Rule] = []

VOLUME_TYPES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "volumeClaimTemplate",
}
SECCOMP_PROFILES = {"RuntimeDefault", "Localhost"}
SELINUX_TYPES = {
    None,
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}


def violations(pod: Pod, rules: list[Rule]) -> list[str]:
    """What of the pod breaks which rule."""
    return [f"{pod.name}: {rule.__name__}: {text}" for rule in rules for text in rule(pod)]


def restricted(rule: Rule) -> Rule:
    """Marks a rule of the standard."""
    RESTRICTED.append(rule)
    return rule


def context_of(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return node.get("securityContext") or {}


def contexts(pod: Pod) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The security contexts of the pod and its containers, each with whose it is."""
    yield "pod", context_of(pod.spec)
    for container in pod.containers():
        yield container["name"], context_of(container)


def effective(pod: Pod, field: str) -> Iterator[tuple[str, Any]]:
    """A field of each container as the kubelet reads it: its own, else that of the pod."""
    for container in pod.containers():
        own = context_of(container)
        yield container["name"], own[field] if field in own else context_of(pod.spec).get(field)


@restricted
def host_processes(pod: Pod) -> Iterator[str]:
    for name, context in contexts(pod):
        if (context.get("windowsOptions") or {}).get("hostProcess"):
            yield f"{name} is a process of the host"


@restricted
def host_namespaces(pod: Pod) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(field):
            yield f"{field} is on"


@restricted
def privileged_containers(pod: Pod) -> Iterator[str]:
    for name, context in contexts(pod):
        if context.get("privileged"):
            yield f"{name} is privileged"


@restricted
def capabilities(pod: Pod) -> Iterator[str]:
    for container in pod.containers():
        wanted = context_of(container).get("capabilities") or {}
        if "ALL" not in (wanted.get("drop") or []):
            yield f"{container['name']} keeps capabilities; drop ALL"
        if extra := set(wanted.get("add") or []) - {"NET_BIND_SERVICE"}:
            yield f"{container['name']} adds {sorted(extra)}"


@restricted
def volume_types(pod: Pod) -> Iterator[str]:
    for volume in pod.volumes():
        if kinds := set(volume) - {"name"} - VOLUME_TYPES:
            yield f"volume {volume['name']} is a {kinds.pop()}"


@restricted
def host_ports(pod: Pod) -> Iterator[str]:
    for container in pod.containers():
        for port in container.get("ports") or []:
            if port.get("hostPort"):
                yield f"{container['name']} has host port {port['hostPort']}"


@restricted
def hosts_of_probes_and_hooks(pod: Pod) -> Iterator[str]:
    for container in pod.containers():
        handlers = {
            name: container.get(name) or {}
            for name in ("livenessProbe", "readinessProbe", "startupProbe")
        } | (container.get("lifecycle") or {})
        for name, handler in handlers.items():
            for action in ("httpGet", "tcpSocket"):
                if ((handler or {}).get(action) or {}).get("host"):
                    yield f"{name} of {container['name']} names a host"


@restricted
def apparmor(pod: Pod) -> Iterator[str]:
    for name, context in contexts(pod):
        if (context.get("appArmorProfile") or {}).get("type") == "Unconfined":
            yield f"{name} is unconfined"
    for key, value in (pod.metadata.get("annotations") or {}).items():
        if key.startswith("container.apparmor.security") and value == "unconfined":
            yield f"annotation {key} is unconfined"


@restricted
def selinux(pod: Pod) -> Iterator[str]:
    for name, context in contexts(pod):
        options = context.get("seLinuxOptions") or {}
        if options.get("type") not in SELINUX_TYPES or options.get("user") or options.get("role"):
            yield f"{name} sets {options}"


@restricted
def proc_mount(pod: Pod) -> Iterator[str]:
    for name, context in contexts(pod):
        if context.get("procMount") not in (None, "Default"):
            yield f"{name} sets procMount"


@restricted
def sysctls(pod: Pod) -> Iterator[str]:
    for entry in context_of(pod.spec).get("sysctls") or []:
        if entry["name"] not in SYSCTLS:
            yield f"sysctl {entry['name']}"


@restricted
def privilege_escalation(pod: Pod) -> Iterator[str]:
    for container in pod.containers():
        if context_of(container).get("allowPrivilegeEscalation") is not False:
            yield f"{container['name']} may gain privileges"


@restricted
def running_as_non_root(pod: Pod) -> Iterator[str]:
    for name, value in effective(pod, "runAsNonRoot"):
        if value is not True:
            yield f"{name} may run as root"
    for name, context in contexts(pod):
        if context.get("runAsNonRoot") is False:
            yield f"{name} says that it may run as root"


@restricted
def non_root_user(pod: Pod) -> Iterator[str]:
    for name, context in contexts(pod):
        if context.get("runAsUser") == 0:
            yield f"{name} is user 0"


@restricted
def seccomp(pod: Pod) -> Iterator[str]:
    for name, profile in effective(pod, "seccompProfile"):
        if (profile or {}).get("type") not in SECCOMP_PROFILES:
            yield f"{name} has no seccomp profile"
    for name, context in contexts(pod):
        profile = context.get("seccompProfile")
        if profile is not None and profile.get("type") not in SECCOMP_PROFILES:
            yield f"{name} has seccomp profile {profile.get('type')}"
