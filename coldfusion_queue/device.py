"""The device of a worker, as a turn sees it: something to wait for, and to give up again."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Device", "OwnDevice"]


class Device(Protocol):
    """What one turn at a time trains on, of those that a worker has in hand."""

    @property
    def is_held(self) -> bool:
        """Whether this turn has it."""

    def take(self) -> bool:
        """Take it if it is free, without waiting; answers whether this turn has it now."""

    def is_in_vain(self) -> bool:
        """Whether this turn has waited for so long that another worker should have it."""

    def tell(self, seconds_left: float) -> None:
        """Say for how long this turn will need it, as far as is known."""

    def give_up(self) -> None:
        """Leave it to the next turn. Idempotent."""


class OwnDevice:
    """A device that nobody else wants."""

    is_held = False

    def take(self) -> bool:
        """It is always free."""
        self.is_held = True
        return True

    def is_in_vain(self) -> bool:
        """Nobody waits."""
        return False

    def tell(self, seconds_left: float) -> None:
        """Nobody asks."""

    def give_up(self) -> None:
        """Nobody takes it."""
        self.is_held = False
