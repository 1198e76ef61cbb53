"""Checkpoints that a turn cannot go on from: it says so, and uses an earlier one or none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from coldfusion_queue.records import (
    Checkpoint,
)
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import Phase, run_turn
from tests.integration.conftest import Contribute
from tests.integration.interruptions import (
    NUM_STEPS,
    Bench,
    events,
    name_of,
    open_bench,
    outcome,
)
from tests.watching import ignore


@pytest.fixture
def bench(
    repository: Repository, settings: Settings, contribute: Contribute, tmp_path: Path
) -> Bench:
    return open_bench(repository, settings, contribute, tmp_path)


def tensors_deleted(bench: Bench, checkpoint: Checkpoint) -> None:
    bench.repository.store.delete([checkpoint.file.key])


def tensors_replaced(bench: Bench, checkpoint: Checkpoint) -> None:
    bench.repository.store.put(checkpoint.file.key, b"x" * checkpoint.file.num_bytes)


def file_of_nothing(bench: Bench, checkpoint: Checkpoint) -> None:
    path = bench.work_dir / "nothing"
    path.write_bytes(b"these are no tensors")
    resave(bench, checkpoint, path)


def state_of_another_turn(bench: Bench, checkpoint: Checkpoint) -> None:
    longer = bench.submit(epochs=3)
    bench.interrupt(longer, 5)
    other = bench.repository.checkpoints.newest(name_of(longer))
    assert other is not None
    path = bench.work_dir / "other"
    bench.repository.checkpoints.download(other, path)
    bench.repository.checkpoints.delete(name_of(longer))
    resave(bench, checkpoint, path)


def resave(bench: Bench, checkpoint: Checkpoint, path: Path) -> None:
    checkpoints, name = bench.repository.checkpoints, checkpoint.contribution_id
    checkpoints.delete(name)
    base = bench.repository.ledger.base_version(0)
    checkpoints.save(name, path, base=base, step=checkpoint.step, num_steps=NUM_STEPS)


def record_of(**changes: object) -> Callable[[Bench, Checkpoint], None]:
    def change(bench: Bench, checkpoint: Checkpoint) -> None:
        record = checkpoint.model_copy(update=changes)
        key = bench.repository.keys.checkpoint(record.contribution_id, record.attempt)
        bench.repository.store.put(key, record.to_bytes())

    return change


def base_collected(bench: Bench, _: Checkpoint) -> None:
    bench.repository.store.delete([bench.repository.ledger.base_version(0).model_files[0].key])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(tensors_deleted, id="tensors-deleted"),
        pytest.param(tensors_replaced, id="tensors-replaced"),
        pytest.param(file_of_nothing, id="no-tensor-file"),
        pytest.param(state_of_another_turn, id="another-number-of-steps"),
        pytest.param(record_of(base_digest="0" * 64), id="another-base"),
        pytest.param(record_of(base_version=99), id="a-base-never-published"),
        pytest.param(base_collected, id="base-collected"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_logged_and_the_turn_begins_again(
    damage: Callable[[Bench, Checkpoint], None],
    bench: Bench,
    caplog: pytest.LogCaptureFixture,
) -> None:
    submission = bench.submit()
    bench.interrupt(submission, 4)
    checkpoint = bench.repository.checkpoints.newest(name_of(submission))
    assert checkpoint is not None
    bench.publish()
    expected = outcome(bench.run(bench.submit()))
    damage(bench, checkpoint)
    # This machine has no base version in its cache.
    elsewhere = bench.settings.model_copy(update={"home": bench.work_dir / "elsewhere"})
    caplog.clear()

    with caplog.at_level(logging.WARNING):
        run_turn(bench.repository, elsewhere, submission, 1, ignore)

    assert events(caplog) == ["checkpoint_unusable"]
    contribution = bench.committed(submission)
    assert contribution.base_version == 1
    assert outcome(contribution) == expected
    assert bench.checkpoints() == []


def test_the_checkpoints_of_the_new_beginning_are_kept_though_they_have_fewer_steps(
    bench: Bench,
) -> None:
    submission = bench.submit()
    for steps in (2, 3):  # two, of 2 and of 5 steps
        bench.interrupt(submission, steps)
    for checkpoint in bench.repository.checkpoints.all(name_of(submission)):
        tensors_replaced(bench, checkpoint)

    assert bench.interrupt(submission, 1).step == 1

    found = bench.repository.checkpoints.all(name_of(submission))
    assert [item.step for item in found] == [1]


def test_an_earlier_checkpoint_serves_where_a_later_one_cannot(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    expected = outcome(bench.run(bench.submit()))
    submission = bench.submit()
    for steps in (2, 2):
        bench.interrupt(submission, steps)
    newest = bench.repository.checkpoints.newest(name_of(submission))
    assert newest is not None
    assert newest.step == 4
    tensors_replaced(bench, newest)
    steps_told = []

    def report(phase: Phase, _: int, progress: object) -> None:
        if phase is Phase.TRAINING:
            steps_told.append(progress.step)  # type: ignore[attr-defined]

    talkative = bench.settings.model_copy(update={"progress_interval_seconds": 1e-9})
    with caplog.at_level(logging.WARNING):
        run_turn(bench.repository, talkative, submission, 1, report)

    assert events(caplog) == ["checkpoint_unusable"]
    assert steps_told == [3, 4, 5, 6]
    assert outcome(bench.committed(submission)) == expected
