"""Prometheus metrics: one catalogue of all, and what counts or makes them."""

from __future__ import annotations

from coldfusion_queue.metrics.tasks import RequeueReason, TaskMetrics

__all__ = ["RequeueReason", "TaskMetrics"]
