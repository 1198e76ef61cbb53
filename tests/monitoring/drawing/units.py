"""Numbers with their units, as Grafana writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["KNOWN_UNITS", "scale_of", "written"]

_SHORT = ("", " K", " Mil", " Bil", " Tri")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB")
_SECONDS = (
    (1e-6, "ns", 1e-9),
    (1e-3, "µs", 1e-6),
    (1, "ms", 1e-3),
    (60, "s", 1),
    (3600, "min", 60),
    (86400, "hour", 3600),
    (7 * 86400, "day", 86400),
)
#: What comes after the scaled number, by unit.
_RATES = {
    "ops": "ops/s",
    "reqps": "req/s",
    "cps": "c/s",
    "eps": "ev/s",
    "rps": "rd/s",
    "wps": "wr/s",
}

KNOWN_UNITS = frozenset(
    {"", "none", "short", "percent", "percentunit", "s", "ms", "bytes", "decbytes", "Bps", "binBps"}
    | _RATES.keys()
)


def written(value: float, unit: str = "", decimals: int | None = None) -> str:
    """A number for people.

    Args:
        value: in the unit.
        unit: Grafana's id of it, or ``suffix:TEXT``.
        decimals: digits after the point; None chooses.

    Raises:
        KeyError: a unit that is not known here.
    """
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if unit.startswith("suffix:"):
        return f"{_scaled(value, _SHORT, 1000, decimals)}{unit.removeprefix('suffix:')}"
    if unit not in KNOWN_UNITS:
        raise KeyError(f"unit {unit!r}")
    if unit in ("percent", "percentunit"):
        return f"{_digits(value * (100 if unit == 'percentunit' else 1), decimals)}%"
    if unit in ("s", "ms"):
        return _seconds(value * (1 if unit == "s" else 1e-3), decimals)
    if unit in ("bytes", "binBps", "decbytes", "Bps"):
        return _bytes(value, unit, decimals)
    if unit in ("", "none"):
        return _digits(value, decimals)
    text = _scaled(value, _SHORT, 1000, decimals)
    return f"{text} {_RATES[unit]}" if unit in _RATES else text


def scale_of(value: float, unit: str) -> float:
    """What a value of this size is counted in, so that marks on an axis are round numbers of it."""
    if unit == "s":
        return max(size for limit, _, size in _SECONDS if limit <= 1 or abs(value) >= size)
    base = {"bytes": 1024, "binBps": 1024, "decbytes": 1000, "Bps": 1000}.get(unit)
    if base is None or abs(value) < base:
        return 1
    return float(base ** math.floor(math.log(abs(value), base)))


def _bytes(value: float, unit: str, decimals: int | None) -> str:
    binary = unit in ("bytes", "binBps")
    names, base = (_BINARY, 1024) if binary else (_DECIMAL, 1000)
    text = _scaled(value, [f" {name}" for name in names], base, decimals)
    return f"{text}/s" if unit in ("Bps", "binBps") else text


def _seconds(value: float, decimals: int | None) -> str:
    if value == 0:
        return "0 s"
    for limit, name, size in _SECONDS:
        if abs(value) < limit:
            return f"{_digits(value / size, decimals)} {name}"
    return f"{_digits(value / (7 * 86400), decimals)} week"


def _scaled(value: float, names: Sequence[str], base: int, decimals: int | None) -> str:
    step = 0
    while abs(value) >= base and step < len(names) - 1:
        value /= base
        step += 1
    return f"{_digits(value, decimals)}{names[step]}"


def _digits(value: float, decimals: int | None) -> str:
    """Three significant digits, and no zeros at the end, unless decimals are asked for."""
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(places, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
