"""How a panel wants a field shown: name, unit, colours and mappings, with its overrides."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.monitoring.drawing.units import written
from tests.monitoring.prometheus import Series

__all__ = ["CLASSIC", "Column", "Field", "Look", "colour", "reduced"]

_COLOURS = {
    "green": "#73BF69",
    "yellow": "#FADE2A",
    "red": "#F2495C",
    "blue": "#5794F2",
    "orange": "#FF9830",
    "purple": "#B877D9",
}
_SHADES = {"semi-dark-": 0.85, "dark-": 0.7, "light-": 1.2, "super-light-": 1.4}
_PLAIN = {"text": "#CCCCDC", "white": "#FFFFFF", "black": "#000000", "gray": "#8E8E8E"}

#: Colours of series in their order.
CLASSIC = (
    *("#73BF69", "#F2CC0C", "#5794F2", "#FF9830", "#F2495C", "#B877D9", "#8AB8FF", "#37872D"),
    *("#FFB357", "#C0D8FF", "#FF7383", "#CA95E5", "#96D98D", "#E0B400", "#3274D9", "#FA6400"),
)


def colour(name: str) -> str:
    """A colour of Grafana's by its name, or one in hexadecimal."""
    if name.startswith(("#", "rgb")):
        return name
    if name in _PLAIN or name == "transparent":
        return _PLAIN.get(name, "#00000000")
    for prefix, factor in _SHADES.items():
        if name.startswith(prefix):
            return _shaded(_COLOURS[name.removeprefix(prefix)], factor)
    return _COLOURS[name]


def _shaded(text: str, factor: float) -> str:
    parts = (int(text[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{min(255, round(part * factor)):02X}" for part in parts)


@dataclass(frozen=True)
class Look:
    """How values of a field are shown."""

    unit: str = ""
    decimals: int | None = None
    display_name: str = ""
    colour_mode: str = "palette-classic"
    fixed_colour: str = ""
    steps: Sequence[Mapping[str, Any]] = ()
    """Of its thresholds."""
    mappings: Sequence[Mapping[str, Any]] = ()
    least: float | None = None
    most: float | None = None
    no_value: str = "No data"
    custom: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, panel: Mapping[str, Any], name: str, ref: str) -> Look:
        """What a panel says of the field with this name, of this query."""
        config = panel.get("fieldConfig") or {}
        given = dict(config.get("defaults") or {})
        custom = dict(given.get("custom") or {})
        for override in config.get("overrides") or ():
            if _matches(override["matcher"], name, ref):
                for item in override["properties"]:
                    _set(given, custom, item["id"], item.get("value"))
        color, thresholds = given.get("color") or {}, given.get("thresholds") or {}
        return cls(
            unit=given.get("unit") or "",
            decimals=given.get("decimals"),
            display_name=given.get("displayName") or "",
            colour_mode=color.get("mode") or "palette-classic",
            fixed_colour=color.get("fixedColor") or "",
            steps=thresholds.get("steps") or (),
            mappings=given.get("mappings") or (),
            least=given.get("min"),
            most=given.get("max"),
            no_value=given.get("noValue") or "No data",
            custom=custom,
        )

    def text(self, value: float) -> str:
        """A value as it is shown."""
        mapped = self._mapped(value).get("text")
        return str(mapped) if mapped else written(value, self.unit, self.decimals)

    def colour_of(self, value: float) -> str:
        """Colour of a value by its mapping or the thresholds."""
        mapped = self._mapped(value).get("color")
        if mapped:
            return colour(mapped)
        found = "green"
        for step in self.steps:
            if step.get("value") is None or value >= step["value"]:
                found = step["color"]
        return colour(found)

    def _mapped(self, value: float) -> Mapping[str, Any]:
        for mapping in self.mappings:
            options = mapping["options"]
            if mapping["type"] == "value" and f"{value:g}" in options:
                return dict(options[f"{value:g}"])
            if mapping["type"] == "range" and _between(value, options):
                return dict(options["result"])
            if mapping["type"] == "special" and _is_special(value, options["match"]):
                return dict(options["result"])
        return {}


def _between(value: float, options: Mapping[str, Any]) -> bool:
    low, high = options.get("from"), options.get("to")
    return (low is None or value >= low) and (high is None or value <= high)


def _is_special(value: float, match: str) -> bool:
    return match in ("nan", "null+nan", "null") and math.isnan(value)


def _matches(matcher: Mapping[str, Any], name: str, ref: str) -> bool:
    kind, options = matcher["id"], matcher.get("options")
    if kind == "byName":
        return bool(options == name)
    if kind == "byRegexp":
        return re.search(str(options).strip("/"), name) is not None
    if kind == "byFrameRefID":
        return bool(options == ref)
    raise KeyError(f"matcher {kind!r}")


def _set(given: dict[str, Any], custom: dict[str, Any], path: str, value: Any) -> None:
    if path.startswith("custom."):
        custom[path.removeprefix("custom.")] = value
    else:
        given[path] = value


@dataclass(frozen=True)
class Field:
    """One series of a panel, with its name and its look."""

    name: str
    series: Series
    look: Look
    ref: str


@dataclass(frozen=True)
class Column:
    """One column of a table: numbers or texts."""

    name: str
    cells: Sequence[Any]
    look: Look


def reduced(values: Sequence[float], calc: str) -> float:
    """One number for many; NaN if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.nan
    known = {
        "lastNotNull": finite[-1],
        "last": finite[-1],
        "firstNotNull": finite[0],
        "max": max(finite),
        "min": min(finite),
        "mean": sum(finite) / len(finite),
        "sum": sum(finite),
        "count": float(len(finite)),
        "delta": finite[-1] - finite[0],
    }
    return known[calc]
