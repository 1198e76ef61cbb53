from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from coldfusion_queue.records import Contribution, FileRecord, Policy
from coldfusion_queue.repository.inbox import PendingContribution
from coldfusion_queue.repository.selection import expiry, select

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def pending(name: str, *, base_version: int = 5, waited_seconds: float = 0) -> PendingContribution:
    contribution = Contribution(
        contribution_id=name,
        submission_id="s",
        contributor_id="c",
        dataset_id=None,
        turn=1,
        attempt="a",
        base_version=base_version,
        base_digest="0" * 64,
        form="delta",
        shared=FileRecord(key="k", digest="1" * 64, num_bytes=1),
        head=None,
        num_examples=0,
        metrics={},
        created_at=NOW,
        created_by="test",
    )
    return PendingContribution(contribution, NOW - timedelta(seconds=waited_seconds))


def names(contributions: tuple[Contribution, ...]) -> list[str]:
    return [item.contribution_id for item in contributions]


def test_too_few_that_have_not_waited_are_left() -> None:
    selection = select(Policy(min_contributions=3), 5, [pending("a"), pending("b")], NOW)

    assert not selection.is_due
    assert selection.fusable == ()


def test_enough_are_fused_at_once() -> None:
    selection = select(Policy(min_contributions=2), 5, [pending("a"), pending("b")], NOW)

    assert selection.is_due
    assert names(selection.fusable) == ["a", "b"]


@pytest.mark.parametrize(("waited", "is_due"), [(59.9, False), (60.0, True)])
def test_one_alone_is_fused_when_it_has_waited_long_enough(waited: float, is_due: bool) -> None:
    policy = Policy(min_contributions=8, max_wait_seconds=60)

    selection = select(policy, 5, [pending("a", waited_seconds=waited)], NOW)

    assert selection.is_due is is_due
    assert selection.waited_seconds == waited


@pytest.mark.parametrize(("base_version", "expired"), [(2, True), (3, False), (5, False)])
def test_only_more_than_max_staleness_expires(base_version: int, expired: bool) -> None:
    policy = Policy(min_contributions=1, max_staleness=2)

    selection = select(policy, 5, [pending("a", base_version=base_version)], NOW)

    assert names(selection.expired) == (["a"] if expired else [])
    assert names(selection.fusable) == ([] if expired else ["a"])


def test_expired_ones_do_not_count_towards_the_minimum() -> None:
    policy = Policy(min_contributions=2, max_staleness=0, max_wait_seconds=900)

    selection = select(policy, 5, [pending("a", base_version=4), pending("b")], NOW)

    assert names(selection.expired) == ["a"]
    assert selection.fusable == ()
    assert selection.is_due  # there is something to decide


def test_a_stragglers_staleness_is_no_bar_without_a_limit() -> None:
    selection = select(Policy(min_contributions=1), 500, [pending("a", base_version=0)], NOW)

    assert names(selection.fusable) == ["a"]


def test_the_oldest_arrivals_go_first_when_there_are_too_many() -> None:
    policy = Policy(min_contributions=1, max_contributions=2)

    selection = select(policy, 5, [pending("x"), pending("a"), pending("b")], NOW)

    assert names(selection.fusable) == ["x", "a"]


def test_an_expiry_tells_staleness_and_limit() -> None:
    item = pending("a", base_version=1).contribution

    decision = expiry(item, 5, Policy(max_staleness=2), 7)

    assert (decision.sequence, decision.version) == (7, None)
    assert "staleness is 4, expected at most 2" in decision.reason
    assert decision.numbers == {"staleness": 4}
