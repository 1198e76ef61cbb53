"""The points on the way of a fused model through the gate."""

from __future__ import annotations

from coldfusion_queue.crash_points import CrashPoint

__all__ = ["GATE_POINTS"]

GATE_POINTS = (
    CrashPoint.GATE_CANDIDATE,
    CrashPoint.EVALUATION_WANTED,
    CrashPoint.EVALUATION_MEASURED,
    CrashPoint.EVALUATION_RECORDED,
    CrashPoint.GATE_JUDGED,
    CrashPoint.GATE_CLEANED,
)
