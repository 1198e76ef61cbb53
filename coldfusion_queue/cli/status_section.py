"""One table of ``coldfusion status``, which can be made shorter to fit a screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

__all__ = ["Column", "Section", "fit"]

#: Rows that a section keeps, the one that says how many are left out not counted.
_LEAST_ROWS = 2


@dataclass(frozen=True)
class Column:
    """A column; the first one's name is the title of the section."""

    name: str
    is_number: bool = False
    """Numbers are aligned on their right."""
    is_name: bool = False
    """Names are cut off where there is no room; numbers never are."""


@dataclass(frozen=True)
class Section:
    """A title, which is the first column's name, and rows below; the important ones first."""

    columns: tuple[Column, ...]
    rows: Sequence[tuple[str | Text, ...]]
    note: str = ""
    """What is said if there are no rows."""
    num_shown: int = field(default=1 << 30)
    """Rows that are shown; the others are counted in one more line."""

    @property
    def height(self) -> int:
        """Lines that it takes, each row being one."""
        if not self.rows:
            return 2
        return 1 + min(len(self.rows), self.num_shown + 1)

    @property
    def can_shrink(self) -> bool:
        """Whether anything is left to leave out."""
        return self.height > 2 + _LEAST_ROWS

    def shrunk(self) -> Section:
        """The same in one line less."""
        return replace(self, num_shown=self.height - 3)

    def table(self) -> Table:
        """It, to be printed."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in self.columns if self.rows else self.columns[:1]:
            table.add_column(
                column.name,
                justify="right" if column.is_number else "left",
                no_wrap=not column.is_name,
                overflow="ellipsis",
            )
        num_shown = len(self.rows) if len(self.rows) <= self.num_shown + 1 else self.num_shown
        for row in self.rows[:num_shown]:
            table.add_row(*row)
        if num_shown < len(self.rows):
            table.add_row(Text(f"... and {len(self.rows) - num_shown} more", style="dim"))
        if not self.rows:
            table.add_row(Text(self.note, style="dim"))
        return table


def fit(rows: Sequence[Sequence[Section]], height: int) -> list[list[Section]]:
    """Shorten sections until all of them are on a screen, the longest first.

    Args:
        rows: sections that stand beside each other, from top to bottom; an empty line is between.
        height: lines that there are.

    Returns:
        The same; higher than the screen only if nothing more can be left out.
    """
    found = [list(row) for row in rows]
    while sum(_height(row) + 1 for row in found) - 1 > height:
        tall = [row for row in found if max(row, key=lambda item: item.height).can_shrink]
        if not tall:
            break
        row = max(tall, key=_height)
        highest = _height(row)
        row[:] = [item.shrunk() if item.height == highest else item for item in row]
    return found


def _height(row: Sequence[Section]) -> int:
    return max(item.height for item in row)
