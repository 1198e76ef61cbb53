"""How KEDA and the HPA decide on the number of replicas, by the objects that the chart renders.

Written from what their documentation says. Time is a clock's that tests move; what is counted is
counted on a real broker, with the script by which KEDA's scaler of Redis counts.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from tests.chart.rendering import Object

__all__ = ["SYNC_SECONDS", "Autoscaler", "Clock", "Hpa", "evaluate", "work_of"]

#: Between two looks of the HPA, and how far off it lets a number be, by default.
SYNC_SECONDS = 15
_TOLERANCE = 0.1

#: Number of the elements of a key, whatever its type.
_LENGTH = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'hash' then return redis.call('HLEN', KEYS[1]) end
if kind == 'zset' then return redis.call('ZCARD', KEYS[1]) end
if kind == 'set' then return redis.call('SCARD', KEYS[1]) end
return redis.call('LLEN', KEYS[1])
"""


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def work_of(scaled: Object, client: redis.Redis) -> float:
    """What the formula of a ScaledObject makes of the lengths of its triggers' keys."""
    triggers = {item["name"]: item["metadata"]["listName"] for item in scaled["spec"]["triggers"]}
    lengths = {name: float(client.eval(_LENGTH, 1, key)) for name, key in triggers.items()}
    return evaluate(scaled["spec"]["advanced"]["scalingModifiers"]["formula"], lengths)


def evaluate(formula: str, values: Mapping[str, float]) -> float:
    """The value of a formula of names, numbers, ``+``, ``-``, ``*`` and ``ceil``."""

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name):
                return values[name]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return value(left) - value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return value(left) * value(right)
            case ast.Call(func=ast.Name(id="ceil"), args=[argument], keywords=[]):
                return float(math.ceil(value(argument)))
        raise ValueError(f"{formula!r} has more in it than is known here: {ast.dump(node)}")

    return value(ast.parse(formula, mode="eval").body)


@dataclass
class Hpa:
    """From one replica on: what a HorizontalPodAutoscaler asks for by an ``AverageValue``."""

    clock: Clock
    behavior: Mapping[str, Any]
    minimum: int
    maximum: int
    target: float
    _wanted: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def look(self, replicas: int, value: float) -> int:
        """The number of replicas from now on."""
        if replicas == 0:  # it leaves that to whoever did it
            return 0
        wanted = self._stabilised(replicas, self._desired(replicas, value))
        allowed = self._limited(replicas, min(max(wanted, self.minimum), self.maximum))
        if allowed != replicas:
            self._changes.append((self.clock.now, allowed - replicas))
        return allowed

    def _desired(self, replicas: int, value: float) -> int:
        if abs(1 - value / (self.target * replicas)) <= _TOLERANCE:
            return replicas
        return math.ceil(value / self.target)

    def _stabilised(self, replicas: int, desired: int) -> int:
        """Up to the least, or down to the most, that was wanted at any time within the window."""
        self._wanted = self._wanted or [(self.clock.now, replicas)]
        up = min([desired, *self._since(self._window("scaleUp", 0))])
        down = max([desired, *self._since(self._window("scaleDown", 300))])
        self._wanted.append((self.clock.now, desired))
        return min(max(replicas, up), down)

    def _window(self, direction: str, default: int) -> float:
        seconds: float = self.behavior[direction].get("stabilizationWindowSeconds", default)
        return seconds

    def _since(self, window: float) -> list[int]:
        return [wanted for at, wanted in self._wanted if at > self.clock.now - window]

    def _limited(self, replicas: int, wanted: int) -> int:
        direction = "scaleUp" if wanted > replicas else "scaleDown"
        rules = self.behavior[direction]
        if wanted == replicas or rules.get("selectPolicy") == "Disabled":
            return replicas
        sign = 1 if wanted > replicas else -1
        assert rules.get("selectPolicy", "Max") == "Max"
        steps = []
        for policy in rules["policies"]:
            assert policy["type"] == "Pods"
            begin = self.clock.now - policy["periodSeconds"]
            done = sum(change for at, change in self._changes if at > begin and change * sign > 0)
            steps.append(max(0, policy["value"] - sign * done))
        return replicas + sign * min(abs(wanted - replicas), max(steps))


class Autoscaler:
    """KEDA, from zero to one and back, and the HPA that it makes, of one ScaledObject.

    Args:
        scaled: the object; a test may have changed it.
        client: connected as KEDA is.
        clock: of the test.
    """

    def __init__(self, scaled: Object, client: redis.Redis, clock: Clock) -> None:
        self._spec = scaled["spec"]
        self._scaled, self._client, self._clock = scaled, client, clock
        modifiers = self._spec["advanced"]["scalingModifiers"]
        assert modifiers["metricType"] == "AverageValue"
        self._activation = float(modifiers["activationTarget"])
        self._minimum = self._spec["minReplicaCount"]
        self._hpa = Hpa(
            clock,
            self._spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
            max(1, self._minimum),
            self._spec["maxReplicaCount"],
            float(modifiers["target"]),
        )
        self._last_active: float | None = None
        self._keda_at = self._hpa_at = clock.now

    def look(self, replicas: int) -> int:
        """The number of replicas from now on, if it is time to look."""
        if self._clock.now >= self._keda_at:
            self._keda_at = self._clock.now + self._spec["pollingInterval"]
            replicas = self._activated(replicas)
        if self._clock.now >= self._hpa_at:
            self._hpa_at = self._clock.now + SYNC_SECONDS
            replicas = self._hpa.look(replicas, work_of(self._scaled, self._client))
        return replicas

    def _activated(self, replicas: int) -> int:
        if work_of(self._scaled, self._client) > self._activation:
            self._last_active = self._clock.now
            return replicas or max(1, self._minimum)
        if replicas < self._minimum:
            return int(self._minimum)
        if replicas == 0 or self._minimum > 0:
            return replicas
        cooldown = self._spec["cooldownPeriod"]
        is_over = self._last_active is None or self._last_active + cooldown < self._clock.now
        return 0 if is_over else replicas
