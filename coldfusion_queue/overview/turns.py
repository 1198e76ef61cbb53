"""What the broker says of submissions' next turns: queued or running, and how far they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import redis

from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue.progress import EXPIRY_SECONDS, ProgressReport
from coldfusion_queue.turn import Phase

__all__ = ["TurnOverview", "TurnState", "read_turns"]

#: ``running`` has a lease. ``waiting`` is put off until its retry. ``missing`` is unknown to the
#: broker: ``reconcile`` sends it again.
TurnState = Literal["running", "queued", "waiting", "missing"]

_RUNNING = "running:"


@dataclass(frozen=True)
class TurnOverview:
    """The next turn of a submission."""

    turn: int
    state: TurnState
    worker: str | None
    """Who has its lease."""
    report: ProgressReport | None
    """The last one of the submission: of this turn or the one before, and of any attempt at it."""
    silent_seconds: float
    """Since that report, by the broker's clock; 0 if there is none."""

    @property
    def current(self) -> ProgressReport | None:
        """The last report, if the attempt that runs now made it."""
        if self.report is None or self.report.turn != self.turn:
            return None
        return self.report if self.report.worker == self.worker else None

    @property
    def is_training(self) -> bool:
        """Whether it reports at intervals now; in other phases it is silent while they last."""
        return self.current is not None and self.current.phase is Phase.TRAINING


def read_turns(
    client: redis.Redis, keys: RedisKeys, turns: Mapping[str, int]
) -> dict[str, TurnOverview]:
    """Look turns up, in one round trip.

    Args:
        client: where hints and reports are.
        keys: of the repository.
        turns: number of the turn, by submission.
    """
    with client.pipeline(transaction=False) as pipeline:
        for name, turn in turns.items():
            pipeline.get(keys.turn(contribution_id(name, turn)))
            pipeline.get(keys.progress(name))
            pipeline.pttl(keys.progress(name))
        found = pipeline.execute()
    triples = zip(found[::3], found[1::3], found[2::3], strict=True)
    pairs = zip(turns.items(), triples, strict=True)
    return {name: _turn(turn, *triple) for (name, turn), triple in pairs}


def _turn(turn: int, hint: str | None, data: str | None, expires_in: int) -> TurnOverview:
    report = None if data is None else ProgressReport.model_validate_json(data)
    silent = max(0.0, EXPIRY_SECONDS - expires_in / 1000) if report is not None else 0.0
    if hint is not None and hint.startswith(_RUNNING):
        return TurnOverview(turn, "running", hint.removeprefix(_RUNNING), report, silent)
    known: TurnState = "waiting" if hint == "waiting" else "queued"
    return TurnOverview(turn, "missing" if hint is None else known, None, report, silent)
