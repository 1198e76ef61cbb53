"""``coldfusion status`` for people: the same picture as the dashboards, in a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from coldfusion_queue.cli.common import time_text
from coldfusion_queue.cli.status_section import Section, fit
from coldfusion_queue.cli.status_sections import (
    WIDE,
    ended,
    fusions,
    quality,
    queues,
    submissions,
)
from coldfusion_queue.cli.status_text import bytes_text, filled
from coldfusion_queue.overview.durations import duration_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

__all__ = ["brief", "screen"]


def screen(data: dict[str, Any], width: int, height: int | None = None) -> RenderableType:
    """What ``gather`` found, for people: what is wrong first, then who works, then the history.

    Args:
        data: see ``status_data.gather``.
        width: columns of the terminal; from 120 on sections stand beside each other.
        height: lines of the terminal, for which tables are shortened; None shows all.
    """
    from rich.console import Group
    from rich.text import Text

    top, rows = _top(data, width), _layout(data, width, is_cut=height is not None)
    if height is not None:
        rows = fit(rows, height - len(top) - 1)
    body = (item for row in rows for item in (Text(), _beside(row)))
    return Group(*top, *body)


def brief(data: dict[str, Any], width: int) -> RenderableType:
    """The same without the history: what is wrong, and who works."""
    from rich.console import Group

    return Group(*_top(data, width), submissions(data, width).table())


def _top(data: dict[str, Any], width: int) -> list[Text]:
    return [*_head(data, width), *_stuck(data["stuck"], width), *_gate(data["candidate"], width)]


def _layout(data: dict[str, Any], width: int, *, is_cut: bool) -> list[list[Section]]:
    """Sections that stand beside each other, from top to bottom."""
    rows = [[submissions(data, width)]]
    if data["with_ended"]:
        rows.append([ended(data, width, is_cut=is_cut)])
    pair = [queues(data), fusions(data)]
    rows += [pair] if width >= WIDE else [[section] for section in pair]
    return [*rows, [quality(data)]]


def _beside(row: Sequence[Section]) -> RenderableType:
    from rich.table import Table

    if len(row) == 1:
        return row[0].table()
    grid = Table.grid(padding=(0, 4, 0, 0))
    grid.add_row(*(item.table() for item in row))
    return grid


def _head(data: dict[str, Any], width: int) -> Iterator[Text]:
    from rich.text import Text

    first, *others = filled(_facts(data), width)
    text = Text(first)
    text.stylize("bold", 0, len(data["repository"]))
    yield from (text, *map(Text, others))


def _facts(data: dict[str, Any]) -> Iterator[str]:
    """What there is one number of."""
    yield data["repository"]
    age = duration_text(data["base_version_age_seconds"])
    yield f"base version {data['base_version']}, {age} old"
    pending = f"pending {data['pending_contributions']} of {data['min_contributions']}"
    if data["pending_contributions"]:
        oldest = duration_text(data["oldest_pending_age_seconds"])
        pending += f", oldest {oldest} of {duration_text(data['max_wait_seconds'])}"
    yield pending
    yield f"wanted evaluations {data['wanted_evaluations']}"
    if data["gate"] is not None:
        yield f"gate {data['gate']['mean']:.4f}, floor {data['gate']['floor']:.4f}"
    if data["stored"]:
        yield f"stored {bytes_text(sum(item['bytes'] for item in data['stored'].values()))}"


def _stuck(findings: Sequence[dict[str, Any]], width: int) -> Iterator[Text]:
    """What is wrong, each with the command to run next."""
    from rich.text import Text

    for item in findings:
        style = "bold red" if item["alert"] else "yellow"
        *lines, last = _wrapped(f"! {item['text']}", width)
        command = f"  $ {item['command']}"
        yield from (Text(line, style=style) for line in lines)
        if len(last) + len(command) <= width:
            yield Text(last, style=style).append(command, style="not bold default")
        else:
            yield from (Text(last, style=style), Text(command, style="bold"))


def _wrapped(text: str, width: int) -> list[str]:
    """Lines that fit, or tables would be counted on room that is not there."""
    return textwrap.wrap(text, max(width, 20), subsequent_indent="  ", break_on_hyphens=False)


def _gate(candidate: dict[str, Any] | None, width: int) -> Iterator[Text]:
    """What waits for its probes."""
    from rich.text import Text

    if candidate is None:
        return
    tried = f", without {candidate['without']}" if candidate["without"] else ""
    told = (
        f"base version {candidate['version']} waits for the gate since "
        f"{time_text(candidate['since'])}{tried}: {candidate['missing']} of "
        f"{candidate['probes']} probes are missing"
    )
    yield from map(Text, _wrapped(told, width))
    if candidate["missing"]:
        names = ", ".join(candidate["missing_on"])
        for line in _wrapped(f"an evaluation worker makes them, on {names}", width):
            yield Text(line, style="dim")
    for failure in candidate["failed"]:
        yield from (Text(line, "red") for line in _wrapped(f"a probe failed: {failure}", width))
