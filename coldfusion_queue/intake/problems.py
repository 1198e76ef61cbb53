"""Saying what is wrong with a dataset, without showing any of it.

Messages hold line numbers, counts and column names, never rows: they end in logs and in other
people's terminals. Errors of readers are not chained either (``json.JSONDecodeError.doc`` and
``UnicodeDecodeError.object`` hold the row), so callers raise after their ``except`` block.

Names of columns and files are shown to whoever has the data. At a site they may be data too (the
first line of a CSV file without a header is a row, a file may be called after a person), so there
messages name only what the submission named, see ``naming_only``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

__all__ = ["Place", "Tally", "listed", "named_column", "naming_only", "printable", "tellable"]

_NUM_PLACES = 5
_NUM_LISTED = 20
_MAX_NAME = 40
_MAX_NAME_WORDS = 4
_UNTOLD = "<a name that stays at the site>"

#: Names that messages may show; None for all.
_told: ContextVar[frozenset[str] | None] = ContextVar("told", default=None)


@dataclass(frozen=True)
class Place:
    """One row of a dataset: where to look, not what stands there."""

    source: str
    """File or hub dataset, as messages name it."""
    unit: str
    """What ``number`` counts: ``line`` or ``row``."""
    number: int
    """Counted from 1."""


@dataclass
class Tally:
    """How many rows share a problem, and where the first of them are."""

    count: int = 0
    places: list[Place] = field(default_factory=list)

    def add(self, place: Place) -> None:
        """Count one row."""
        self.count += 1
        if len(self.places) < _NUM_PLACES:
            self.places.append(place)

    def merge(self, other: Tally) -> None:
        """Count the rows of another tally, which come after ours."""
        self.count += other.count
        self.places = (self.places + other.places)[:_NUM_PLACES]

    @property
    def source(self) -> str:
        """The file that the first of the rows is in."""
        return self.places[0].source

    def describe(self) -> str:
        """``3 rows (lines 2, 5, 9)``; with more rows than places, an ellipsis follows."""
        here = [place for place in self.places if place.source == self.source]
        numbers = ", ".join(str(place.number) for place in here)
        more = ", ..." if self.count > len(here) else ""
        plural = "s" if self.count > 1 else ""
        return f"{self.count} row{plural} ({self.places[0].unit}{plural} {numbers}{more})"


@contextmanager
def naming_only(names: Iterable[str]) -> Iterator[None]:
    """Within the context messages show no names of columns, files and splits but these."""
    token = _told.set(frozenset(names))
    try:
        yield
    finally:
        _told.reset(token)


def tellable(names: Iterable[str]) -> list[str]:
    """Those of the names that messages may show."""
    told = _told.get()
    return [name for name in names if told is None or name in told]


def printable(name: str) -> str:
    """A file's name on one line and in characters that every terminal takes."""
    if not tellable([name]):
        return _UNTOLD
    return name if name.isprintable() else repr(name)


def named_column(name: str) -> str:
    """A column's name for a message; one that looks like text is counted, not shown.

    The first line of a CSV file without a header is a row, and rows are not shown.
    """
    if not tellable([name]):
        return _UNTOLD
    if len(name) > _MAX_NAME or len(name.split()) > _MAX_NAME_WORDS:
        return f"<{len(name)} characters>"
    return repr(name)


def listed(names: Iterable[str]) -> str:
    """Column or file names for a message, at most 20 of them."""
    known = list(names)
    shown = [named_column(name) for name in tellable(known)][:_NUM_LISTED]
    more = len(known) - len(shown)
    if not more:
        return ", ".join(shown) or "none"
    stay = " that stay at the site" if _told.get() is not None else ""
    return f"{', '.join(shown)} and {more} more{stay}" if shown else f"{more} names{stay}"
