"""Turns that are told to stop, and what becomes of them; turns that find the store away."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from coldfusion_queue import crash_points
from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.errors import StoreUnavailableError
from coldfusion_queue.intake.prepare import prepare_dataset
from coldfusion_queue.intake.upload import upload_dataset
from coldfusion_queue.records import (
    BaseVersion,
    Checkpoint,
    Contribution,
    Hyperparameters,
    Submission,
)
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import Phase, TurnInterrupted, never_stop, run_turn
from tests.integration.conftest import Contribute
from tests.integration.test_turn import rows

#: 24 examples in batches of 8: 6 steps.
HYPERPARAMETERS = Hyperparameters(epochs=2, batch_size=8, learning_rate=1e-3, max_length=32)
NUM_STEPS = 6

#: Before the download and before training.
NUM_QUESTIONS_BEFORE = 2


class StopAt:
    """Says stop when it is asked for the ``number``-th time."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked >= self._number


def ignore(*_: object) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Bench:
    """One repository, and submissions that all ask for the same."""

    repository: Repository
    settings: Settings
    dataset_id: str
    contribute: Contribute
    work_dir: Path

    def submit(self, **changes: object) -> Submission:
        return self.repository.submissions.create(
            "somebody",
            dataset_id=self.dataset_id,
            hyperparameters=HYPERPARAMETERS.model_copy(update=changes),
        )

    def run(
        self,
        submission: Submission,
        should_stop: Callable[[], bool] = never_stop,
        report: Callable[..., None] = ignore,
    ) -> Contribution:
        run_turn(self.repository, self.settings, submission, 1, report, should_stop)
        return self.committed(submission)

    def interrupt(self, submission: Submission, steps: int) -> TurnInterrupted:
        stop = StopAt(NUM_QUESTIONS_BEFORE + steps)
        with pytest.raises(TurnInterrupted) as caught:
            self.run(submission, stop)
        return caught.value

    def committed(self, submission: Submission) -> Contribution:
        found = self.repository.contributions.find(name_of(submission))
        assert found is not None
        return found

    def publish(self) -> BaseVersion:
        """Somebody else's contribution becomes a new base version."""
        self.contribute("other", seed=4)
        fuse_once(self.repository, self.settings)
        return self.repository.ledger.base_version()

    def checkpoints(self) -> list[str]:
        prefix = self.repository.keys.all_checkpoints
        return [item.key for item in self.repository.store.list(prefix)]


def name_of(submission: Submission) -> str:
    return f"{submission.submission_id}.t00001"


def outcome(contribution: Contribution) -> tuple[int, str, str, str, dict[str, float]]:
    assert contribution.head is not None
    return (
        contribution.base_version,
        contribution.base_digest,
        contribution.shared.digest,
        contribution.head.digest,
        dict(contribution.metrics),
    )


@pytest.fixture
def bench(
    repository: Repository, settings: Settings, contribute: Contribute, tmp_path: Path
) -> Bench:
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation"):
        lines = "\n".join(json.dumps(row) for row in rows("single"))
        (data / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    prepared = prepare_dataset(str(data), work_dir=tmp_path)
    dataset = upload_dataset(repository.store, repository.keys, prepared)
    own = settings.model_copy(update={"device": "cpu"})
    return Bench(repository, own, dataset.dataset_id, contribute, tmp_path)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [vars(record)["event"] for record in caplog.records if "event" in vars(record)]


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
    bench.repository.store.delete([bench.repository.ledger.base_version(0).model.key])


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


def away(*_: object, **__: object) -> None:
    raise StoreUnavailableError("http://store", "upload", "key", "it is away")


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

    def report(phase: Phase, *_: object) -> None:
        if phase is Phase.UPLOADING:  # another worker was faster
            run_turn(bench.repository, bench.settings, submission, 1, ignore)
            bench.repository.checkpoints.save(
                name_of(submission),
                bench.work_dir / "data" / "train.jsonl",
                base=bench.repository.ledger.base_version(),
                step=5,
                num_steps=NUM_STEPS,
            )

    outcome = run_turn(bench.repository, bench.settings, submission, 1, report)

    assert not outcome.committed
    assert bench.checkpoints() == []


class Flaky:
    """A method of the store that fails some times, before or after it did what it does."""

    def __init__(self, real: Callable[..., object], failures: int, *, after: bool = False) -> None:
        self._real = real
        self.failures = failures
        self._after = after

    def __call__(self, *arguments: object) -> object:
        answer = self._real(*arguments) if self._after or not self.failures else None
        if self.failures:
            self.failures -= 1
            away()
        return answer


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldfusion_queue.uploading._FIRST_BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr("coldfusion_queue.uploading._MAX_BACKOFF_SECONDS", 0.01)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("method", ["put_file", "create"])
@pytest.mark.parametrize("after", [False, True])
def test_a_finished_finetune_outlasts_a_store_that_is_away(
    method: str,
    after: bool,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    submission = bench.submit()
    trained = []

    def report(phase: Phase, *_: object) -> None:
        trained.append(phase)
        if phase is Phase.UPLOADING:
            real = getattr(bench.repository.store, method)
            monkeypatch.setattr(bench.repository.store, method, Flaky(real, 3, after=after))

    with caplog.at_level(logging.WARNING):
        outcome = run_turn(bench.repository, bench.settings, submission, 1, report)

    assert outcome.committed
    assert trained.count(Phase.UPLOADING) == 1
    assert events(caplog) == ["upload_retried"] * 3
    name = name_of(submission)
    assert bench.repository.inbox.count() == 1
    found = bench.repository.store.list(f"{bench.repository.keys.contributions}{name}/")
    keys = {item.key.rpartition("/")[2] for item in found}
    assert keys == {"contribution.json", "shared.safetensors", "head.safetensors"}


@pytest.mark.usefixtures("quickly")
def test_patience_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    submission = bench.submit()
    hasty = bench.settings.model_copy(update={"upload_patience_seconds": 0.05})
    monkeypatch.setattr(bench.repository.contributions, "upload", away)

    with pytest.raises(StoreUnavailableError, match="it is away"):
        run_turn(bench.repository, hasty, submission, 1, ignore)

    assert bench.repository.inbox.count() == 0


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
        CrashPoint.CHECKPOINT_UPLOADED,
        CrashPoint.CHECKPOINT_RECORDED,
    ]
    assert committed == [
        CrashPoint.TURN_DOWNLOADED,
        CrashPoint.TURN_TRAINED,
        CrashPoint.COMMIT_UPLOADED,
        CrashPoint.COMMIT_MARKED,
        CrashPoint.COMMIT_RECORDED,
        CrashPoint.COMMIT_CLEANED,
    ]
    assert reached == [CrashPoint.COMMIT_CLEANED]
