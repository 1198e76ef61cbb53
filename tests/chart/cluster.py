"""As much of a Kubernetes API server as helm asks for when it looks an object up."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.chart.objects import Object

__all__ = ["Cluster", "cluster"]

#: Kinds that the chart makes, by group and version: helm asks for all of them before it looks.
KINDS = {
    "v1": ("Secret", "Service", "ServiceAccount", "ConfigMap", "Pod"),
    "apps/v1": ("Deployment", "StatefulSet"),
    "batch/v1": ("Job",),
    "policy/v1": ("PodDisruptionBudget",),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "autoscaling/v2": ("HorizontalPodAutoscaler",),
}


class Cluster(ThreadingHTTPServer):
    """Knows the Secrets and the numbers of workers that it was given, and nothing else."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.secrets: dict[str, dict[str, str]] = {}
        self.replicas: dict[str, int] = {}

    def keep(self, secret: Object) -> None:
        """What an installation would have made of a rendered Secret."""
        self.secrets[secret["metadata"]["name"]] = dict(secret["stringData"])

    def answer(self, path: str) -> dict[str, Any] | None:
        if path == "/version":
            return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            groups = [_group(version) for version in KINDS if "/" in version]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if version in KINDS:
            return _resources(version)
        parent, _, name = path.rpartition("/")
        if parent.endswith("/deployments") and name in self.replicas:
            return _deployment(name, self.replicas[name])
        if parent.endswith("/secrets") and name in self.secrets:
            return _secret(name, self.secrets[name])
        return None


class _Handler(BaseHTTPRequestHandler):
    server: Cluster

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        answer = self.server.answer(self.path.partition("?")[0])
        missing = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(missing if answer is None else answer).encode()
        self.send_response(404 if answer is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _group(version: str) -> dict[str, Any]:
    found = {"groupVersion": version, "version": version.partition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [found], "preferredVersion": found}


def _resources(version: str) -> dict[str, Any]:
    resources = [
        {
            "name": f"{kind.lower()}{'ies' if kind.endswith('y') else 's'}",
            "singularName": kind.lower(),
            "namespaced": True,
            "kind": kind,
            "verbs": ["get", "list"],
        }
        for kind in KINDS[version]
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


def _secret(name: str, values: dict[str, str]) -> dict[str, Any]:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


def _deployment(name: str, replicas: int) -> dict[str, Any]:
    known = {"metadata": {"name": name}, "spec": {"replicas": replicas}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", **known}


@contextmanager
def cluster(directory: Path) -> Iterator[tuple[Cluster, Path]]:
    """A cluster, and the file by which helm finds it."""
    with Cluster() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {}}],
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": f"http://127.0.0.1:{server.server_port}"},
                }
            ],
        }
        path = directory / "kubeconfig"
        path.write_text(json.dumps(config))
        try:
            yield server, path
        finally:
            server.shutdown()
