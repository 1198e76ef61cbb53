"""The image, built once, and a repository whose fusion worker, beat and exporter run from it.

These tests are run by ``make test-images``: they install Debian, build an image and run containers,
which takes minutes, root, and programs that ``make test`` can do without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from coldfusion_queue.local.ports import free_port
from tests.acceptance.world import World, open_world
from tests.images.containers import SECRETS_DIR, Container, Containers
from tests.images.image import Image, built_image, figures
from tests.images.machine import missing_packages


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    for line in figures:
        terminalreporter.write_line(line)


PROCESSES = ("fusion_worker", "beat", "exporter")


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The CPU image."""
    if problem := missing_packages():
        pytest.exit(problem, returncode=3)
    with built_image(tmp_path_factory.mktemp("image")) as built:
        yield built


@dataclass(frozen=True)
class Deployment:
    """A repository that was made from outside, and the containers that serve it."""

    world: World
    containers: Containers
    running: Mapping[str, Container]
    """By process: fusion_worker, beat, exporter."""
    ports: Mapping[str, int]
    """Port of each process's ``/metrics``."""


@pytest.fixture(scope="session")
def world(
    servers: Mapping[str, str], tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A repository of the tiny model; nothing serves it yet."""
    directory = tmp_path_factory.mktemp("outside")
    with open_world(servers, directory, tiny_model_dir) as opened:
        yield opened


@pytest.fixture(scope="session")
def deployment(
    image: Image, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Fusion worker, beat and exporter in containers, credentials in files."""
    variables = {
        name: value
        for name, value in world.environment().items()
        if name.startswith("COLDFUSION_") and name != "COLDFUSION_HOME"
    }
    secrets = {
        name: variables.pop(name) for name in list(variables) if name.endswith(("_KEY", "_URL"))
    }
    quick = {
        "COLDFUSION_SECRETS_DIR": SECRETS_DIR,
        "COLDFUSION_FUSION_INTERVAL_SECONDS": "1",
        "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "2",
    }
    containers = Containers(
        image, tmp_path_factory.mktemp("containers"), {**variables, **quick}, secrets
    )
    ports: dict[str, int] = {}
    for process in PROCESSES:
        ports[process] = free_port(ports.values())
    try:
        running = {
            process: containers.start(
                *("python", "-m", f"workers.{process}"),
                COLDFUSION_METRICS_PORT=str(ports[process]),
            )
            for process in PROCESSES
        }
        yield Deployment(world, containers, running, ports)
    finally:
        containers.stop_all()
