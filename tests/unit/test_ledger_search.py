from __future__ import annotations

import math

import pytest

from coldfusion_queue.repository.ledger import last_existing


@pytest.mark.parametrize("last", [0, 1, 2, 3, 7, 8, 9, 100, 1023, 1024, 10_000])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_finds_the_last_number_from_any_hint(last: int, share: float) -> None:
    hint = int(last * share)

    assert last_existing(lambda number: number <= last, hint) == last


def test_asks_a_number_of_times_that_follows_the_logarithm() -> None:
    asked: list[int] = []

    def exists(number: int) -> bool:
        asked.append(number)
        return number <= 10_000

    last_existing(exists, 0)

    assert len(asked) <= 2 * math.log2(10_000) + 2


def test_a_right_hint_costs_one_question() -> None:
    asked: list[int] = []

    def exists(number: int) -> bool:
        asked.append(number)
        return number <= 500

    assert last_existing(exists, 500) == 500
    assert asked == [501]
