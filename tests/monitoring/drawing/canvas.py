"""A page in pixels: boxes of panels on a dark ground, texts in them, axes for plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

__all__ = ["DIM", "GRID", "PANEL", "TEXT", "Box", "Canvas"]

PAGE, PANEL, BORDER = "#111217", "#181B1F", "#2A2D33"
TEXT, DIM, GRID = "#CCCCDC", "#8E8F9A", "#2A2D33"
_DPI = 100
#: A pixel of a page in points of a font.
_POINTS = 72 / _DPI


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; y counts from the top of the page."""

    x: float
    y: float
    width: float
    height: float

    def inset(self, left: float, top: float, right: float, bottom: float) -> Box:
        """What is left of it without its margins."""
        return Box(
            self.x + left, self.y + top, self.width - left - right, self.height - top - bottom
        )


class Canvas:
    """One page.

    Args:
        width: in pixels.
        height: in pixels.
    """

    def __init__(self, width: float, height: float) -> None:
        self._size = (width, height)
        self._figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=PAGE)
        self._agg = FigureCanvasAgg(self._figure)
        self._all = self._figure.add_axes((0, 0, 1, 1))
        self._all.set(xlim=(0, width), ylim=(height, 0))
        self._all.axis("off")

    def panel(self, box: Box) -> None:
        """The ground of a panel."""
        self._all.add_patch(
            FancyBboxPatch(
                (box.x, box.y),
                box.width,
                box.height,
                boxstyle="round,pad=0,rounding_size=3",
                facecolor=PANEL,
                edgecolor=BORDER,
                linewidth=1,
            )
        )

    def rectangle(self, box: Box, colour: str, alpha: float = 1) -> None:
        """A filled rectangle."""
        self._all.add_patch(
            Rectangle((box.x, box.y), box.width, box.height, facecolor=colour, alpha=alpha, lw=0)
        )

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1) -> None:
        """A line through points."""
        xs, ys = zip(*points, strict=True)
        self._all.plot(xs, ys, color=colour, linewidth=width, solid_capstyle="butt")

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        pixels: float = 12,
        colour: str = TEXT,
        width: float | None = None,
        **more: Any,
    ) -> None:
        """A text whose middle is at ``y``; cut if it is wider than ``width`` pixels."""
        # A dollar would begin a formula.
        shown = text.replace("$", r"\$")
        artist = self._all.text(
            x, y, shown, fontsize=pixels * _POINTS, color=colour, va="center", **more
        )
        while width is not None and len(text) > 1 and self._width(artist) > width:
            text = text[:-1]
            artist.set_text(text.rstrip().replace("$", r"\$") + "…")

    def circled(self, x: float, y: float, letter: str) -> None:
        """A letter in a small circle."""
        self._all.add_patch(Circle((x, y), 6.5, fill=False, edgecolor=DIM, linewidth=0.9))
        self.text(x, y, letter, pixels=10, colour=DIM, ha="center")

    def text_width(self, text: str, pixels: float) -> float:
        """How wide a text is, in pixels."""
        artist = self._all.text(0, 0, text.replace("$", r"\$"), fontsize=pixels * _POINTS)
        width = self._width(artist)
        artist.remove()
        return width

    def axes(self, box: Box) -> Axes:
        """Axes for a plot whose frame is the box."""
        width, height = self._size
        place = (box.x / width, 1 - (box.y + box.height) / height)
        axes = self._figure.add_axes((*place, box.width / width, box.height / height))
        axes.set_facecolor(PANEL)
        axes.tick_params(colors=DIM, labelsize=10 * _POINTS, length=0, pad=4)
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def save(self, path: Path) -> None:
        """Write the page as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._figure.savefig(path, dpi=_DPI, facecolor=PAGE, metadata={"Software": None})

    def _width(self, artist: Any) -> float:
        return float(artist.get_window_extent(self._agg.get_renderer()).width)
