"""Alert rules whose hours pass in seconds: every duration divided by one factor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

__all__ = ["quickened", "quickened_expr", "seconds_of", "shortened"]

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_DURATION = r"(?:\d+(?:ms|[smhdwy]))+"
_PART = re.compile(r"(\d+)(ms|[smhdwy])")
# A string, which is left as it is; or the durations of a range, of a subquery and of an offset.
# A range may be a variable of a dashboard.
_PLACES = re.compile(
    rf"""(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`)
    |\[\s*(?P<range>{_DURATION}|\$\w+)\s*(?::\s*(?P<step>{_DURATION})?\s*)?\]
    |\boffset\s+(?P<sign>-?)\s*(?P<offset>{_DURATION})""",
    re.VERBOSE,
)


def seconds_of(duration: str) -> float:
    """Seconds of a duration as Prometheus writes it, such as ``1h30m``."""
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(duration))


def shortened(duration: str, factor: float, least_seconds: float = 0) -> str:
    """A duration divided by a factor.

    Args:
        duration: as Prometheus writes it.
        factor: by which it is shorter.
        least_seconds: how short it may be; a shorter one is left as it is.
    """
    before = seconds_of(duration)
    after = max(before / factor, min(before, least_seconds))
    return f"{round(after * 1000)}ms"


def quickened_expr(expr: str, factor: float, least_seconds: float) -> str:
    """An expression that looks back a shorter time: its ranges, subqueries and offsets.

    Args:
        expr: PromQL, perhaps with variables of Grafana, which are left as they are.
        factor: by which its durations are divided.
        least_seconds: what no range becomes shorter than.
    """

    # Steps, and offsets of a step, stay as long as each other.
    least_step = min(1, least_seconds)

    def short(match: re.Match[str]) -> str:
        if match["string"]:
            return match[0]
        if match["offset"]:
            return f"offset {match['sign']}{shortened(match['offset'], factor, least_step)}"
        length = match["range"]
        if not length.startswith("$"):
            length = shortened(length, factor, least_seconds)
        if ":" not in match[0]:
            return f"[{length}]"
        step = shortened(match["step"], factor, least_step) if match["step"] else ""
        return f"[{length}:{step}]"

    return _PLACES.sub(short, expr)


def quickened(
    rules: str,
    factor: float,
    least_seconds: float,
    rewritten: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """A file of rules in which everything takes a shorter time.

    Args:
        rules: YAML, as in ``helm/coldfusion/files/rules.yaml``.
        factor: by which its durations are divided.
        least_seconds: what no range becomes shorter than, so that it holds a few samples.
        rewritten: what is written otherwise before that, by the alert: its ``for``, or parts of
            its expression, and what stands for them.

    Raises:
        AssertionError: an alert, or a part of its expression, is not there.
    """
    data = yaml.safe_load(rules)
    parts = dict(rewritten or {})
    for group in data["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            _quicken(rule, factor, least_seconds, parts.pop(rule.get("alert"), {}))
    assert not parts, f"no such alerts: {sorted(parts)}"
    return str(yaml.safe_dump(data, sort_keys=False, width=1000))


def _quicken(
    rule: dict[str, Any], factor: float, least_seconds: float, parts: Mapping[str, str]
) -> None:
    for before, after in parts.items():
        place = "for" if before == rule.get("for") else "expr"
        assert before in rule[place], f"{rule['alert']}: {before!r} is not in it"
        rule[place] = rule[place].replace(before, after)
    rule["expr"] = quickened_expr(rule["expr"], factor, least_seconds)
    if "for" in rule:
        rule["for"] = shortened(rule["for"], factor)
