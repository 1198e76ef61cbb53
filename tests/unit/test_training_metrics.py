from __future__ import annotations

import time

import pytest
from prometheus_client import CollectorRegistry

from coldfusion_queue.finetune.progress import Progress
from coldfusion_queue.metrics import TaskMetrics, catalogue


def test_what_was_trained_on_since_the_last_report_is_counted() -> None:
    registry = CollectorRegistry()
    metrics = TaskMetrics(registry, "hospital-a")

    def shown(name: str) -> float | None:
        return registry.get_sample_value(name, {"repository": "shared", "site": "hospital-a"})

    for loss, new in ((0.9, 40), (0.7, 60)):
        metrics.trained(
            "shared",
            Progress(
                step=3,
                num_steps=9,
                num_examples=1000,  # most of them another worker's, before an interruption
                loss=loss,
                new_examples=new,
                new_tokens=11 * new,
                examples_per_second=5.0,
                tokens_per_second=55.0,
                memory_bytes=2**30,
            ),
        )

    assert shown("coldfusion_trained_examples_total") == 100
    assert shown("coldfusion_trained_tokens_total") == 1100
    assert shown("coldfusion_finetune_loss") == 0.7
    assert shown("coldfusion_finetune_memory_bytes") == 2**30
    assert shown("coldfusion_turn_progress_ratio") == pytest.approx(1 / 3)
    assert shown("coldfusion_turn_reported_timestamp_seconds") == pytest.approx(time.time(), abs=60)


def test_when_the_turn_that_trains_got_the_device_is_shown_for_as_long_as_it_has_it() -> None:
    registry = CollectorRegistry()
    device = TaskMetrics(registry).device("shared")

    def started() -> float | None:
        labels = {"repository": "shared", "site": ""}
        return registry.get_sample_value("coldfusion_turn_started_timestamp_seconds", labels)

    device.taken()
    assert started() == pytest.approx(time.time(), abs=60)
    device.was_busy(1.5)
    device.left()
    assert started() == 0
    busy = registry.get_sample_value(
        "coldfusion_device_busy_seconds_total", {"repository": "shared", "site": ""}
    )
    assert busy == 1.5


def test_a_message_for_a_repository_that_does_not_exist_leaves_no_series() -> None:
    registry = CollectorRegistry()

    TaskMetrics(registry).device("misspelt")

    assert [family.name for family in registry.collect() if family.samples] == []


@pytest.mark.parametrize("queue", ["finetune", "finetune.hospital-a", "evaluate", "fusion"])
def test_all_that_workers_of_a_queue_may_count_begins_with_0(queue: str) -> None:
    registry = CollectorRegistry()
    TaskMetrics(registry).begin("shared", queue)

    samples = [sample for metric in registry.collect() for sample in metric.samples]
    shown = {name: set[str]() for name in ("outcome", "reason")}
    for sample in samples:
        for label in shown.keys() & sample.labels.keys():
            shown[label].add(sample.labels[label])
    lines = {
        "finetune": (catalogue.FINETUNES, {"interrupted", "passed_on", "retried", "worker_lost"}),
        "evaluate": (catalogue.EVALUATIONS, {"interrupted", "retried", "worker_lost"}),
        "fusion": (None, {"missing"}),
    }
    spec, reasons = lines[queue.partition(".")[0]]
    outcomes = set() if spec is None else set(spec.values.partition(": ")[2].split(", "))
    assert shown == {"outcome": outcomes, "reason": reasons}
    assert {sample.value for sample in samples if not sample.name.endswith("_created")} == {0}
    histogram = {"finetune": "finetune_duration", "evaluate": "evaluation_duration"}
    timed = {sample.name for sample in samples if sample.name.endswith("_seconds_count")}
    wanted = histogram.get(queue.partition(".")[0])
    assert timed == ({f"coldfusion_{wanted}_seconds_count"} if wanted else set())
