from __future__ import annotations

from prometheus_client import CollectorRegistry

from coldfusion_queue.finetune.progress import Progress
from coldfusion_queue.metrics import TaskMetrics


def test_what_was_trained_on_since_the_last_report_is_counted() -> None:
    registry = CollectorRegistry()
    metrics = TaskMetrics(registry)

    for loss, new in ((0.9, 40), (0.7, 60)):
        metrics.trained(
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
            )
        )

    assert registry.get_sample_value("coldfusion_trained_examples_total") == 100
    assert registry.get_sample_value("coldfusion_trained_tokens_total") == 1100
    assert registry.get_sample_value("coldfusion_finetune_loss") == 0.7
    assert registry.get_sample_value("coldfusion_finetune_memory_bytes") == 2**30
