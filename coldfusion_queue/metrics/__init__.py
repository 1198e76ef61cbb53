"""Prometheus metrics: one catalogue of all, and what counts or makes them."""

from __future__ import annotations

from coldfusion_queue.metrics.tasks import TaskMetrics, repository_metrics, up_metric

__all__ = ["TaskMetrics", "repository_metrics", "up_metric"]
