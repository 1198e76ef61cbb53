"""What helm makes of the chart, laid out on this host so that its commands run as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coldfusion_queue.local.ports import GRPC_OFFSET, HOST, free_port
from tests.acceptance.rendered_container import STORE_PARTS, Container
from tests.chart.objects import Pod, named, of_kind, pods, selects
from tests.chart.rendering import RELEASE, Object, render_values

__all__ = ["Cluster"]

NAMESPACE = "coldfusion"
FULLNAME = f"{RELEASE}-coldfusion"


class Cluster:
    """Every object of one rendering.

    Args:
        values: of the chart.
        directory: where all containers have theirs.
        claims: directories that are persistent volumes.
        secrets: those that the operator makes.
        addresses: ``host:port`` here of what lies outside the cluster, by ``host.svc:port``.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        directory: Path,
        claims: Mapping[str, Path],
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        addresses: Mapping[str, str] | None = None,
    ) -> None:
        self.objects: Sequence[Object] = render_values(values, "--namespace", NAMESPACE)
        self._directory = directory
        self._claims = claims
        self._secrets = secrets or {}
        self._taken: list[int] = []
        self._pods = {pod.owner["metadata"]["name"]: pod for pod in pods(self.objects)}
        # Of the one pod that a Service leads to; a second one is reached by its probes alone.
        self._ports = {name: self._free_ports(pod) for name, pod in self._pods.items()}
        self.addresses = {**(addresses or {}), **dict(self._services())}

    def secret(self, name: str) -> Mapping[str, str]:
        """A Secret's values."""
        found = named(self.objects, "Secret", name)
        return self._secrets[name] if found is None else found["stringData"]

    def parts(self, *kinds: str) -> list[str]:
        """The components that are objects of these kinds."""
        names = [found["metadata"]["name"] for found in of_kind(self.objects, *kinds)]
        return sorted(name.removeprefix(f"{FULLNAME}-") for name in names)

    def container(self, part: str, replica: int = 0) -> Container:
        """The container of a component, its volumes filled.

        Args:
            part: name of its owner without the release's, and without a job's digest.
            replica: number of the pod; each has volumes and ports of its own.
        """
        wanted = re.compile(rf"{FULLNAME}-{part}(-[0-9a-f]{{8}})?")
        (owner,) = filter(wanted.fullmatch, self._pods)
        pod = self._pods[owner]
        (spec,) = pod.containers()
        directory = self._directory / f"{part}-{replica}"
        volumes = {volume["name"]: volume for volume in pod.volumes()}
        mounts = {}
        for mount in spec["volumeMounts"]:
            place = self._fill(volumes.pop(mount["name"]), directory)
            mounts[mount["mountPath"]] = place / mount.get("subPath", "")
        assert not volumes, f"{part} mounts none of {list(volumes)}"
        ports = self._free_ports(pod) if replica else self._ports[owner]
        container = Container(part, replica, pod, spec, directory, mounts, ports, self.addresses)
        for volume in filter(lambda volume: "configMap" in volume, pod.volumes()):
            for path in (directory / "files" / volume["name"]).iterdir():
                text = container.mapped(path.read_text("utf-8"), is_strict=False)
                path.write_text(text, encoding="utf-8")
        return container

    def _services(self) -> Iterator[tuple[str, str]]:
        for service in of_kind(self.objects, "Service"):
            selector = {"matchLabels": service["spec"]["selector"]}
            (owner,) = (name for name, pod in self._pods.items() if selects(selector, pod.labels))
            (container,) = self._pods[owner].containers()
            numbers = {port["name"]: port["containerPort"] for port in container["ports"]}
            for port in service["spec"]["ports"]:
                here = self._ports[owner][numbers[port["targetPort"]]]
                name = f"{service['metadata']['name']}.{NAMESPACE}.svc:{port['port']}"
                yield name, f"{HOST}:{here}"

    def _free_ports(self, pod: Pod) -> dict[int | str, int]:
        (container,) = pod.containers()
        wanted: list[int | str] = [port["containerPort"] for port in container.get("ports", [])]
        if container["command"][0] == "weed":
            wanted += STORE_PARTS
        chosen = {}
        for name in wanted:
            beside = [port + GRPC_OFFSET for port in self._taken]
            chosen[name] = free_port([*self._taken, *beside], with_grpc=True)
            self._taken.append(chosen[name])
        return chosen

    def _fill(self, volume: Mapping[str, Any], directory: Path) -> Path:
        """The directory of a volume, with the files that are rendered into it."""
        if "persistentVolumeClaim" in volume:
            return self._claims[volume["persistentVolumeClaim"]["claimName"]]
        if volume.keys() & {"emptyDir", "ephemeral", "volumeClaimTemplate"}:
            place = directory / "volumes" / volume["name"]
            place.mkdir(parents=True, exist_ok=True)
            return place
        place = directory / "files" / volume["name"]
        place.mkdir(parents=True, exist_ok=True)
        projected = volume.get("projected", {})
        mode = projected.get("defaultMode", 0o644)
        for source in projected.get("sources", [volume]):
            mode = source.get("secret", {}).get("defaultMode", mode)
            for name, text in self._texts(source).items():
                path = place / name
                assert not path.exists(), f"{path} is there twice"
                path.write_text(text, encoding="utf-8")
                path.chmod(mode)
        return place

    def _texts(self, source: Mapping[str, Any]) -> dict[str, str]:
        if "secret" in source:
            found = source["secret"]
            texts = self.secret(found.get("secretName") or found["name"])
        else:
            found = source["configMap"]
            target = named(self.objects, "ConfigMap", found["name"])
            assert target is not None, found
            texts = target["data"]
        items = found.get("items") or [{"key": name, "path": name} for name in texts]
        return {item["path"]: texts[item["key"]] for item in items}
