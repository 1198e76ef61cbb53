"""What the exporter makes of an overview: the names and labels of the catalogue, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from coldfusion_queue import __version__
from coldfusion_queue.errors import StoreUnavailableError
from coldfusion_queue.metrics.catalogue import CATALOGUE
from coldfusion_queue.metrics.repository import BOUNDS, overview_metrics
from coldfusion_queue.overview import (
    BrokerOverview,
    History,
    Lease,
    LostWorker,
    Overview,
    PoolOverview,
    Quality,
    QueueOverview,
    StoredRoom,
    StoreOverview,
)
from coldfusion_queue.overview.tally import LedgerCount
from coldfusion_queue.records import Policy, Rule
from tests.unit.report.history import History as Ledger
from tests.unit.report.history import gate_report

SPECS = {spec.name: spec for spec in CATALOGUE if spec.source == "exporter"}
DOWN = StoreUnavailableError("http://store", "read", "key", "gone")


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger(policy=Policy(min_contributions=3, max_wait_seconds=70))
    ledger.fuse([ledger.contribution("anna")])
    ledger.fuse(
        [ledger.contribution("ben", staleness=1)],
        {"x.t00001": (Rule.COSINE, "away")},
        gate=gate_report(0.6, 0.5, "d1"),
    )
    return ledger


@pytest.fixture
def overview(ledger: Ledger) -> Overview:
    count = LedgerCount(BOUNDS)
    for entry in ledger.entries:
        count.add(entry)
    store = StoreOverview(
        newest=ledger.entries[-1],
        base_version_age_seconds=12.0,
        num_pending=4,
        oldest_pending_age_seconds=8.0,
        num_open_submissions=5,
        num_wanted_evaluations=6,
        is_candidate_waiting=True,
    )
    broker = BrokerOverview(
        queues=(QueueOverview("finetune.a", "a", 7, 9.0), QueueOverview("fusion", "", 0, 0.0)),
        pools=(
            PoolOverview("finetune.a", "a", "", 2, 9, ("one", "two"), (LostWorker("three", 99.0),)),
            PoolOverview("fusion", "", "", 1, None, (), ()),
        ),
        leases=(Lease("finetune", "s1.t00001", "one"), Lease("finetune", "s2.t00001", "two")),
        stored=(StoredRoom("base", 1000, 3), StoredRoom("contributions", 50, 4)),
    )
    quality = (Quality("d1", "few_shot", 0.25, 1),)
    return Overview("repo", store, History(count.tally(), quality, ()), broker)


def families(overview: Overview) -> dict[str, Metric]:
    return {family.name: family for family in overview_metrics(overview)}


def values(overview: Overview, name: str) -> Mapping[tuple[str, ...], float]:
    """Of one metric, by its labels in the catalogue's order but for the repository."""
    spec = SPECS[name]
    samples = families(overview)[name].samples
    assert all(item.labels["repository"] == "repo" for item in samples)
    return {tuple(item.labels[label] for label in spec.labels[1:]): item.value for item in samples}


def test_all_that_the_catalogue_promises_of_the_exporter_is_made_and_nothing_else(
    overview: Overview,
) -> None:
    found = families(overview)

    assert set(found) == set(SPECS)
    for name, family in found.items():
        spec = SPECS[name]
        assert (family.type, family.documentation) == (spec.kind, spec.help)
        assert family.samples, name
        labels = {frozenset(item.labels) - {"le"} for item in family.samples}
        assert labels == {frozenset(spec.labels)}, name


def test_the_numbers_are_those_of_the_overview(overview: Overview) -> None:
    one = {
        "coldfusion_up": 1,
        "coldfusion_base_version": 2,
        "coldfusion_base_version_age_seconds": 12,
        "coldfusion_ledger_sequence": 2,
        "coldfusion_pending_contributions": 4,
        "coldfusion_oldest_pending_age_seconds": 8,
        "coldfusion_policy_min_contributions": 3,
        "coldfusion_policy_max_wait_seconds": 70,
        "coldfusion_open_submissions": 5,
        "coldfusion_wanted_evaluations": 6,
        "coldfusion_candidate_waiting": 1,
        "coldfusion_rollbacks": 0,
        "coldfusion_overrides": 0,
    }
    assert {name: values(overview, name) for name in one} == {
        name: {(): value} for name, value in one.items()
    }
    assert values(overview, "coldfusion_build_info") == {(__version__,): 1}
    assert values(overview, "coldfusion_gate_score") == {("d1", "d1"): 0.6}
    assert values(overview, "coldfusion_quality_score") == {("d1", "d1", "few_shot"): 0.25}
    assert values(overview, "coldfusion_quality_base_version") == {("d1", "d1", "few_shot"): 1}
    assert values(overview, "coldfusion_gate_verdicts") == {("published",): 1, ("withheld",): 0}
    assert values(overview, "coldfusion_contributor_share") == {("anna",): 0.5, ("ben",): 0.5}
    contributions = values(overview, "coldfusion_contributions")
    assert {key: value for key, value in contributions.items() if value} == {
        ("fused", ""): 2,
        ("refused", "cosine"): 1,
    }


def test_queues_and_workers_are_told_apart_by_site_and_pool(overview: Overview) -> None:
    site, fusion = ("finetune.a", "a"), ("fusion", "")
    assert values(overview, "coldfusion_queue_length") == {site: 7, fusion: 0}
    assert values(overview, "coldfusion_queue_oldest_age_seconds") == {site: 9, fusion: 0}
    assert values(overview, "coldfusion_taken_tasks") == {(*site, ""): 2, (*fusion, ""): 1}
    assert values(overview, "coldfusion_pool_work") == {(*site, ""): 9}
    assert values(overview, "coldfusion_workers") == {(*site, ""): 2, (*fusion, ""): 0}
    assert values(overview, "coldfusion_lost_workers") == {(*site, ""): 1, (*fusion, ""): 0}
    assert values(overview, "coldfusion_leases") == {("finetune",): 2, ("evaluate",): 0}
    assert values(overview, "coldfusion_stored_bytes") == {("base",): 1000, ("contributions",): 50}
    assert values(overview, "coldfusion_stored_objects") == {("base",): 3, ("contributions",): 4}


def test_histograms_read_as_those_that_the_library_counts_itself(overview: Overview) -> None:
    class Served(Collector):
        def collect(self) -> list[Metric]:
            return list(overview_metrics(overview))

    registry = CollectorRegistry()
    registry.register(Served())
    lines = generate_latest(registry).decode().splitlines()

    name, repository = "coldfusion_fused_staleness_versions", 'repository="repo"'
    assert f'{name}_bucket{{le="0.0",{repository}}} 1.0' in lines
    assert f'{name}_bucket{{le="1.0",{repository}}} 2.0' in lines
    assert f'{name}_bucket{{le="+Inf",{repository}}} 2.0' in lines
    assert f"{name}_count{{{repository}}} 2.0" in lines
    assert f"{name}_sum{{{repository}}} 1.0" in lines
    refused = f'outcome="refused",{repository}'
    assert f'coldfusion_update_cosine_bucket{{le="-0.5",{refused}}} 1.0' in lines
    assert f'coldfusion_update_cosine_bucket{{le="+Inf",{refused}}} 1.0' in lines


def test_of_a_half_that_could_not_be_read_nothing_is_told(overview: Overview) -> None:
    whole = set(families(overview))
    nothing = History(tally=None, quality=(), recent=())
    no_store = replace(overview, store=None, history=nothing, store_error=DOWN)
    no_broker = replace(overview, broker=None, broker_error=DOWN)

    without_store, without_broker = set(families(no_store)), set(families(no_broker))

    assert values(no_store, "coldfusion_up") == values(no_broker, "coldfusion_up") == {(): 0}
    always = {"coldfusion_up", "coldfusion_build_info"}
    assert without_store & without_broker == always
    assert without_store | without_broker == whole
    assert "coldfusion_queue_length" in without_store
    assert "coldfusion_base_version" in without_broker


def test_what_is_not_known_yet_is_not_told_as_none_at_all(overview: Overview) -> None:
    assert overview.broker is not None
    broker = replace(overview.broker, stored=None)
    history = replace(overview.history, tally=None)

    found = families(replace(overview, broker=broker, history=history))

    assert values(overview, "coldfusion_up") == {(): 1}
    missing = {name for name, spec in SPECS.items() if name not in found}
    assert missing == {
        "coldfusion_gate_score",  # these three have names, which the ledger tells
        "coldfusion_quality_score",
        "coldfusion_quality_base_version",
        "coldfusion_gate_verdicts",
        "coldfusion_rollbacks",
        "coldfusion_contributor_share",
        "coldfusion_fused_staleness_versions",
        "coldfusion_contributions",
        "coldfusion_overrides",
        "coldfusion_update_relative_norm",
        "coldfusion_update_cosine",
        "coldfusion_stored_bytes",
        "coldfusion_stored_objects",
    }


def test_a_dataset_is_called_as_who_contributed_from_it(overview: Overview) -> None:
    known, unknown = "d" * 32, "e" * 32
    quality = tuple(Quality(name, "frozen", 0.5, 1) for name in (known, unknown))

    found = replace(overview, history=replace(overview.history, quality=quality))

    assert set(values(found, "coldfusion_quality_score")) == {
        (known, "anna", "frozen"),
        (unknown, "eeeeeeee", "frozen"),
    }


def test_contributors_beyond_the_largest_share_one_series(overview: Overview) -> None:
    assert overview.history.tally is not None
    shares = {f"c{number:02}": (number + 1) / 325 for number in range(25)}
    tally = replace(overview.history.tally, shares=shares)

    found = values(
        replace(overview, history=replace(overview.history, tally=tally)),
        "coldfusion_contributor_share",
    )

    assert len(found) == 21
    assert found["(others)",] == pytest.approx((1 + 2 + 3 + 4 + 5) / 325)
    assert found["c05",] == pytest.approx(6 / 325)
    assert sum(found.values()) == pytest.approx(1)
