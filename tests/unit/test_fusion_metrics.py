"""What a fusion worker counts before there is anything to count."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from coldfusion_queue.metrics import catalogue
from coldfusion_queue.metrics.fusions import FusionMetrics
from coldfusion_queue.repository.meter import Phase


def test_a_fusion_that_is_not_due_shows_zeros_so_that_the_first_one_is_seen() -> None:
    """`increase` and `rate` see what comes after a first scrape, not what was in it."""
    registry = CollectorRegistry()

    with FusionMetrics(registry).measure("shared"):
        pass

    samples = [sample for metric in registry.collect() for sample in metric.samples]
    samples = [sample for sample in samples if not sample.name.endswith("_created")]
    counted = {sample.name for sample in samples}
    assert {sample.value for sample in samples} == {0}
    assert {spec.exposed for spec in CATALOGUED} <= counted
    assert f"{catalogue.FUSION_DURATION.name}_count" in counted
    for label, values in (
        ("outcome", {"committed", "candidate", "lost", "failed"}),
        ("phase", {*Phase}),
    ):
        assert {one.labels[label] for one in samples if label in one.labels} == values


CATALOGUED = (
    catalogue.FUSIONS,
    catalogue.FUSION_READ,
    catalogue.FUSION_WRITTEN,
    catalogue.COLLECTED_BYTES,
)
