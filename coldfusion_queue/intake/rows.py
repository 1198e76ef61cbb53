"""Rows with named columns, whatever they are read from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

__all__ = ["Row", "Table"]

#: Number of a row, for messages, and its values in the order of the columns asked for.
Row = tuple[int, tuple[object, ...]]


class Table(Protocol):
    """Rows with named columns."""

    name: str
    """What messages call it."""
    unit: str
    """What a row's number counts: ``line`` or ``row``."""
    is_typed: bool
    """Numbers are told from strings of digits; without it every value is a string."""

    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in the file's order."""

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield the rows in the file's order, each with the values of these columns."""
