"""Progress of running turns: the last report of each submission, in Redis, for people to see."""

from __future__ import annotations

import redis
from pydantic import BaseModel, ConfigDict

from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.turn import Phase

__all__ = ["EXPIRY_SECONDS", "ProgressReport", "read_progress", "write_progress"]

#: For which a report is kept; what is left of it tells how old the report is.
EXPIRY_SECONDS = 3600


class ProgressReport(BaseModel):
    """What a running turn last said of itself."""

    model_config = ConfigDict(frozen=True)

    submission_id: str
    turn: int
    base_version: int
    phase: Phase
    step: int
    num_steps: int
    loss: float | None
    examples_per_second: float | None
    tokens_per_second: float | None = None
    memory_bytes: int | None = None
    seconds: float | None = None
    """For how long this attempt at the turn has run."""
    worker: str


def write_progress(client: redis.Redis, keys: RedisKeys, report: ProgressReport) -> None:
    """Replace a submission's last report; it expires after an hour."""
    client.set(keys.progress(report.submission_id), report.model_dump_json(), ex=EXPIRY_SECONDS)


def read_progress(
    client: redis.Redis, keys: RedisKeys, submission_id: str
) -> ProgressReport | None:
    """A submission's last report, or None if there is none."""
    data = client.get(keys.progress(submission_id))
    return None if data is None else ProgressReport.model_validate_json(str(data))
