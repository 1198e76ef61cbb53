"""From when on something counts as stuck: the numbers that the alert rules have too.

Prometheus sees how things went over time; ``coldfusion status`` looks once, and sees ages. A rule
that lets a state last for an hour is here that hour. ``tests/unit/overview/test_stuck.py`` holds
the two together.
"""

from __future__ import annotations

__all__ = [
    "CANDIDATE_SECONDS",
    "NO_FUSION_SECONDS",
    "PENDING_FACTOR",
    "PENDING_SECONDS",
    "REFUSED_AT_LEAST",
    "REFUSED_SECONDS",
    "REFUSED_SHARE",
    "SILENT_TURN_SECONDS",
    "UNSERVED_SECONDS",
]

_MINUTE, _HOUR = 60, 3600

#: ColdFusionNoFusion: for how long a fusion is due and does not come.
NO_FUSION_SECONDS = _HOUR + 15 * _MINUTE
#: ColdFusionPendingTooOld: so many times ``max_wait_seconds``, and these on top.
PENDING_FACTOR = 2
PENDING_SECONDS = _HOUR
#: ColdFusionCandidateStuck: for how long a fused model waits for the gate.
CANDIDATE_SECONDS = _HOUR
#: ColdFusionQueueGrowing: for how long messages wait where no worker is.
UNSERVED_SECONDS = _HOUR
#: ColdFusionRefusalsRising: within this time, so many of what is decided, and that share of it.
REFUSED_SECONDS = 6 * _HOUR
REFUSED_AT_LEAST = 4
REFUSED_SHARE = 0.25
#: For how long a turn that trains reports nothing; it does every few seconds, or after each step.
#: No metric tells this of one turn, so no rule does.
SILENT_TURN_SECONDS = 15 * _MINUTE
