from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import time_machine
from urllib3 import HTTPResponse

from coldfusion_queue.store.clock import StoreClock

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def answer(status: int, date: str | datetime | None) -> HTTPResponse:
    text = format_datetime(date, usegmt=True) if isinstance(date, datetime) else date
    return HTTPResponse(status=status, headers={} if text is None else {"Date": text})


@time_machine.travel(NOW, tick=False)
@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_refusal_of_another_time_is_sent_again_with_it(status: int, hours: int) -> None:
    clock = StoreClock()
    signed: list[datetime] = []

    def request() -> HTTPResponse:
        signed.append(clock.now())
        return answer(status if len(signed) == 1 else 200, NOW + hours * HOUR)

    assert clock.send(request).status == 200
    assert signed == [NOW, NOW + hours * HOUR]


@time_machine.travel(NOW, tick=False)
@pytest.mark.parametrize(
    ("status", "date"),
    [
        pytest.param(200, NOW + HOUR, id="not refused"),
        pytest.param(404, NOW + HOUR, id="not there"),
        pytest.param(403, NOW + timedelta(seconds=60), id="about the same time"),
        pytest.param(403, None, id="no date"),
        pytest.param(403, "yesterday", id="unreadable date"),
        pytest.param(403, "Sun, 22 Nov 2026 13:00:00 -0000", id="date without a zone"),
    ],
)
def test_any_other_answer_is_the_answer(status: int, date: str | datetime | None) -> None:
    clock = StoreClock()
    answers = [answer(status, date)]

    assert clock.send(lambda: answers.pop()).status == status
    assert clock.now() == NOW


@time_machine.travel(NOW, tick=False)
def test_a_store_that_goes_on_refusing_is_asked_twice() -> None:
    answers = [answer(403, NOW + HOUR) for _ in range(3)]

    assert StoreClock().send(lambda: answers.pop()).status == 403
    assert len(answers) == 1


@time_machine.travel(NOW, tick=False)
def test_a_request_that_was_signed_before_another_thread_learnt_is_sent_again() -> None:
    clock = StoreClock()
    answers = [answer(200, NOW + HOUR), answer(403, NOW + HOUR)]

    def request() -> HTTPResponse:
        clock.was_wrong(answer(403, NOW + HOUR), timedelta(0))  # meanwhile, elsewhere
        return answers.pop()

    assert clock.send(request).status == 200


def test_a_clock_that_was_put_right_is_believed_again() -> None:
    clock = StoreClock()
    with time_machine.travel(NOW, tick=False) as traveller:
        clock.was_wrong(answer(403, NOW + HOUR), clock.ahead)
        traveller.shift(HOUR)
        assert clock.was_wrong(answer(403, NOW + HOUR), clock.ahead)
        assert (clock.ahead, clock.now()) == (timedelta(0), NOW + HOUR)
