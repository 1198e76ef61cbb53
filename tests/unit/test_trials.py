"""Trials as a function of the ledger: simulated from the first withheld batch to the last entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldfusion_queue.records import (
    BaseVersion,
    Candidate,
    Decision,
    FusedContribution,
    GateReport,
    LedgerEntry,
    Outcome,
    Policy,
    State,
)
from coldfusion_queue.repository.trials import conclude, next_suspect, tried_without

NOW = datetime(2022, 12, 1, tzinfo=UTC)
REFERENCE, TOLERANCE = 0.5, 0.01


def version(number: int, fused: Sequence[str] = ()) -> BaseVersion:
    lines = tuple(
        FusedContribution(
            contribution_id=name,
            contributor_id=name,
            dataset_id=None,
            base_version=0,
            staleness=0,
            coefficient=1 / len(fused),
        )
        for name in fused
    )
    return BaseVersion(
        version=number,
        prefix=f"r/base/{number}/",
        files={},
        parent=number - 1 if number else None,
        method="mean",
        server_learning_rate=1.0,
        fused=lines,
    )


def entry(sequence: int, after: State, **fields: object) -> LedgerEntry:
    data = {
        "sequence": sequence,
        "token": str(sequence),
        "created_at": NOW,
        "actor": "test",
        "published": None,
        "decisions": (),
        "policy": None,
        "note": "",
        "after": after,
    }
    return LedgerEntry.model_construct(**{**data, **fields})


def candidate(newest: LedgerEntry, names: Sequence[str], suspect: str | None) -> Candidate:
    model, sequence = version(1, names), newest.sequence + 1
    decisions = tuple(
        Decision(
            contribution_id=name,
            outcome=Outcome.FUSED,
            reason="fused",
            sequence=sequence,
            version=1,
        )
        for name in names
    )
    after = State(base=model, policy=newest.after.policy)
    publishing = entry(sequence, after, published=model, decisions=decisions)
    return Candidate.model_construct(entry=publishing, suspects=tuple(names), suspect=suspect)


def report(mean: float) -> GateReport:
    return GateReport(
        scores={"d": mean},
        reference={"d": REFERENCE},
        mean=mean,
        reference_mean=REFERENCE,
        best_mean=REFERENCE,
        best_version=0,
        floor=REFERENCE - TOLERANCE,
    )


def run(harms: Mapping[str, float], policy: Policy) -> list[LedgerEntry]:
    """Fuse a batch until it is decided; a model's score is the mean of what each does to it."""
    entries = [entry(0, State(base=version(0), policy=policy))]
    names: list[str] = list(harms)
    suspect = None
    while True:
        newest = entries[-1]
        trial = newest.after.trial
        if trial is not None:
            suspect = next_suspect(trial, policy)
            names = tried_without(trial, suspect)
        mean = REFERENCE + sum(harms[name] for name in names) / len(names)
        entries.append(conclude(newest, candidate(newest, names, suspect), report(mean)))
        if entries[-1].after.trial is None:
            return entries[1:]


def outcomes(entries: Sequence[LedgerEntry]) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    for item in (decision for each in entries for decision in each.decisions):
        assert item.contribution_id not in found, "decided twice"
        found[item.contribution_id] = item.outcome
    return found


@settings(deadline=None)
@given(
    st.lists(st.floats(-0.5, 0.1), min_size=1, max_size=8),
    st.integers(1, 20),
)
def test_every_batch_is_decided_once_and_within_the_limit(
    harms: Sequence[float], max_trials: int
) -> None:
    batch = {f"c{index}": harm for index, harm in enumerate(harms)}

    entries = run(batch, Policy(gate_max_trials=max_trials))

    assert outcomes(entries).keys() == batch.keys()
    # The batch itself, the trials, and the best of them once more for each round that ends so.
    assert len(entries) <= 1 + max_trials + 1
    published = entries[-1].published
    if published is not None:
        kept = [line.contribution_id for line in published.fused]
        mean = sum(batch[name] for name in kept) / len(kept)
        assert mean >= -TOLERANCE - 1e-12
    else:
        assert set(outcomes(entries).values()) == {Outcome.REFUSED}


@settings(deadline=None)
@given(
    st.integers(3, 8),
    st.sets(st.integers(0, 7), min_size=1, max_size=2),
)
def test_with_trials_to_spare_those_at_fault_are_refused_and_nobody_else(
    size: int, culprits: set[int]
) -> None:
    harms = {f"c{index}": -0.4 if index in culprits else 0.02 for index in range(size)}
    bad = {name for name, harm in harms.items() if harm < 0}
    if not bad:
        return

    found = outcomes(run(harms, Policy(gate_max_trials=100)))

    assert {name for name, outcome in found.items() if outcome is Outcome.REFUSED} == bad


def test_if_nothing_gives_back_all_that_was_lost_the_best_that_passes_is_published() -> None:
    # Without any one of them the model is a little worse than before; least without c1.
    harms = {"c0": -0.005, "c1": -0.03, "c2": -0.009, "c3": -0.008}

    entries = run(harms, Policy(gate_max_trials=10))

    assert [each.withheld is not None for each in entries] == [True] * 5 + [False]
    found = outcomes(entries)
    assert [name for name, outcome in found.items() if outcome is Outcome.REFUSED] == ["c1"]


def test_one_that_is_clearly_at_fault_ends_the_trial_early() -> None:
    entries = run({"c0": -0.4, "c1": 0.02, "c2": 0.02}, Policy())

    assert [each.withheld is not None for each in entries] == [True, False]


def test_the_same_report_gives_the_same_bits() -> None:
    newest = entry(0, State(base=version(0), policy=Policy()))
    one = candidate(newest, ["a", "b"], None)

    first, second = (conclude(newest, one, report(0.2)).to_bytes() for _ in range(2))

    assert first == second


@pytest.mark.parametrize("mean", [0.48, 0.5])
def test_the_note_and_the_report_tell_the_numbers(mean: float) -> None:
    newest = entry(0, State(base=version(0), policy=Policy()))

    found = conclude(newest, candidate(newest, ["a", "b"], None), report(mean))

    assert f"{mean:.4f}" in found.note
    assert "0.5000" in found.note
    assert found.gate == report(mean)
