"""How a fusion's wall time is divided into phases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coldfusion_queue.repository import meter as module
from coldfusion_queue.repository.meter import FusionMeter, Phase


class Clock:
    """Tells a time that only tests advance."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def nonzero(meter: FusionMeter) -> dict[str, float]:
    return {phase.value: value for phase, value in meter.seconds().items() if value}


def test_a_phase_within_another_is_not_counted_twice(clock: Clock) -> None:
    meter = FusionMeter()
    clock.now += 1
    with meter.during(Phase.WRITE):
        clock.now += 2
        with meter.during(Phase.READ):
            clock.now += 4
        clock.now += 8
    clock.now += 16
    meter.enter(Phase.PUBLISH)
    clock.now += 32

    assert nonzero(meter) == {"admit": 17, "write": 10, "read": 4, "publish": 32}


def test_an_error_ends_its_phase(clock: Clock) -> None:
    def fail() -> None:
        with meter.during(Phase.COMPUTE):
            clock.now += 1
            raise ValueError

    meter = FusionMeter()
    with pytest.raises(ValueError, match=r"^$"):
        fail()
    clock.now += 2

    assert nonzero(meter) == {"compute": 1, "admit": 2}


def test_what_an_iterator_makes_is_apart_from_what_is_done_with_it(clock: Clock) -> None:
    def parts() -> Iterator[int]:
        for number in range(3):
            clock.now += 1
            with meter.during(Phase.READ):
                clock.now += 10
            yield number
        clock.now += 1

    meter = FusionMeter()
    taken = []
    with meter.during(Phase.WRITE):
        for part in meter.each(Phase.COMPUTE, parts()):
            clock.now += 100
            taken.append(part)

    assert taken == [0, 1, 2]
    assert nonzero(meter) == {"compute": 4, "read": 30, "write": 300}


def test_seconds_may_be_asked_for_while_it_runs(clock: Clock) -> None:
    meter = FusionMeter()
    clock.now += 1
    assert nonzero(meter) == {"admit": 1}
    clock.now += 1
    assert nonzero(meter) == {"admit": 2}
