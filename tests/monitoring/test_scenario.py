"""Minutes of trouble on the local stack, under a real Prometheus: what fires, and what is seen.

Run by ``make test-monitoring``; it also draws the dashboards into ``docs/images``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest

from coldfusion_queue.metrics.catalogue import CATALOGUE
from tests.monitoring.checking import answers, choices, complaints
from tests.monitoring.drawing.frames import Asked
from tests.monitoring.drawing.page import draw, variables
from tests.monitoring.expressions import RULES, alerts, read_dashboards
from tests.monitoring.prometheus import Series, running_prometheus
from tests.monitoring.quickening import quickened
from tests.monitoring.stage import open_stage
from tests.monitoring.story import (
    ENVIRONMENT,
    FACTOR,
    REPOSITORY,
    REWRITTEN,
    SITE,
    Story,
    finetuners,
)

IMAGES = Path(__file__).parents[2] / "docs" / "images"

#: Scraped each second, a range of so many seconds has samples enough for a rate.
LEAST_SECONDS = 5

#: What each part of the story makes fire. What has once been caused may fire from then on.
CAUSED: Mapping[str, Set[str]] = {
    "quiet": set(),
    "nonsense": {"RefusalsRising", "QualityDrop"},
    "deaths": {
        *("FinetunesFailing", "TasksRequeued", "WorkerLost", "QueueGrowing", "DeviceIdle"),
        *("NoFusion", "PendingTooOld", "BeatSilent"),
    },
    "gate": {"CandidateStuck", "BucketGrowth"},
    "outages": {"Unreachable", "StoreErrors", "BrokerErrors"},
    "peace": set(),
}

#: Queries that find nothing at the end of the story, and why that is right.
EMPTY: Mapping[str, str] = {}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    directory = tmp_path_factory.mktemp("monitoring")
    rules = quickened(RULES.read_text(encoding="utf-8"), FACTOR, LEAST_SECONDS, REWRITTEN)
    workers = finetuners(directory / "private")
    with (
        running_prometheus(directory / "prometheus", rules) as prometheus,
        open_stage(directory / "stage", prometheus, ENVIRONMENT, workers) as stage,
    ):
        story = Story(stage)
        story.tell()
        yield story


@pytest.fixture(scope="module")
def asked(story: Story) -> Asked:
    """As somebody looks at a dashboard when the story is over."""
    start, end = story.parts["quiet"][0], story.parts["peace"][1]
    seconds = end - start
    chosen = variables(REPOSITORY, seconds)
    return Asked(story.stage.prometheus, start, end, max(1, seconds / 400), chosen, factor=FACTOR)


@pytest.fixture(scope="module")
def found(asked: Asked) -> dict[str, list[Series]]:
    """What every query of every panel gives."""
    return answers(read_dashboards(), asked)


@pytest.mark.parametrize("part", CAUSED)
def test_alerts_fire_when_there_is_a_cause_and_not_before(story: Story, part: str) -> None:
    parts = list(CAUSED)
    before = set().union(*(CAUSED[name] for name in parts[: parts.index(part) + 1]))

    fired = {name.removeprefix("ColdFusion") for name in story.stage.fired(*story.parts[part])}

    assert CAUSED[part] <= fired <= before


def test_every_alert_has_a_cause_in_the_story() -> None:
    named = {name.removeprefix("ColdFusion") for name in alerts(RULES.read_text(encoding="utf-8"))}

    assert named == set().union(*CAUSED.values())


def test_rules_are_evaluated_without_errors(story: Story) -> None:
    assert story.stage.prometheus.rule_errors() == {}
    for expr in alerts(RULES.read_text(encoding="utf-8")).values():  # as they are in production
        story.stage.prometheus.query(expr)


def test_every_query_of_every_panel_has_data(found: dict[str, list[Series]]) -> None:
    assert {name for name, series in found.items() if not series} == EMPTY.keys()


def test_variables_have_what_can_be_chosen(asked: Asked) -> None:
    for dashboard in read_dashboards().values():
        found = choices(dashboard, asked)
        assert found["repository"] == {REPOSITORY}
        assert found["namespace"] == set()  # there is none outside of a cluster
        assert found.get("site", {SITE, "lab"}) == {SITE, "lab"}


def test_every_metric_of_the_catalogue_has_a_series(story: Story, asked: Asked) -> None:
    names = {
        series.labels["__name__"]
        for series in story.stage.prometheus.query_range(
            '{__name__=~"coldfusion_.*"}', asked.start, asked.end, 10
        )
    }

    known = {item.exposed + ("_bucket" if item.kind == "histogram" else "") for item in CATALOGUE}
    assert known - names == set()


def test_promtool_has_nothing_against_the_metrics_of_any_process(story: Story) -> None:
    ports = story.stage.ports()

    assert {name: complaints(port) for name, port in ports.items()} == dict.fromkeys(ports, "")


def test_the_dashboards_can_be_drawn(asked: Asked) -> None:
    for name, dashboard in read_dashboards().items():
        draw(dashboard, asked, IMAGES / f"dashboard-{name}.png")
