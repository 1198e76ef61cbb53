"""Turns that are told to stop, and what becomes of them."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from coldfusion_queue import crash_points
from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.finetune.progress import Progress
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import Phase, TurnInterrupted, run_turn
from tests.integration.conftest import Contribute
from tests.integration.interruptions import (
    NUM_QUESTIONS_BEFORE,
    NUM_STEPS,
    Bench,
    away,
    events,
    name_of,
    open_bench,
    outcome,
)
from tests.watching import StopAt, ignore


@pytest.fixture
def bench(
    repository: Repository, settings: Settings, contribute: Contribute, tmp_path: Path
) -> Bench:
    return open_bench(repository, settings, contribute, tmp_path)


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param((2,), id="once"),
        pytest.param((3, 2), id="twice"),
    ],
)
def test_a_turn_goes_on_from_its_own_base_version_and_ends_in_the_same_bytes(
    stops: tuple[int, ...], bench: Bench
) -> None:
    # Given a turn that nobody interrupted, and its twin that was.
    expected = outcome(bench.run(bench.submit()))
    submission = bench.submit()
    done = 0
    for steps in stops:
        interruption = bench.interrupt(submission, steps)
        done += steps
        assert (interruption.step, interruption.num_steps) == (done, NUM_STEPS)

    # When a base version is published before the twin goes on.
    assert bench.publish().version == 1
    phases: list[tuple[Phase, int]] = []
    contribution = bench.run(submission, report=lambda *told: phases.append(told[:2]))

    # Then it is the contribution that it would have been.
    assert contribution.base_version == 0
    assert outcome(contribution) == expected
    assert {version for _, version in phases} == {0}
    assert bench.checkpoints() == []


def test_a_turn_says_that_it_goes_on_from_a_checkpoint_when_it_does(bench: Bench) -> None:
    submission = bench.submit()
    told: list[Phase] = []

    def report(phase: Phase, *_: object) -> None:
        told.append(phase)

    with pytest.raises(TurnInterrupted):
        bench.run(submission, StopAt(NUM_QUESTIONS_BEFORE + 4), report)
    began = told.copy()
    told.clear()
    run_turn(bench.repository, bench.settings, submission, 1, report)

    assert Phase.RESUMING not in began
    assert told.count(Phase.RESUMING) == 1
    assert told.index(Phase.RESUMING) < told.index(Phase.TRAINING)


def test_a_turn_that_goes_on_reports_where_it_is(bench: Bench) -> None:
    submission = bench.submit()
    bench.interrupt(submission, 4)
    steps = []

    def report(phase: Phase, _: int, progress: object) -> None:
        if phase is Phase.TRAINING:
            steps.append((progress.step, progress.num_examples))  # type: ignore[attr-defined]

    run_turn(bench.repository, bench.settings, submission, 1, report)

    assert steps[-1] == (NUM_STEPS, 48)
    assert all(step > 4 for step, _ in steps)


def test_an_interrupted_turn_commits_nothing_and_leaves_its_checkpoint(bench: Bench) -> None:
    submission = bench.submit()

    interruption = bench.interrupt(submission, 4)

    name = name_of(submission)
    checkpoint = bench.repository.checkpoints.newest(name)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.num_steps, checkpoint.base_version) == (4, NUM_STEPS, 0)
    assert bench.repository.inbox.count() == 0
    assert bench.repository.contributions.find(name) is None
    again = pickle.loads(pickle.dumps(interruption))  # noqa: S301 - our own bytes
    assert (again.contribution_id, again.step, again.num_steps) == (name, 4, NUM_STEPS)
    assert "goes on after step 4 of 6" in str(again)


@pytest.mark.parametrize(
    ("question", "phases"),
    [
        pytest.param(1, [], id="before-the-download"),
        pytest.param(2, [Phase.DOWNLOADING], id="before-training"),
    ],
)
@pytest.mark.parametrize("steps", [0, 3])
def test_a_stop_before_training_saves_nothing_and_forgets_nothing(
    steps: int, question: int, phases: list[Phase], bench: Bench
) -> None:
    submission = bench.submit()
    if steps:
        bench.interrupt(submission, steps)
    before = bench.checkpoints()
    told: list[Phase] = []

    with pytest.raises(TurnInterrupted) as caught:
        bench.run(submission, StopAt(question), lambda phase, *_: told.append(phase))

    assert (caught.value.step, caught.value.num_steps) == (steps, NUM_STEPS if steps else 0)
    assert told == phases
    assert bench.checkpoints() == before


def test_nobody_is_asked_once_training_has_ended(bench: Bench) -> None:
    stop = StopAt(NUM_QUESTIONS_BEFORE + NUM_STEPS)

    bench.run(bench.submit(), stop)

    assert stop.asked == NUM_QUESTIONS_BEFORE + NUM_STEPS - 1


def test_a_turn_whose_worker_dies_goes_on_from_its_last_checkpoint_in_the_same_bytes(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    expected = outcome(bench.run(bench.submit()))
    always = {"checkpoint_seconds": 1e-9, "progress_interval_seconds": 1e-9}
    dying = replace(bench, settings=bench.settings.model_copy(update=always))
    submission = bench.submit()

    def die(phase: Phase, _: int, progress: Progress | None) -> None:
        if phase is Phase.TRAINING and progress and progress.step == 5:
            raise MemoryError

    with pytest.raises(MemoryError):
        dying.run(submission, report=die)
    kept = bench.repository.checkpoints.all(name_of(submission))
    with caplog.at_level(logging.INFO):
        contribution = bench.run(submission)

    assert len(kept) in {1, 2}  # those before them are deleted
    assert all(1 <= item.step < 5 for item in kept)
    assert outcome(contribution) == expected
    assert "turn_resumed" in events(caplog)
    assert bench.checkpoints() == []


def test_a_store_that_is_away_costs_the_last_steps_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    submission = bench.submit()
    bench.interrupt(submission, 2)
    monkeypatch.setattr(bench.repository.checkpoints, "save", away)

    with caplog.at_level(logging.WARNING):
        interruption = bench.interrupt(submission, 2)

    assert (interruption.step, interruption.num_steps) == (2, NUM_STEPS)
    assert events(caplog) == ["checkpoint_lost"]


def test_checkpoints_that_cannot_be_deleted_fail_no_turn_and_a_second_delivery_deletes_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = bench.submit()
    bench.interrupt(submission, 3)
    with monkeypatch.context() as patch:
        patch.setattr(bench.repository.checkpoints, "delete", away)
        bench.run(submission)
    assert len(bench.checkpoints()) == 2

    again = run_turn(bench.repository, bench.settings, submission, 1, ignore)

    assert not again.committed
    assert bench.checkpoints() == []


def test_an_attempt_that_lost_deletes_checkpoints_too(bench: Bench) -> None:
    submission = bench.submit()
    bench.interrupt(submission, 3)
    left = bench.work_dir / "left.safetensors"
    left.write_bytes(b"a state")

    def report(phase: Phase, *_: object) -> None:
        if phase is Phase.UPLOADING:  # another worker was faster
            run_turn(bench.repository, bench.settings, submission, 1, ignore)
            bench.repository.checkpoints.save(
                name_of(submission),
                left,
                base=bench.repository.ledger.base_version(),
                step=5,
                num_steps=NUM_STEPS,
            )

    outcome = run_turn(bench.repository, bench.settings, submission, 1, report)

    assert not outcome.committed
    assert bench.checkpoints() == []


def test_the_points_of_a_turn_are_reached_in_order(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[CrashPoint] = []
    submission = bench.submit()
    monkeypatch.setattr(crash_points, "_hook", reached.append)

    bench.interrupt(submission, 3)
    interrupted, reached[:] = reached[:], []
    bench.run(submission)
    committed, reached[:] = reached[:], []
    bench.run(submission)

    assert interrupted == [
        CrashPoint.TURN_DOWNLOADED,
        *[CrashPoint.TURN_STEPPED] * 3,
        CrashPoint.CHECKPOINT_UPLOADED,
        CrashPoint.CHECKPOINT_RECORDED,
    ]
    assert committed == [
        CrashPoint.TURN_DOWNLOADED,
        *[CrashPoint.TURN_STEPPED] * (NUM_STEPS - 3),
        CrashPoint.TURN_TRAINED,
        CrashPoint.COMMIT_UPLOADED,
        CrashPoint.COMMIT_MARKED,
        CrashPoint.COMMIT_RECORDED,
        CrashPoint.COMMIT_CLEANED,
    ]
    assert reached == [CrashPoint.COMMIT_CLEANED]
