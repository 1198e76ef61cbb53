from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldfusion_queue.records import (
    BaseVersion,
    Contribution,
    FileRecord,
    FusedContribution,
    LedgerEntry,
    Policy,
    State,
)
from coldfusion_queue.repository.inbox import PendingContribution
from coldfusion_queue.repository.ledger import Ledger
from coldfusion_queue.repository.selection import Selection, expiry, recently_served, select

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def pending(
    name: str, contributor: str = "c", *, base_version: int = 5, waited_seconds: float = 0
) -> PendingContribution:
    contribution = Contribution(
        contribution_id=name,
        submission_id="s",
        contributor_id=contributor,
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

    waiting = [
        pending("a", "A", waited_seconds=1),
        pending("x", "X", waited_seconds=3),
        pending("b", "B", waited_seconds=2),
    ]
    selection = select(policy, 5, waiting, NOW)

    assert names(selection.fusable) == ["x", "b"]


def test_an_expiry_tells_staleness_and_limit() -> None:
    item = pending("a", base_version=1).contribution

    decision = expiry(item, 5, Policy(max_staleness=2), 7)

    assert (decision.sequence, decision.version) == (7, None)
    assert "staleness is 4, expected at most 2" in decision.reason
    assert decision.numbers == {"staleness": 4}


# --- fairness ---------------------------------------------------------------------------------


def test_everybodys_first_goes_before_anybodys_second() -> None:
    waiting = [
        pending("fast-1", "fast", waited_seconds=9),
        pending("fast-2", "fast", waited_seconds=8),
        pending("fast-3", "fast", waited_seconds=7),
        pending("slow-1", "slow", waited_seconds=2),
        pending("slow-2", "slow", waited_seconds=1),
    ]

    selection = select(Policy(min_contributions=1, max_contributions=4), 5, waiting, NOW)

    assert names(selection.fusable) == ["fast-1", "slow-1", "fast-2", "slow-2"]
    assert selection.waited_seconds == 9


def test_the_wait_that_counts_is_the_oldest_arrivals_whoever_goes_first() -> None:
    waiting = [pending("new", "a", waited_seconds=1), pending("old", "b", waited_seconds=70)]

    selection = select(
        Policy(min_contributions=1, max_contributions=1), 5, waiting, NOW, {"a": 1, "b": 4}
    )

    assert names(selection.fusable) == ["new"]
    assert selection.waited_seconds == 70


SOMETHING_PENDING = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.integers(0, 8), st.integers(0, 6)), max_size=40
).map(
    lambda rows: [
        pending(f"{number:03}", who, base_version=base, waited_seconds=waited)
        for number, (who, waited, base) in enumerate(rows)
    ]
)
SERVED = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 5))


@given(SOMETHING_PENDING, st.integers(1, 20), SERVED)
def test_each_contributor_gets_its_share_of_the_places(
    waiting: list[PendingContribution], places: int, served: dict[str, int]
) -> None:
    policy = Policy(min_contributions=1, max_contributions=places)

    selection = select(policy, 6, waiting, NOW, served)

    has = Counter(item.contribution.contributor_id for item in waiting)
    gets = Counter(item.contributor_id for item in selection.fusable)
    assert gets.total() == min(places, len(waiting))
    for name, count in has.items():
        assert gets[name] >= min(count, places // len(has))
        assert gets[name] >= min(count, max(gets.values()) - 1)  # max-min fair
        own = [item for item in waiting if item.contribution.contributor_id == name]
        own.sort(key=lambda item: (item.arrived_at, item.contribution.contribution_id))
        chosen = {item.contribution_id for item in selection.fusable if item.contributor_id == name}
        assert chosen == {item.contribution.contribution_id for item in own[: gets[name]]}


@given(st.data(), SOMETHING_PENDING, st.integers(1, 20), SERVED, st.none() | st.integers(0, 6))
def test_the_order_of_what_is_pending_does_not_matter(
    data: st.DataObject,
    waiting: list[PendingContribution],
    places: int,
    served: dict[str, int],
    limit: int | None,
) -> None:
    policy = Policy(min_contributions=1, max_contributions=places, max_staleness=limit)
    other = data.draw(st.permutations(waiting))

    assert select(policy, 6, waiting, NOW, served) == select(policy, 6, other, NOW, served)


class Simulation:
    """Fusions one after the other, with the real selection and a ledger in memory."""

    def __init__(self, places: int) -> None:
        self.policy = Policy(min_contributions=1, max_contributions=places)
        self.entries = [self.entry(0, ())]
        self.pending: list[PendingContribution] = []
        self.count = 0

    @property
    def version(self) -> int:
        return len(self.entries) - 1

    def add(self, contributor: str, number: int = 1) -> None:
        for _ in range(number):
            self.count += 1
            item = pending(f"{self.count:06}", contributor, base_version=self.version)
            arrived_at = NOW + timedelta(seconds=self.count)
            self.pending.append(PendingContribution(item.contribution, arrived_at))

    def fuse(self) -> list[str]:
        """Whose contributions were fused."""
        ledger = cast("Ledger", type("Entries", (), {"entry": self.entries.__getitem__}))
        served = recently_served(ledger, self.entries[-1], self.pending)
        chosen = self.select(served).fusable
        self.entries.append(self.entry(self.version + 1, chosen))
        done = {item.contribution_id for item in chosen}
        self.pending = [p for p in self.pending if p.contribution.contribution_id not in done]
        return [item.contributor_id for item in chosen]

    def select(self, served: Mapping[str, int]) -> Selection:
        return select(self.policy, self.version, self.pending, NOW, served)

    def entry(self, version: int, chosen: tuple[Contribution, ...]) -> LedgerEntry:
        fused = tuple(
            FusedContribution(
                contribution_id=item.contribution_id,
                contributor_id=item.contributor_id,
                dataset_id=None,
                base_version=item.base_version,
                staleness=version - 1 - item.base_version,
                coefficient=1.0,
            )
            for item in chosen
        )
        base = BaseVersion(
            version=version,
            prefix="p/",
            files={},
            parent=version - 1 if version else None,
            method="mean",
            server_learning_rate=1.0,
            fused=fused,
        )
        return LedgerEntry(
            sequence=version,
            token="t",
            created_at=NOW,
            actor="test",
            published=base,
            decisions=(),
            policy=None,
            note="",
            after=State(base=base, policy=self.policy),
        )


def test_a_flood_does_not_hold_up_a_slow_contributor() -> None:
    world = Simulation(places=4)
    for turn in range(50):
        world.add("fast", 10)
        if turn % 7 == 0:
            world.add("slow")
        fused = world.fuse()
        assert fused.count("slow") == (1 if turn % 7 == 0 else 0)
        assert len(fused) == 4


@pytest.mark.parametrize(("num_contributors", "places"), [(7, 2), (5, 1), (9, 4), (64, 64)])
def test_with_fewer_places_than_contributors_they_take_turns(
    num_contributors: int, places: int
) -> None:
    names = [f"{number:02}" for number in range(num_contributors)]
    world = Simulation(places)
    last = dict.fromkeys(names, 0)
    for number, name in enumerate(names):
        world.add(name, 100 - number)  # the first have a large and old backlog, the last a small

    longest = 0
    for fusion in range(1, 30):
        for name in world.fuse():
            longest = max(longest, fusion - last[name])
            last[name] = fusion
    waiting = max(30 - fusion for fusion in last.values())

    assert max(longest, waiting) <= -(-num_contributors // places)


def test_the_ledger_is_not_read_while_there_is_a_place_for_everybody() -> None:
    world = Simulation(places=2)
    world.add("a", 5)
    world.add("b", 5)
    world.fuse()
    no_ledger = cast("Ledger", None)

    assert recently_served(no_ledger, world.entries[-1], world.pending) == {}
