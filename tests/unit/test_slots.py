"""Two processes and one device: who has it, and when a worker takes its next turn."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from coldfusion_queue.queue.slots import Slot, Slots

AHEAD_SECONDS = 30.0


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path, 2, AHEAD_SECONDS)


class Watch:
    """Who is told what a turn does with the device."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.counted: list[float] = []

    def taken(self) -> None:
        self.told.append("taken")

    def was_busy(self, seconds: float) -> None:
        self.told.append("busy")
        self.counted.append(seconds)

    def left(self) -> None:
        self.told.append("left")


@contextmanager
def in_another_process(slots: Slots, seconds_left: float | None = None) -> Iterator[int]:
    """A process, of number 1, that has the device until it is killed; its pid."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        slot = Slot(slots, 1)
        with slot.turn("theirs"):
            taken = slot.take()
            if seconds_left is not None:
                slot.tell(seconds_left)
            os.write(writing, b"1" if taken else b"0")
            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"1"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


# --- the device ---------------------------------------------------------------------------------


def test_the_device_is_one_turns_until_it_gives_it_up(slots: Slots) -> None:
    first, second = Slot(slots, 0), Slot(slots, 1)
    with first.turn("a"), second.turn("b"):
        assert first.take()
        assert first.take()
        assert not second.take()

        first.give_up()

        assert second.take()
        assert (first.is_held, second.is_held) == (False, True)


def test_a_turn_that_ends_in_any_way_leaves_the_device(slots: Slots) -> None:
    first, second = Slot(slots, 0), Slot(slots, 1)

    def break_off() -> None:
        with first.turn("a"):
            first.take()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        break_off()

    assert second.take()


def test_a_process_that_is_killed_leaves_the_device(slots: Slots) -> None:
    slot = Slot(slots, 0)
    with in_another_process(slots):
        assert not slot.take()

    assert slot.take()


def test_a_turn_that_the_other_process_is_at_is_not_ours(slots: Slots) -> None:
    slot = Slot(slots, 0)
    with in_another_process(slots):
        with slot.turn("theirs") as is_ours:
            assert not is_ours
        with slot.turn("another") as is_ours:
            assert is_ours

    with slot.turn("theirs") as is_ours:
        assert is_ours


def test_what_is_claimed_leaves_no_file(slots: Slots) -> None:
    with Slot(slots, 0).turn("a"):
        assert list(slots.directory.iterdir())

    assert list(slots.directory.iterdir()) == []


def test_a_wait_is_in_vain_after_twice_the_time_and_each_turn_counts_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("coldfusion_queue.queue.slots.time", clock)
    slots = Slots(tmp_path, 2, 1.0)
    slot, other = Slot(slots, 0), Slot(slots, 1)
    with other.turn("other"):
        assert other.take()
        with slot.turn("first"):
            assert (slot.is_in_vain(), slot.take()) == (False, False)
            now = 101.9
            assert (slot.take(), slot.is_in_vain()) == (False, False)
            now = 102.1
            assert slot.is_in_vain()

        with slot.turn("second"):
            assert (slot.take(), slot.is_in_vain()) == (False, False)
            now = 104.2
            assert slot.is_in_vain()


def test_the_time_for_which_the_device_is_held_is_counted_once(slots: Slots) -> None:
    watch = Watch()
    slot = Slot(slots, 0)
    began = time.monotonic()
    with slot.turn("a", watch):
        slot.take()
        slot.tell(1.0)
        slot.give_up()
        slot.give_up()

    assert len(watch.counted) == 2
    assert 0 < sum(watch.counted) <= time.monotonic() - began
    assert watch.told == ["taken", "busy", "busy", "left"]


def test_the_device_is_idle_whenever_no_turn_has_it(slots: Slots) -> None:
    began = time.monotonic()
    watch, slot = Watch(), Slot(slots, 0)
    time.sleep(0.05)
    for _ in range(2):
        with slot.turn("a", watch):
            slot.take()
            before = slots.device_time.idle_seconds()
            time.sleep(0.05)
            assert slots.device_time.idle_seconds() == before
            slot.tell(1.0)
        time.sleep(0.05)

    both = slots.device_time.idle_seconds() + sum(watch.counted)
    assert both == pytest.approx(time.monotonic() - began, abs=0.02)
    assert slots.device_time.idle_seconds() >= 0.15


def test_the_device_is_idle_from_when_a_process_that_dies_with_it_counted_last(
    slots: Slots,
) -> None:
    with in_another_process(slots, AHEAD_SECONDS):
        before = slots.device_time.idle_seconds()
        time.sleep(0.05)
        assert slots.device_time.idle_seconds() == before
    time.sleep(0.05)
    after = slots.device_time.idle_seconds()
    assert after >= before + 0.1  # what it had not counted was of no use

    # Whoever takes it next finds that it was left to nobody.
    slot = Slot(slots, 0)
    with slot.turn("a"):
        slot.take()
        assert after <= slots.device_time.idle_seconds() <= after + 0.05


def test_what_the_device_was_idle_never_gets_less(slots: Slots) -> None:
    """Read as often as it goes, while another process takes it and gives it up."""
    pid = os.fork()
    if pid == 0:
        slot = Slot(slots, 1)
        while True:
            with slot.turn("theirs"):
                slot.take()
    try:
        began, idle = time.monotonic(), [slots.device_time.idle_seconds()]
        while time.monotonic() < began + 0.5:
            idle.append(slots.device_time.idle_seconds())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    assert idle == sorted(idle)
    assert idle[-1] - idle[0] <= 0.55


def test_a_process_that_shares_nothing_has_its_device() -> None:
    slot = Slot()
    with slot.turn("a") as is_ours:
        assert is_ours
        assert slot.take()
        slot.tell(1.0)
        assert not slot.is_in_vain()

    assert not slot.is_held


# --- taking the next turn -----------------------------------------------------------------------


def test_an_idle_worker_takes_a_turn_and_not_two_at_once(slots: Slots) -> None:
    assert slots.wants_another(0)
    assert not slots.wants_another(1)  # it has not begun yet


@pytest.mark.parametrize(
    ("seconds_left", "wanted"),
    [
        pytest.param(None, False, id="nobody-knows"),
        pytest.param(AHEAD_SECONDS + 5, False, id="far-from-its-end"),
        pytest.param(AHEAD_SECONDS - 5, True, id="near-its-end"),
        pytest.param(-AHEAD_SECONDS + 5, True, id="a-little-late"),
        pytest.param(-AHEAD_SECONDS - 5, False, id="not-to-be-believed"),
    ],
)
def test_a_training_worker_takes_another_turn_near_its_end(
    seconds_left: float | None, wanted: bool, slots: Slots
) -> None:
    with in_another_process(slots, seconds_left):
        assert slots.wants_another(1) == wanted
        assert not slots.wants_another(2)
        # Celery forgets what it has in hand when its connection breaks.
        assert slots.wants_another(0) == wanted


def test_a_worker_that_uploads_takes_a_turn_to_train(slots: Slots) -> None:
    slot = Slot(slots, 0)
    with slot.turn("a"):
        assert not slots.wants_another(1)
        slot.take()
        slot.give_up()

        assert slots.wants_another(1)
        with Slot(slots, 1).turn("b"):
            assert not slots.wants_another(2)

    assert slots.wants_another(0)


def test_a_process_that_replaces_a_dead_one_is_idle(slots: Slots) -> None:
    with in_another_process(slots, AHEAD_SECONDS * 10):
        pass
    assert not slots.wants_another(0)

    Slot(slots, 1)

    assert slots.wants_another(0)
