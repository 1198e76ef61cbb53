"""A real Prometheus for the time of a test: what it scrapes, its rules, and what it answers."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest
import urllib3

from coldfusion_queue.local.launch import launch
from coldfusion_queue.local.ports import HOST, free_port
from coldfusion_queue.local.processes import stop
from coldfusion_queue.local.servers import Server

__all__ = ["SCRAPE_SECONDS", "Prometheus", "Series", "program", "running_prometheus"]

#: Everything is a second, so that a scenario of minutes has as many samples as hours have.
SCRAPE_SECONDS = 1


def program(name: str) -> str:
    """Path of ``prometheus`` or ``promtool``; without it tests are skipped, but not in CI."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed; it is in Debian's package prometheus"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return str(path)


@dataclass(frozen=True)
class Series:
    """One series of an answer."""

    labels: Mapping[str, str]
    times: tuple[float, ...]
    """Seconds since the epoch."""
    values: tuple[float, ...]

    @property
    def is_finite(self) -> bool:
        """Whether any of it could be drawn."""
        return any(map(math.isfinite, self.values))


@dataclass(frozen=True)
class Prometheus(Server):
    """A server that does not run yet, or runs: ``running_prometheus`` starts one.

    Args:
        directory: of its data and its configuration.
        port: of its HTTP API.
        rules: content of its file of rules.
        name: which no other server of the machine has, so that it is known by it.
    """

    directory: Path
    port: int
    rules: str = "groups: []\n"
    name: str = "prometheus"

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.port,)

    @property
    def command(self) -> tuple[str, ...]:
        return (
            program("prometheus"),
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={HOST}:{self.port}",
            "--log.level=warn",
        )

    @property
    def environment(self) -> Mapping[str, str]:
        return {}

    def on_free_ports(self) -> Self:
        return replace(self, port=free_port())

    def prepare(self) -> None:
        """Write what it reads; JSON is YAML too."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "rules.yaml").write_text(self.rules, encoding="utf-8")
        scrape = {
            "job_name": "coldfusion",
            "file_sd_configs": [{"files": [str(self._targets)]}],
        }
        every = f"{SCRAPE_SECONDS}s"
        timing = {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
        config = {
            "global": {**timing, "external_labels": {"run": self.name}},
            "rule_files": [str(self.directory / "rules.yaml")],
            "scrape_configs": [scrape],
        }
        self._config.write_text(json.dumps(config), encoding="utf-8")

    def answers(self) -> bool:
        """Whether it is this one and has read its configuration."""
        # While it starts it says so, in plain text.
        with contextlib.suppress(urllib3.exceptions.HTTPError, json.JSONDecodeError):
            status = self._get("status/config")
            return self.name in status.get("yaml", "")
        return False

    def watch(self, targets: Mapping[str, int]) -> None:
        """Scrape these processes from now on, by the port of each on this machine.

        Args:
            targets: ports by the name of the process, which is the label ``instance``.
        """
        found = [
            {"targets": [f"{HOST}:{port}"], "labels": {"instance": name}}
            for name, port in targets.items()
        ]
        part = self._targets.with_suffix(".part")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(self._targets)

    # --- what it answers ----------------------------------------------------------------------

    def query(self, expr: str, time: float | None = None) -> list[Series]:
        """Series of an expression now, or at a time.

        Raises:
            AssertionError: it does not take the expression; has its reason.
        """
        at = {} if time is None else {"time": f"{time:.3f}"}
        return _series(self._get("query", query=expr, **at))

    def query_range(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        """Series of an expression over a time, all in seconds.

        Raises:
            AssertionError: it does not take the expression; has its reason.
        """
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        return _series(self._get("query_range", query=expr, **times))

    def value(self, expr: str) -> float | None:
        """The sum of an expression's series now; None if there is none."""
        found = self.query(f"sum({expr})")
        return found[0].values[-1] if found else None

    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        found = self._get("alerts")["alerts"]
        return {item["labels"]["alertname"] for item in found if item["state"] == "firing"}

    def targets(self) -> dict[str, str]:
        """What it found of each process at its last scrape: ``up``, ``down`` or ``unknown``."""
        found = self._get("targets", state="active")["activeTargets"]
        return {item["labels"]["instance"]: item["health"] for item in found}

    def scrape_errors(self) -> dict[str, str]:
        """Why processes could not be scraped the last time."""
        found = self._get("targets", state="active")["activeTargets"]
        return {
            item["labels"]["instance"]: item["lastError"] for item in found if item["lastError"]
        }

    def rule_errors(self) -> dict[str, str]:
        """Why rules could not be evaluated the last time."""
        groups = self._get("rules")["groups"]
        return {
            rule["name"]: rule["lastError"]
            for group in groups
            for rule in group["rules"]
            if rule.get("lastError")
        }

    def _get(self, path: str, **fields: str) -> Any:
        url = f"http://{HOST}:{self.port}/api/v1/{path}"
        # By POST an expression may be longer than a URL.
        method = "POST" if "query" in fields else "GET"
        answer = urllib3.request(method, url, fields=fields, timeout=30, retries=False).json()
        assert answer["status"] == "success", f"{answer.get('error')}: {fields}"
        return answer["data"]

    @property
    def _config(self) -> Path:
        return self.directory / "prometheus.yaml"

    @property
    def _targets(self) -> Path:
        return self.directory / "targets.json"


def _series(data: Mapping[str, Any]) -> list[Series]:
    kind, result = data["resultType"], data["result"]
    if kind == "scalar":
        return [_one({}, [result])]
    if kind == "vector":
        return [_one(item["metric"], [item["value"]]) for item in result]
    return [_one(item["metric"], item["values"]) for item in result]


def _one(labels: Mapping[str, str], points: Iterable[tuple[float, str]]) -> Series:
    times, values = zip(*((time, float(value)) for time, value in points), strict=True)
    return Series(labels, times, values)


@contextlib.contextmanager
def running_prometheus(directory: Path, rules: str | None = None) -> Iterator[Prometheus]:
    """A Prometheus for the time of the context; it is killed with the thread that entered it.

    Args:
        directory: a fresh one.
        rules: content of its file of rules.
    """
    name = f"prometheus-{secrets.token_hex(4)}"
    server = Prometheus(directory, free_port(), rules or "groups: []\n", name)
    server, process = launch(server, directory.with_suffix(".log"), die_with_parent=True)
    try:
        yield server
    finally:
        stop([process], 5)
