"""What a turn tells of itself, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coldfusion_queue.finetune.progress import Progress

__all__ = ["DeviceBusy", "Phase", "Report", "TurnInterrupted", "TurnOutcome", "never_stop"]


class Phase(StrEnum):
    """What a running turn is doing."""

    #: Base version and dataset are being fetched.
    DOWNLOADING = "downloading"
    #: All is prepared, and another turn has the device.
    WAITING = "waiting"
    #: It has the device, and goes on from a checkpoint.
    RESUMING = "resuming"
    #: The body and the head are being trained.
    TRAINING = "training"
    #: The contribution is being uploaded and committed.
    UPLOADING = "uploading"


@dataclass(frozen=True)
class TurnOutcome:
    """How a turn ended."""

    contribution_id: str
    committed: bool
    """Whether this attempt is the committed one; False if the turn had been done before."""
    base_version: int


Report = Callable[[Phase, int, "Progress | None"], None]


class TurnInterrupted(Exception):  # noqa: N818 - nothing went wrong
    """A turn was told to stop; nothing of it is committed, and it goes on from its checkpoint.

    Args:
        contribution_id: of the turn.
        step: optimizer steps done in its newest checkpoint; 0 if it has none.
        num_steps: optimizer steps of the whole turn; 0 if ``step`` is.
    """

    def __init__(self, contribution_id: str, step: int, num_steps: int) -> None:
        super().__init__(contribution_id, step, num_steps)
        self.contribution_id = contribution_id
        self.step = step
        self.num_steps = num_steps

    def __str__(self) -> str:
        where = f"goes on after step {self.step} of {self.num_steps}"
        return f"{self.contribution_id} was interrupted, {where if self.step else 'begins again'}"


class DeviceBusy(TurnInterrupted):
    """A turn waited for its worker's device for too long; another worker may have it sooner."""

    def __str__(self) -> str:
        return f"{self.contribution_id} goes back on the queue: the device is not free yet"


def never_stop() -> bool:
    """What nobody can stop is told this."""
    return False
