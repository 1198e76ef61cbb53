"""Ids that the records of a piece of work are given, whoever in it writes them."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

__all__ = ["bind", "bound_ids"]

_NONE: Mapping[str, object] = {}
_bound: ContextVar[Mapping[str, object]] = ContextVar("coldfusion_log_ids", default=_NONE)


def bind(ids: Mapping[str, object]) -> None:
    """Give these ids, in the place of all earlier ones, to what is logged from here on.

    They hold for this thread, and for threads that are given work by it (``threads``).
    """
    _bound.set(dict(ids))


def bound_ids() -> Mapping[str, object]:
    """Ids of what is going on here."""
    return _bound.get()
