"""What a process answers to probes, and when."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from coldfusion_queue.errors import BrokerUnavailableError, NotFoundError
from coldfusion_queue.local.ports import free_port
from coldfusion_queue.settings import Settings
from workers import health as module
from workers.health import Health, pulse_step
from workers.serving import serve


class Dependency:
    """A broker or a store that can be away; it counts how often it was asked."""

    def __init__(self) -> None:
        self.is_away = False
        self.num_asked = 0

    def __call__(self) -> None:
        self.num_asked += 1
        if self.is_away:
            raise BrokerUnavailableError("redis://here", "refused")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Timer:
    """As much of the event loop's timer as a step needs."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def call_repeatedly(self, seconds: float, function: Callable[[], None]) -> Any:
        assert seconds == module.PULSE_SECONDS
        entry = SimpleNamespace(function=function)
        entry.cancel = lambda: self.entries.remove(entry)
        self.entries.append(entry)
        return entry

    def fire(self) -> None:
        for entry in self.entries:
            entry.function()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def broker() -> Dependency:
    return Dependency()


def test_a_process_that_has_not_begun_is_alive_but_neither_started_nor_ready(
    broker: Dependency,
) -> None:
    health = Health(broker, [("broker", broker)])

    assert health.why_not_alive() == []
    assert health.why_not_started() == health.why_not_ready() == ["it has not begun to work yet"]

    health.pulse()
    assert health.why_not_started() == health.why_not_ready() == []


def test_a_loop_that_stands_still_is_not_alive_unless_the_broker_is_away(
    clock: Clock, broker: Dependency
) -> None:
    health = Health(broker, [])
    health.pulse()
    clock.now += 60
    assert health.why_not_alive() == []
    assert broker.num_asked == 0

    clock.now += 1
    assert health.why_not_alive() == ["its loop has stood still for 61 s, and the broker answers"]
    broker.is_away = True
    assert health.why_not_alive() == []
    broker.is_away = False
    health.pulse()
    assert health.why_not_alive() == []


def test_who_is_told_to_stop_lives_and_is_not_ready(clock: Clock, broker: Dependency) -> None:
    health = Health(broker, [("broker", broker)], is_closing=lambda: True)
    health.pulse()
    clock.now += 3600

    assert health.why_not_alive() == []
    assert health.why_not_ready() == ["it is told to stop"]


def test_what_is_missing_is_named_and_asked_for_anew_after_some_seconds(
    clock: Clock, broker: Dependency
) -> None:
    def store() -> None:
        raise NotFoundError("object", "r/repository.json", "run init")

    health = Health(broker, [("broker", broker), ("store", store)])
    health.pulse()
    expected = ["store: object 'r/repository.json' does not exist; run init"]
    assert health.why_not_ready() == expected

    broker.is_away = True
    assert health.why_not_ready() == expected
    assert broker.num_asked == 1
    clock.now += 3.1
    problems = health.why_not_ready()
    assert [problem.partition(":")[0] for problem in problems] == ["broker", "store"]


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_probes_and_metrics_are_served_on_one_port(broker: Dependency, host: str) -> None:
    settings = Settings(metrics_port=free_port(), metrics_host=host)
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc(3)
    health = Health(broker, [("broker", broker)])

    serve(settings, registry, health)

    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.metrics_port}"
    assert get(f"{url}/startupz") == (503, "it has not begun to work yet\n")
    health.pulse()
    assert get(f"{url}/startupz") == get(f"{url}/readyz") == get(f"{url}/livez") == (200, "ok\n")
    assert "things_total 3.0" in get(f"{url}/metrics")[1]
    broker.is_away = True
    health._answer = (float("-inf"), [])
    code, text = get(f"{url}/readyz")
    assert (code, text.startswith("broker: broker redis://here does not answer")) == (503, True)


def test_nothing_is_served_on_port_zero(broker: Dependency) -> None:
    serve(Settings(metrics_port=0), CollectorRegistry(), Health(broker, []))


def test_a_workers_own_loop_shows_that_it_turns_until_its_consumer_stops(
    broker: Dependency,
) -> None:
    health = Health(broker, [])
    consumer = SimpleNamespace(timer=Timer())
    step = pulse_step(health)(consumer)

    step.start(consumer)
    consumer.timer.fire()  # the loop calls its timers, by itself or while the pool ends
    assert health.why_not_started() == []
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(module, "time", clock)
        consumer.timer.fire()
        clock.now += 61
        assert health.why_not_alive() != []
        consumer.timer.fire()
        assert health.why_not_alive() == []

    step.start(consumer)  # after a reconnection: one timer, not two
    assert len(consumer.timer.entries) == 1
    step.stop(consumer)
    assert consumer.timer.entries == []


def test_a_real_loop_pulses_well_within_what_it_may_be_silent_for() -> None:
    assert module.PULSE_SECONDS * 5 < module._MAX_SILENCE_SECONDS
