"""Counts over a ledger: by hand, and whatever the ledger holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldfusion_queue.overview import Bounds, Distribution, LedgerTally
from coldfusion_queue.overview.tally import LedgerCount
from coldfusion_queue.records import Decision, FusedContribution, LedgerEntry, Outcome, Rule
from tests.unit.report.history import History, gate_report

BOUNDS = Bounds(staleness=(0, 1, 2), relative_norm=(0.01, 0.1), cosine=(-0.5, 0, 0.5))


def count(entries: Sequence[LedgerEntry]) -> LedgerTally:
    counted = LedgerCount(BOUNDS)
    for entry in entries:
        counted.add(entry)
    return counted.tally()


def test_a_ledger_is_counted_as_one_counts_by_hand() -> None:
    history = History()
    first = history.contribution("anna")
    history.fuse([first, history.contribution("ben")], gate=gate_report(0.6, 0.5))
    stale = history.contribution("ben", staleness=1)
    history.fuse(
        [stale],
        {"x.t00001": (Rule.COSINE, "away"), "y.t00001": (Rule.COSINE, "away")},
        expired=["z.t00001"],
    )
    withheld = history.withhold([history.contribution("carl")], gate_report(0.1, 0.6))
    history.refuse({"w.t00001": (Rule.GATE, "worse")})
    restored = history.restore(1)

    found = count(history.entries)

    assert found.sequence == 5
    assert {key: number for key, number in found.decisions.items() if number} == {
        ("fused", ""): 3,
        ("refused", "cosine"): 2,
        ("refused", "gate"): 1,
        ("expired", ""): 1,
    }
    assert found.verdicts == {"published": 1, "withheld": 1}
    assert (found.rollbacks, found.overrides) == (1, 0)
    assert found.staleness == Distribution(((0, 2), (1, 3), (2, 3), (math.inf, 3)), 1.0)
    assert found.cosine["refused"].cumulative == ((-0.5, 3), (0, 3), (0.5, 3), (math.inf, 3))
    assert found.cosine["fused"].cumulative[-1] == (math.inf, 0)
    # Two fusions of one coefficient each: half of the first is Anna's.
    assert found.shares == pytest.approx({"anna": 0.25, "ben": 0.75})
    assert found.versions[history.entries[0].after.base.digest] == 0
    assert found.versions[restored.digest] == restored.version == 3
    assert withheld.digest not in found.versions
    assert found.names == {"d" * 32: "anna"}  # Ben came later


def test_two_datasets_of_one_contributor_have_two_names() -> None:
    history = History()
    datasets = ["a" * 32, "b" * 32]
    for dataset in datasets:
        history.fuse([history.contribution("anna", dataset=dataset)])

    assert count(history.entries).names == dict(
        zip(datasets, ["anna", "anna bbbbbbbb"], strict=True)
    )


def test_what_never_happened_is_counted_as_none_at_all() -> None:
    found = count(History().entries)

    refusals = {("refused", rule.value): 0 for rule in Rule}
    assert found.decisions == {("fused", ""): 0, ("expired", ""): 0, **refusals}
    assert found.verdicts == {"published": 0, "withheld": 0}
    assert found.shares == {}


def test_an_override_counts_with_what_it_is_fused_into() -> None:
    history = History()
    base = history.fuse([history.contribution("anna"), history.contribution("ben")])
    line = base.fused[0].model_copy(update={"override": "trusted"})
    published = base.model_copy(update={"fused": (line, base.fused[1])})
    history.entries[-1] = history.entries[-1].model_copy(update={"published": published})

    assert count(history.entries).overrides == 1


def test_only_the_last_sixteen_fusions_tell_who_moves_the_base() -> None:
    history = History()
    history.fuse([history.contribution("early")])
    for _ in range(16):
        history.fuse([history.contribution("late")])
        history.refuse({f"x{len(history.entries)}.t00001": (Rule.FINITE, "nan")})

    assert count(history.entries).shares == {"late": 1.0}


@pytest.mark.parametrize("wrong", [0, 2], ids=["again", "too early"])
def test_an_entry_counts_only_in_its_turn(wrong: int) -> None:
    history = History()
    history.refuse({"x.t00001": (Rule.FILE, "gone")})
    history.refuse({"y.t00001": (Rule.FILE, "gone")})
    counted = LedgerCount(BOUNDS)
    counted.add(history.entries[0])

    with pytest.raises(ValueError, match=f"ledger entry {wrong}, expected 1"):
        counted.add(history.entries[wrong])
    assert counted.tally() == count(history.entries[:1])


# --- whatever the ledger holds --------------------------------------------------------------------

FIRST = History().entries[0]
NUMBERS = st.fixed_dictionaries(
    {},
    optional={
        "staleness": st.integers(0, 5).map(float),
        "relative_norm": st.floats(0, 2),
        "cosine": st.floats(-1, 1),
    },
)


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    outcome = draw(st.sampled_from(Outcome))
    is_refused = outcome is Outcome.REFUSED
    return Decision(
        contribution_id=f"s{draw(st.integers(0, 10**6))}.t00001",
        outcome=outcome,
        reason="why",
        rule=draw(st.sampled_from(Rule)) if is_refused else None,
        sequence=0,
        version=1 if outcome is Outcome.FUSED else None,
        numbers=draw(NUMBERS),
    )


@st.composite
def entries(draw: st.DrawFn, sequence: int) -> LedgerEntry:
    lines = draw(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.01, 1)), max_size=3))
    model = FIRST.after.base.model_copy(
        update={
            "version": sequence,
            "restores": draw(st.sampled_from([None, 0])),
            "fused": tuple(
                FusedContribution(
                    contribution_id="c",
                    contributor_id=name,
                    dataset_id=None,
                    base_version=0,
                    staleness=0,
                    coefficient=coefficient,
                )
                for name, coefficient in lines
            ),
        }
    )
    is_published = draw(st.booleans())
    return FIRST.model_copy(
        update={
            "sequence": sequence,
            "published": model if is_published else None,
            "withheld": None if is_published else draw(st.sampled_from([None, model])),
            "gate": draw(st.sampled_from([None, gate_report(0.5, 0.5)])),
            "decisions": tuple(draw(st.lists(decisions(), max_size=4))),
        }
    )


@st.composite
def ledgers(draw: st.DrawFn) -> list[LedgerEntry]:
    return [FIRST, *(draw(entries(number)) for number in range(1, draw(st.integers(1, 8))))]


@given(ledgers())
def test_each_decision_is_counted_once_with_its_outcome_and_rule(ledger: list[LedgerEntry]) -> None:
    every = [decision for entry in ledger for decision in entry.decisions]

    found = count(ledger)

    expected = Counter((item.outcome.value, item.rule.value if item.rule else "") for item in every)
    assert {key: number for key, number in found.decisions.items() if number} == dict(expected)
    assert sum(found.decisions.values()) == len(every)


@given(ledgers())
def test_distributions_are_those_of_the_numbers_themselves(ledger: list[LedgerEntry]) -> None:
    every = [decision for entry in ledger for decision in entry.decisions]

    def numbers(name: str, outcome: str) -> list[float]:
        return [d.numbers[name] for d in every if d.outcome == outcome and name in d.numbers]

    found = count(ledger)

    pairs = [(found.staleness, numbers("staleness", "fused"))]
    for outcome in ("fused", "refused"):
        pairs.append((found.relative_norm[outcome], numbers("relative_norm", outcome)))
        pairs.append((found.cosine[outcome], numbers("cosine", outcome)))
    for distribution, values in pairs:
        assert distribution.sum == pytest.approx(math.fsum(values))
        for bound, number in distribution.cumulative:
            assert number == sum(value <= bound for value in values)


@given(ledgers())
def test_no_count_ever_falls_as_the_ledger_grows(ledger: list[LedgerEntry]) -> None:
    counted = LedgerCount(BOUNDS)
    seen = []
    for entry in ledger:
        counted.add(entry)
        seen.append(counted.tally())

    for before, after in pairwise(seen):
        assert all(after.decisions[key] >= number for key, number in before.decisions.items())
        assert all(after.verdicts[key] >= number for key, number in before.verdicts.items())
        assert after.rollbacks >= before.rollbacks
        assert after.overrides >= before.overrides
        for one, other in zip(before.staleness.cumulative, after.staleness.cumulative, strict=True):
            assert other[1] >= one[1]
    # What was told once is not changed by what comes: whoever restarts counts the same.
    assert seen == [count(ledger[: number + 1]) for number in range(len(ledger))]


@given(ledgers())
def test_shares_are_of_one_whole(ledger: list[LedgerEntry]) -> None:
    found = count(ledger)

    has_fused = any(entry.published is not None and entry.published.fused for entry in ledger)
    assert math.fsum(found.shares.values()) == pytest.approx(1.0 if has_fused else 0.0)
    assert all(share > 0 for share in found.shares.values())
