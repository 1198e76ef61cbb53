"""HTML and SVG, made so that no text of a record can become markup.

Every string that is put into an element is escaped unless ``element`` made it. Contributors,
datasets and reasons come from strangers, so there is no other way to write markup here.
"""

from __future__ import annotations

import html
import math
import unicodedata

__all__ = ["Markup", "clean", "element", "join"]

#: Longest text of a record that is shown; the rest is cut off.
_MAX_TEXT = 600


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def clean(text: str, limit: int = _MAX_TEXT) -> str:
    """Text of a record without what does not print or turns text around, on one line.

    Args:
        text: anything.
        limit: characters at most.
    """
    # Cut off first, so that a text of many megabytes costs nothing.
    kept = "".join(_visible(letter) for letter in text[: limit + 1])
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def join(*parts: object) -> Markup:
    """Parts one after the other: markup as it is, None as nothing, other text escaped."""
    return Markup("".join(_escaped(part) for part in parts if part is not None))


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element of HTML or SVG.

    Args:
        name: its tag.
        children: see ``join``.
        attributes: ``class_`` for ``class``, ``_`` for ``-``; those that are None are left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def _visible(letter: str) -> str:
    category = unicodedata.category(letter)
    # Control characters (a NUL is no XML), formats such as overrides of direction, surrogates.
    return " " if category in {"Cc", "Zl", "Zp"} else "" if category.startswith("C") else letter


def _escaped(part: object) -> str:
    return part if isinstance(part, Markup) else html.escape(clean(str(part)))


def _value(value: object) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a coordinate that is not finite")
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return html.escape(clean(str(value)))
