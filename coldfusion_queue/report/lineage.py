"""The lineage graph: versions in rows, contributions below, rollbacks as arcs back."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from coldfusion_queue.report.charts import svg
from coldfusion_queue.report.data import Report, Step
from coldfusion_queue.report.markup import Markup, element

__all__ = ["MAX_VERSIONS", "STALENESS_CLASSES", "lineage_graph", "staleness_class"]

#: Versions that are drawn, the newest; of a longer history the beginning is left out.
MAX_VERSIONS = 240
#: Contributions, all versions together, up to which each is a dot of its own.
_MAX_DOTS = 600
#: The same of one version: four in a line, as far as there is room below.
_MOST_DOTS = 32
_WIDTH, _SIDE = 960.0, 30.0
_COLUMNS, _MIN_COLUMNS = 24, 8
_ARCS, _RADIUS = 52.0, 13.0
#: Room below the nodes for contributions, and below those.
_HANGING, _GAP = 86.0, 20.0
#: Lines of dots, from one to the next.
_DOT_LINE = 7.5
#: Names of contributors that a tooltip has room for.
_MAX_NAMES = 12

#: Class of the colour, and what it stands for.
STALENESS_CLASSES = {"a0": "0", "a1": "1", "a2": "2", "a3": "3 or 4", "a4": "5 or more"}


@dataclass(frozen=True)
class _Node:
    """A version and where it is drawn."""

    step: Step
    row: int
    left: float
    top: float


def staleness_class(staleness: int) -> str:
    """The class that gives a contribution its colour."""
    return f"a{staleness if staleness < 3 else 3 if staleness < 5 else 4}"


def lineage_graph(report: Report) -> Markup:
    """Draw it; at most ``MAX_VERSIONS`` versions, however many contributions."""
    shown = report.published[-MAX_VERSIONS:]
    num_rows = math.ceil(len(shown) / _COLUMNS)
    columns = max(math.ceil(len(shown) / num_rows), _MIN_COLUMNS)  # rows of about one length
    pitch = (_WIDTH - 2 * _SIDE) / columns
    most = max((len(step.parts) for step in shown), default=0)
    has_dots = sum(len(step.parts) for step in shown) <= _MAX_DOTS and most <= _MOST_DOTS
    hanging = math.ceil(most / 4) * _DOT_LINE + _RADIUS + 6 if has_dots else _HANGING
    row_height = _ARCS + hanging + _GAP
    nodes = {}
    for number, step in enumerate(shown):
        row, column = divmod(number, columns)
        left = _SIDE + (column + 0.5) * pitch
        nodes[step.version] = _Node(step, row, left, row * row_height + _ARCS)
    withheld: dict[int, list[Step]] = defaultdict(list)
    for step in report.withheld:
        withheld[step.parent or 0].append(step)
    parts: list[Markup] = []
    for node in nodes.values():
        parts += _edges(node, nodes, pitch)
        parts += _attempts(node, withheld[node.step.version], pitch)
        parts += _dots(node) if has_dots else _stack(node, most)
        parts.append(_circle(node))
    title = f"lineage of base versions {shown[0].version} to {shown[-1].version}"
    return svg(_WIDTH, num_rows * row_height, title, *parts)


def _circle(node: _Node) -> Markup:
    step = node.step
    place = {"cx": node.left, "cy": node.top}
    label = {"x": node.left, "y": node.top + 4}
    return element(
        "g",
        element("title", _told(step)),
        element("circle", class_=f"node {step.kind}", r=_RADIUS, **place),
        element("text", step.version, class_="number", text_anchor="middle", **label),
    )


def _told(step: Step) -> str:
    told = f"base version {step.version}, {step.at:%Y-%m-%d %H:%M}: {step.note}"
    return f"{told}; by {_names(step)}" if step.parts else told


def _names(step: Step) -> str:
    counts = Counter(line.contributor_id for line in step.parts)
    names = [name if num == 1 else f"{name} ({num})" for name, num in sorted(counts.items())]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def _edges(node: _Node, nodes: dict[int, _Node], pitch: float) -> Iterator[Markup]:
    before = nodes.get(node.step.version - 1)
    if before is not None:
        start = before.left if before.row == node.row else node.left - pitch / 2
        yield _straight(start + (_RADIUS if before.row == node.row else 0), node, "edge")
        if before.row != node.row:  # the line of the row above goes on to its end
            end = before.left + pitch / 2
            yield _straight(before.left + _RADIUS, before, "edge", end)
    elif node.step.version > 0:
        yield _straight(node.left - pitch / 2, node, "edge left-out")
    if node.step.restores is not None:
        yield from _arc(node, nodes.get(node.step.restores))


def _straight(start: float, node: _Node, style: str, end: float | None = None) -> Markup:
    end = node.left - _RADIUS if end is None else end
    return element("line", class_=style, x1=start, x2=end, y1=node.top, y2=node.top)


def _arc(node: _Node, target: _Node | None) -> Iterator[Markup]:
    top = node.top - _RADIUS
    if target is not None and target.row == node.row:
        height = min(14 + 0.06 * (node.left - target.left), _ARCS - _RADIUS - 6)
        # A cubic curve reaches three quarters of the height of its control points.
        up = top - height / 0.75
        curve = f"M{node.left:.1f} {top:.1f}C{node.left:.1f} {up:.1f} {target.left:.1f} {up:.1f} "
        yield element("path", class_="arc", d=f"{curve}{target.left:.1f} {top:.1f}")
        yield _head(target.left, top)
        return
    # In another row, or left out: a line across rows would hide what is between.
    place = {"x": node.left, "y": top - 6}
    text = f"↶ {node.step.restores}"
    yield element("text", text, class_="back", text_anchor="middle", **place)


def _head(left: float, top: float) -> Markup:
    shape = f"M{left:.1f} {top:.1f}l-3.5 -7h7z"
    return element("path", class_="head", d=shape)


def _attempts(node: _Node, withheld: Sequence[Step], pitch: float) -> Iterator[Markup]:
    if not withheld:
        return
    left, top = node.left + pitch / 2, node.top
    told = "; ".join(step.note for step in withheld[:4])
    more = f"; and {len(withheld) - 4} more" if len(withheld) > 4 else ""
    cross = f"M{left - 4:.1f} {top - 24:.1f}l8 8m0 -8l-8 8"
    stem = f"M{node.left + _RADIUS * 0.7:.1f} {top - _RADIUS * 0.7:.1f}L{left:.1f} {top - 20:.1f}"
    count = {"x": left + 6, "y": top - 16}
    yield element(
        "g",
        element("title", f"{len(withheld)} withheld: {told}{more}"),
        element("path", class_="attempt", d=stem),
        element("path", class_="cross", d=cross),
        element("text", len(withheld), class_="withheld-count", **count)
        if len(withheld) > 1
        else None,
    )


def _dots(node: _Node) -> Iterator[Markup]:
    """Each contribution by itself, up to four in a line."""
    lines = sorted(node.step.parts, key=lambda line: (line.staleness, line.contributor_id))
    for number, line in enumerate(lines):
        in_row = min(4, len(lines) - number // 4 * 4)
        place = {
            "cx": node.left + (number % 4 - (in_row - 1) / 2) * 8,
            "cy": node.top + _RADIUS + 9 + number // 4 * _DOT_LINE,
        }
        title = (
            f"{line.contribution_id} of {line.contributor_id}: staleness {line.staleness}, "
            f"coefficient {line.coefficient:.3f}"
        )
        style = f"{staleness_class(line.staleness)} part"
        yield element("circle", element("title", title), class_=style, r=3.2, **place)


def _stack(node: _Node, most: int) -> Iterator[Markup]:
    """All contributions of a version as a bar that hangs down, as long as they are many."""
    lines = node.step.parts
    if not lines:
        return
    counts = Counter(staleness_class(line.staleness) for line in lines)
    told = ", ".join(
        f"{counts[style]} of staleness {meaning}"
        for style, meaning in STALENESS_CLASSES.items()
        if counts[style]
    )
    parts, top = (
        [element("title", f"{len(lines)} contributions: {told}; by {_names(node.step)}")],
        0.0,
    )
    for style in STALENESS_CLASSES:
        height = (_HANGING - 22) * counts[style] / most
        if height:
            box = {"x": node.left - 8, "y": node.top + _RADIUS + 4 + top, "width": 16.0}
            parts.append(element("rect", class_=style, height=height, **box))
        top += height
    place = {"x": node.left, "y": node.top + _RADIUS + 15 + top}
    parts.append(element("text", len(lines), class_="label", text_anchor="middle", **place))
    yield element("g", *parts)
