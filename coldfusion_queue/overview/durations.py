"""How durations are written for people."""

from __future__ import annotations

__all__ = ["duration_text"]

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def duration_text(seconds: float) -> str:
    """A duration in the largest unit of which there are at least two; seconds if there is none."""
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
