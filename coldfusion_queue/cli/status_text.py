"""How ``coldfusion status`` writes sizes, and what would be too long."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["bytes_text", "filled", "shortened"]


def bytes_text(number: float) -> str:
    """A size for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def shortened(name: str, width: int) -> str:
    """A name in at most this many characters: its middle goes, since both ends tell it apart."""
    if len(name) <= width:
        return name
    tail = max(1, min(8, (width - 2) // 2))
    return f"{name[: width - 2 - tail]}..{name[-tail:]}"


def filled(parts: Iterable[str], width: int, gap: str = "   ") -> list[str]:
    """Parts on as few lines as they fit on; none is broken."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(gap) + len(part) <= width:
            lines[-1] += gap + part
        else:
            lines.append(part)
    return lines
