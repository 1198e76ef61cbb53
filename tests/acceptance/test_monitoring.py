"""A real Prometheus over one iteration of real processes: dashboards and rules find their data.

The longer scenario, with troubles and alerts that fire, is ``make test-monitoring``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from coldfusion_queue.local.ports import free_port
from coldfusion_queue.records import Policy
from tests.acceptance.conftest import MakeWorld
from tests.acceptance.world import World, eventually, slow_training
from tests.injector import Injector
from tests.monitoring.checking import answers, complaints
from tests.monitoring.drawing.frames import Asked
from tests.monitoring.drawing.page import variables
from tests.monitoring.expressions import RULES, read_dashboards
from tests.monitoring.prometheus import Prometheus, Series, running_prometheus
from tests.rows import rows, write_rows

pytestmark = pytest.mark.slow

KINDS = ("finetune_worker", "evaluation_worker", "fusion_worker", "beat", "exporter")

QUICK = {
    "COLDFUSION_FUSION_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_GC_INTERVAL_SECONDS": "1",
    "COLDFUSION_PROGRESS_INTERVAL_SECONDS": "0.1",
}
#: 40 steps, which are slowed down: Prometheus is to see that somebody trains.
HOW = ("--set", "epochs=4", "--set", "batch_size=4", "--set", "max_length=16")


#: Beginnings of the names of queries that may find nothing, and why.
EMPTY = {
    "workers: Turns that train now": "nobody trains when it is over",
    "workers: Longest silence of a turn": "nobody trains when it is over",
    "workers: Workers that are there, and lost B": "nobody is lost",
    "repository: Alerts that fire": "none fires",
    "repository: Refused in this range, by rule": "nothing is refused",
    "repository: Gate: scores of the published version": "there is no gate",
    "repository: Rollbacks": "there is none",
    "workers: Rollbacks": "there is none",
    "queue-and-store: Rollbacks": "there is none",
}


@dataclass(frozen=True)
class Scene:
    """Processes that are scraped, and from when to when they did something."""

    world: World
    prometheus: Prometheus
    ports: Mapping[str, int]
    asked: Asked


@pytest.fixture(scope="module")
def scene(
    make_world: MakeWorld, injector: Injector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """One turn of a submission, its fusion, and an evaluation of what came out."""
    directory = tmp_path_factory.mktemp("prometheus")
    rules = RULES.read_text(encoding="utf-8")
    with (
        make_world(
            Policy(min_contributions=1), INJECTOR_DIRECTORY=str(injector.directory), **QUICK
        ) as world,
        slow_training(injector),
        running_prometheus(directory / "server", rules) as prometheus,
    ):
        ports = {kind: free_port() for kind in KINDS}
        for kind, port in ports.items():
            world.start_warm(kind, COLDFUSION_METRICS_PORT=str(port))
        prometheus.watch(ports)
        began = time.time()
        eventually(lambda: list(prometheus.targets().values()) == ["up"] * len(KINDS), 60)
        run_one_iteration(world, directory)
        scraped = time.time()
        exported = 'coldfusion_quality_base_version{instance="exporter"} == 1'
        eventually(lambda: prometheus.query(exported), 30)
        time.sleep(max(0, scraped + 5 - time.time()))  # so that rates have two samples
        end = time.time()
        chosen = variables(world.repository.name, end - began)
        yield Scene(world, prometheus, ports, Asked(prometheus, began, end, 1, chosen, factor=300))


def run_one_iteration(world: World, directory: Path) -> None:
    data = write_rows(directory / "notes.jsonl", rows("single", 40))
    world.wait_complete(world.submit(data, "--name", "notes", *HOW))
    eventually(lambda: world.repository.ledger.base_version().version == 1)
    done = world.run_warm("evaluate", "--dataset", "notes", "--set", "max_length=16", "--wait")
    assert done.code == 0, done.err


@pytest.fixture(scope="module")
def found(scene: Scene) -> dict[str, list[Series]]:
    """What every query of every panel gives."""
    return answers(read_dashboards(), scene.asked)


def test_every_process_is_scraped_and_promtool_has_nothing_against_its_metrics(
    scene: Scene,
) -> None:
    assert scene.prometheus.scrape_errors() == {}
    assert {name: complaints(port) for name, port in scene.ports.items()} == dict.fromkeys(
        KINDS, ""
    )


def test_panels_have_data_after_one_iteration(found: dict[str, list[Series]]) -> None:
    empty = {name for name, series in found.items() if not series}

    assert {name for name in empty if not name.startswith(tuple(EMPTY))} == set()
    assert len(empty) < len(found) / 5


def test_rules_are_evaluated_and_no_alert_fires(scene: Scene) -> None:
    assert scene.prometheus.rule_errors() == {}
    assert scene.prometheus.firing() == set()
