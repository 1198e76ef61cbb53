"""What a report holds, against histories that are written by hand."""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import timedelta
from statistics import mean

import pytest

from coldfusion_queue.errors import NotFoundError
from coldfusion_queue.records import Contribution, Outcome, Rule
from coldfusion_queue.report.gather import gather
from coldfusion_queue.report.summaries import (
    as_data,
    by_contributor,
    by_rule,
    by_staleness,
    throughput,
    waiting,
)
from tests.unit.report.history import START, History, gate_report

FIRST, SECOND = "a" * 32, "b" * 32


def test_each_published_or_withheld_model_is_a_step() -> None:
    history = History()
    one = history.fuse([history.contribution("x")])
    batch = [history.contribution("x"), history.contribution("y")]
    withheld = history.withhold(batch, gate_report(0.4, 0.5))
    history.restore(0)

    report = gather(history.repository)

    assert [(step.kind, step.version, step.parent) for step in report.steps] == [
        ("pretrained", 0, None),
        ("fused", 1, 0),
        ("withheld", 2, 1),
        ("restored", 2, 1),
    ]
    assert report.steps[3].restores == 0
    assert report.steps[3].digest == report.steps[0].digest
    assert [step.digest for step in report.steps[1:3]] == [one.digest, withheld.digest]
    assert (len(report.published), len(report.withheld)) == (3, 1)


def test_counts_are_those_of_whoever_keeps_count() -> None:
    generator = random.Random(7)
    history = History()
    outcomes: Counter[tuple[str, Outcome]] = Counter()
    stalenesses: Counter[tuple[int, Outcome]] = Counter()
    rules: Counter[str] = Counter()
    for _ in range(30):
        fused, refused, expired = [], {}, []
        for _ in range(generator.randrange(1, 9)):
            name = generator.choice("pqrst")
            staleness = generator.randrange(history.base.version + 1)
            item = history.contribution(name, staleness=staleness)
            outcome = generator.choice(list(Outcome)) if fused else Outcome.FUSED
            outcomes[name, outcome] += 1
            if outcome is Outcome.FUSED:
                fused.append(item)
            elif outcome is Outcome.REFUSED:
                rule = generator.choice(list(Rule))
                refused[item.contribution_id] = (rule, "why")
                rules[rule] += 1
            else:
                expired.append(item.contribution_id)
                staleness = 9  # what the fixture's decision says
            stalenesses[min(staleness, 16), outcome] += 1
        history.fuse(fused, refused, expired)

    report = gather(history.repository)

    found = by_contributor(report.decisions)
    assert {
        (item.contributor_id, outcome): getattr(item, outcome)
        for item in found
        for outcome in Outcome
    } == {(name, outcome): outcomes[name, outcome] for name in "pqrst" for outcome in Outcome}
    num_fused = sum(num for (_, outcome), num in outcomes.items() if outcome is Outcome.FUSED)
    for item in found:
        assert item.share == pytest.approx(
            outcomes[str(item.contributor_id), Outcome.FUSED] / num_fused
        )
    assert [item.fused for item in found] == sorted((item.fused for item in found), reverse=True)
    assert {
        (staleness, outcome): number
        for staleness, counts in by_staleness(report.decisions).items()
        for outcome, number in counts.items()
        if number
    } == dict(stalenesses)
    assert list(by_staleness(report.decisions)) == list(range(17))
    assert by_rule(report.decisions) == dict(rules)


def test_an_older_version_is_reported_as_it_was_before_the_next_one() -> None:
    history = History()
    history.fuse([history.contribution("x")])
    refused = history.contribution("late")
    history.refuse({refused.contribution_id: (Rule.FINITE, "NaN")})
    history.withhold([history.contribution("x")], gate_report(0.4, 0.5))
    history.fuse([history.contribution("y")])

    report = gather(history.repository, 1)

    assert report.version == 1
    assert report.num_entries == 4
    assert [item.contributor_id for item in report.decisions] == ["x", "late"]
    assert [step.kind for step in report.steps] == ["pretrained", "fused", "withheld"]
    assert gather(history.repository).num_entries == 5


def test_a_version_that_there_is_not_is_said() -> None:
    history = History()

    with pytest.raises(NotFoundError, match="base version '3'"):
        gather(history.repository, 3)


def test_every_record_is_read_once_however_long_the_history_is() -> None:
    history = History()
    for _ in range(100):
        history.evaluate(history.base, FIRST, 0.5)
        history.fuse([history.contribution("x"), history.contribution("y")])
    history.memory.reads.clear()

    gather(history.repository)

    reads = history.memory.reads
    ledger = [
        num for key, num in reads.items() if key.startswith(f"{history.keys.repository}/ledger")
    ]
    # The newest entry is looked at to know where the end is.
    assert sum(ledger) <= len(history.entries) + 5
    others = {key: num for key, num in reads.items() if "/ledger/" not in key}
    assert len(others) >= 300
    assert set(others.values()) == {1}


def test_a_restored_version_has_the_scores_of_the_one_that_it_restores() -> None:
    history = History()
    history.evaluate(history.base, FIRST, 0.5)
    history.fuse([history.contribution("x")])  # is not evaluated
    history.restore(0)

    report = gather(history.repository)

    digests = {item.digest for item in report.scores}
    assert [step.digest in digests for step in report.published] == [True, False, True]
    assert len(report.scores) == 1


def test_a_contribution_whose_record_cannot_be_read_is_counted_without_a_name() -> None:
    history = History()
    broken = history.contribution("x", is_readable=False)
    history.refuse({broken.contribution_id: (Rule.RECORD, "not a record")})

    report = gather(history.repository)

    (item,) = report.decisions
    assert (item.contributor_id, item.staleness, item.waited_seconds) == (None, None, None)
    assert by_contributor(report.decisions)[0].contributor_id is None


def test_waiting_times_are_from_commit_to_decision() -> None:
    history = History()
    waits = [5.0, 90.0, 10.0, 3600.0, 40.0, 20.0, 30.0, 50.0, 60.0, 70.0]
    history.fuse([history.contribution("x", waited=wait) for wait in waits])

    report = gather(history.repository)

    assert [item.waited_seconds for item in report.decisions] == pytest.approx(waits)
    found = waiting(report.decisions)
    assert found is not None
    # Of ten sorted values the fifth and the ninth.
    assert (found.median, found.ninety_percent, found.longest) == (40.0, 90.0, 3600.0)


def test_a_clock_that_is_ahead_makes_nobody_wait_less_than_nothing() -> None:
    history = History()
    history.fuse([history.contribution("x", waited=-500)])

    assert gather(history.repository).decisions[0].waited_seconds == 0.0


def test_a_time_without_a_zone_is_taken_as_utc() -> None:
    history = History()
    item = history.contribution("x", waited=20)
    naive = item.model_copy(update={"created_at": item.created_at.replace(tzinfo=None)})
    history.memory.put(history.keys.contribution(item.contribution_id), naive)
    history.fuse([item])

    assert gather(history.repository).decisions[0].waited_seconds == 20.0


@pytest.mark.parametrize("written", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_a_time_at_the_end_of_the_calendar_breaks_nothing(written: str) -> None:
    history = History()
    item = history.contribution("x")
    far = Contribution.model_validate({**item.model_dump(), "created_at": written})
    history.memory.put(history.keys.contribution(item.contribution_id), far)
    history.fuse([item])

    waited = gather(history.repository).decisions[0].waited_seconds

    assert waited is not None
    assert (waited == 0.0) == written.startswith("9999")


def test_datasets_have_the_names_of_who_submitted_them() -> None:
    history = History()
    history.submission("imdb", FIRST)
    history.submission("twice", SECOND)
    history.submission("twice", "c" * 32)
    for dataset in (FIRST, SECOND, "c" * 32, "e" * 32):
        history.evaluate(history.base, dataset, 0.5)
    history.fuse([history.contribution("x", dataset="site:hospital/notes.csv")])

    assert gather(history.repository).datasets == {
        FIRST: "imdb",
        SECOND: "twice (bbbbbb)",
        "c" * 32: "twice (cccccc)",
        "e" * 32: "eeeeee",
        "site:hospital/notes.csv": "site:hospital/notes.csv",
    }


def test_a_submission_that_cannot_be_read_costs_names_alone() -> None:
    history = History()
    history.submission("imdb", FIRST)
    history.memory.objects[history.keys.submission("other")] = b"{}"
    history.fuse([history.contribution("from-its-record", dataset=FIRST)])

    assert gather(history.repository).datasets == {FIRST: "from-its-record"}


def test_what_is_under_the_digest_of_another_model_is_not_believed() -> None:
    history = History()
    found = history.evaluate(history.base, FIRST, 0.9)
    other = found.model_copy(update={"base_digest": history.base.digest[:32] + "0" * 32})
    history.memory.objects.pop(history.keys.evaluation(found.evaluation_id))
    history.memory.put(history.keys.evaluation(found.evaluation_id), other)

    assert gather(history.repository).scores == ()


def test_costs_are_sums_over_all_models() -> None:
    history = History()
    history.evaluate(history.base, FIRST, 0.5, seconds=3)
    history.evaluate(history.base, SECOND, None, seconds=1)
    history.evaluate(history.base, FIRST, 0.7, kind="finetuned", seed=1, seconds=50)
    withheld = history.withhold([history.contribution("x")], gate_report(0.4, 0.5))
    history.evaluate(withheld, FIRST, 0.4, seconds=4)

    report = gather(history.repository)

    assert [
        (cost.kind, cost.num_evaluations, cost.num_failed, cost.seconds) for cost in report.costs
    ] == [
        ("frozen", 3, 1, 8.0),
        ("finetuned", 1, 0, 50.0),
    ]
    assert report.costs[0].num_train == 300
    assert report.failures == {"TrainingFailedError: out of memory": 1}


def test_time_is_cut_into_periods_without_a_hole() -> None:
    history = History()
    history.fuse([history.contribution("x"), history.contribution("y")])
    history.now += timedelta(minutes=3)
    late = history.contribution("z")
    history.refuse({late.contribution_id: (Rule.FILE, "gone")})

    found = throughput(gather(history.repository))

    assert found.length == "minute"
    assert [period.num_versions for period in found.periods] == [1, 1, 0, 0, 0, 0]
    assert [sum(period.outcomes.values()) for period in found.periods] == [0, 2, 0, 0, 0, 1]
    assert found.periods[0].start == START.replace(second=0)


@pytest.mark.parametrize(
    ("hours", "length"),
    [(1, "minute"), (10, "10 minutes"), (70, "hour"), (1000, "day"), (10_000, "week")],
)
def test_periods_are_as_long_as_the_history_needs(hours: int, length: str) -> None:
    history = History()
    history.now += timedelta(hours=hours)
    history.fuse([history.contribution("x")])

    found = throughput(gather(history.repository))

    assert found.length == length
    assert len(found.periods) <= 72


def test_a_clock_that_is_decades_off_makes_no_endless_row_of_periods() -> None:
    history = History()
    history.now += timedelta(days=365 * 60)
    history.fuse([history.contribution("x")])

    found = throughput(gather(history.repository))

    assert len(found.periods) <= 73
    assert sum(period.num_versions for period in found.periods) == 2


def test_progress_is_told_until_all_is_read() -> None:
    history = History()
    history.fuse([history.contribution("x"), history.contribution("y")])
    told: dict[str, tuple[int, int]] = {}

    gather(
        history.repository, progress=lambda what, done, total: told.update({what: (done, total)})
    )

    assert told == {"ledger entries": (2, 2), "contributions": (2, 2), "evaluated models": (2, 2)}


def test_the_data_of_a_report_is_json() -> None:
    history = History()
    history.evaluate(history.base, FIRST, 0.5)
    item = history.contribution("x")
    history.refuse({item.contribution_id: (Rule.COSINE, "away")})
    report = gather(history.repository)

    data = json.loads(json.dumps(as_data(report), allow_nan=False))

    assert data["contributors"][0] == {
        "contributor_id": "x",
        "fused": 0,
        "refused": 1,
        "expired": 0,
        "share": 0.0,
    }
    assert data["decisions"][0]["at"] == "2026-03-01T12:01:30+00:00"
    assert data["decisions"][0]["rule"] == "cosine"
    assert data["scores"][0]["score"] == mean([0.5])
