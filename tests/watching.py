"""Who watches a finetune, and who tells it to stop."""

from __future__ import annotations

__all__ = ["StopAt", "ignore"]


class StopAt:
    """Says stop when it is asked for the ``number``-th time."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked >= self._number


def ignore(*_: object) -> None:
    """Nobody watches."""
