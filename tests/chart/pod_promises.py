"""What this chart promises of its pods beyond the standard `restricted`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chart.objects import Pod
from tests.chart.pod_security import Rule, context_of, effective

PROMISES: list[Rule] = []


def promise(rule: Rule) -> Rule:
    """Marks a rule of ours."""
    PROMISES.append(rule)
    return rule


@promise
def read_only_root(pod: Pod) -> Iterator[str]:
    for container in pod.containers():
        if context_of(container).get("readOnlyRootFilesystem") is not True:
            yield f"{container['name']} can write to its image"


@promise
def user_is_a_number(pod: Pod) -> Iterator[str]:
    """The kubelet refuses `runAsNonRoot` of an image whose user is a name."""
    for field in ("runAsUser", "runAsGroup"):
        for name, value in effective(pod, field):
            if not isinstance(value, int) or value < 1000:
                yield f"{field} of {name} is {value}"


@promise
def no_api_token(pod: Pod) -> Iterator[str]:
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "the token of the service account is mounted"


@promise
def no_service_links(pod: Pod) -> Iterator[str]:
    """A service named `coldfusion` would set `COLDFUSION_PORT`, which is no setting."""
    if pod.spec.get("enableServiceLinks") is not False:
        yield "services of the namespace are in the environment"


@promise
def own_service_account(pod: Pod) -> Iterator[str]:
    if pod.spec.get("serviceAccountName") in (None, "", "default"):
        yield "it runs as the namespace's default service account"


@promise
def resources(pod: Pod) -> Iterator[str]:
    for container in pod.containers():
        found = container.get("resources") or {}
        requests, limits = found.get("requests") or {}, found.get("limits") or {}
        for name in ("cpu", "memory", "ephemeral-storage"):
            if name not in requests:
                yield f"{container['name']} requests no {name}"
        if "memory" not in limits:
            yield f"{container['name']} has no limit of memory"


@promise
def pinned_images(pod: Pod) -> Iterator[str]:
    for container in pod.containers():
        reference, _, digest = container["image"].partition("@")
        tag = reference.rpartition("/")[2].partition(":")[2]
        if tag == "latest" or not (tag or digest):
            yield f"{container['name']} runs {container['image']}, which is another thing each day"


@promise
def no_shell_first(pod: Pod) -> Iterator[str]:
    """A shell as the first process keeps SIGTERM to itself."""
    for container in pod.spec.get("containers") or []:
        first = (container.get("command") or [""])[0].rpartition("/")[2]
        if first in {"sh", "bash", "dash", "ash"} and pod.owner["kind"] not in ("Pod", "Job"):
            yield f"{container['name']} starts with {first}"
