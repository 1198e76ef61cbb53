"""When a finetune worker waits for a message: what it asks before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis

from coldfusion_queue.queue import taking
from coldfusion_queue.queue.slots import Slot, Slots
from coldfusion_queue.queue.taking import taking_step


class Channel:
    """As much of the broker library's channel as is asked."""

    def __init__(self) -> None:
        self.is_free = True
        self.num_waiting = 1
        self.qos = SimpleNamespace(can_consume=lambda: self.is_free)
        self._in_poll: object = None

    def _size(self, queue: str) -> int:
        assert queue == "finetune"
        if self.num_waiting < 0:
            raise redis.ConnectionError("gone")
        return self.num_waiting


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path, 2, 30.0)


@pytest.fixture
def reserved(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The messages that the worker has."""
    messages: list[object] = []
    monkeypatch.setattr(taking, "state", SimpleNamespace(reserved_requests=messages))
    return messages


@pytest.fixture
def can_consume(channel: Channel, slots: Slots, reserved: list[object]) -> Callable[[], bool]:
    step = taking_step(slots, "finetune").__new__(taking_step(slots, "finetune"))
    step.start(SimpleNamespace(task_consumer=SimpleNamespace(channel=channel)))
    return lambda: bool(channel.qos.can_consume())


def test_an_idle_worker_waits_for_a_message_whether_there_is_one_or_not(
    channel: Channel, can_consume: Callable[[], bool]
) -> None:
    channel.num_waiting = 0
    assert can_consume()

    channel.is_free = False
    assert not can_consume()


def test_a_worker_that_has_a_turn_takes_only_what_no_idle_worker_waits_for(
    channel: Channel, slots: Slots, reserved: list[object], can_consume: Callable[[], bool]
) -> None:
    reserved.append("a")
    slot = Slot(slots, 0)
    with slot.turn("a"):
        assert not can_consume()
        slot.take()
        slot.tell(5.0)

        assert can_consume()
        for num_waiting in (0, -1):
            channel.num_waiting = num_waiting
            assert not can_consume()


def test_a_message_that_was_asked_for_is_read_whatever_happened_since(
    channel: Channel, reserved: list[object], can_consume: Callable[[], bool]
) -> None:
    reserved.append("a")
    channel.num_waiting = 0
    assert not can_consume()

    channel._in_poll = object()

    assert can_consume()
