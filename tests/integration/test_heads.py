"""Which head a turn begins with: the newest of its contributor and dataset, found by markers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from coldfusion_queue import crash_points
from coldfusion_queue.audit import audit
from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.errors import AccessDeniedError
from coldfusion_queue.records import Contribution, Hyperparameters, SiteData, Submission
from coldfusion_queue.repository.collecting import collect_garbage
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.garbage import Kind
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import TurnInterrupted, run_turn
from tests.integration.conftest import Contribute
from tests.integration.interruptions import away, events
from tests.integration.submitting import upload_rows
from tests.rows import rows, write_rows
from tests.watching import StopAt, ignore

HOUR = 3600
SITE = "hospital-a"

#: So little that a head is what it was.
STILL = Hyperparameters(epochs=1, batch_size=8, learning_rate=1e-12, max_length=32)


class Bench:
    """Submissions of real data, and their turns."""

    def __init__(self, repository: Repository, settings: Settings, directory: Path) -> None:
        self.repository = repository
        self.settings = settings
        self._directory = directory
        self._dataset_ids: dict[str, str] = {}

    def submit(self, contributor: str = "a", kind: str = "single", **changes: object) -> Submission:
        return self.repository.submissions.create(
            contributor,
            dataset_id=self._dataset(kind),
            turns=None,
            hyperparameters=STILL.model_copy(update=changes),
        )

    def run(self, submission: Submission, turn: int = 1) -> Contribution:
        outcome = run_turn(self.repository, self.settings, submission, turn, ignore)
        found = self.repository.contributions.find(outcome.contribution_id)
        assert found is not None
        return found

    def head(self, contribution: Contribution) -> np.ndarray:
        assert contribution.head is not None
        path = self._directory / contribution.attempt
        self.repository.store.download(contribution.head, path)
        return load_file(path)["weight"]

    def markers(self) -> list[str]:
        """What is marked, without contributor and dataset."""
        found = self.repository.store.list(self.repository.keys.all_heads)
        return [item.key.rpartition("/")[2] for item in found]

    def _dataset(self, kind: str) -> str:
        if kind not in self._dataset_ids:
            self._dataset_ids[kind] = upload_rows(self.repository, self._directory, kind)
        return self._dataset_ids[kind]


@pytest.fixture
def bench(repository: Repository, settings: Settings, tmp_path: Path) -> Bench:
    return Bench(repository, settings, tmp_path)


def publish(bench: Bench, contribute: Contribute, seed: int) -> None:
    """Somebody else's contribution becomes a new base version."""
    contribute(f"other{seed}", seed=seed)
    fuse_once(bench.repository, bench.settings)


def test_a_new_submission_goes_on_with_the_contributors_head_of_that_dataset(bench: Bench) -> None:
    first = bench.submit()
    turns = [bench.run(first, 1), bench.run(first, 2)]

    second = bench.run(bench.submit())

    names = [None, turns[0].contribution_id, turns[1].contribution_id]
    assert [item.previous_head for item in (*turns, second)] == names
    np.testing.assert_allclose(bench.head(turns[0]), bench.head(second), atol=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"contributor": "b"}, id="another-contributor"),
        pytest.param({"kind": "pair"}, id="another-dataset"),
        pytest.param({"head": "fresh"}, id="told-to-begin-afresh"),
    ],
)
def test_a_head_begins_afresh_for(other: dict[str, str], bench: Bench) -> None:
    first = bench.run(bench.submit(seed=1))

    second = bench.run(bench.submit(**other))

    assert second.previous_head is None
    assert not np.array_equal(bench.head(first), bench.head(second))


def test_told_to_begin_afresh_a_submission_does_so_in_every_turn(bench: Bench) -> None:
    submission = bench.submit(head="fresh")

    first, second = bench.run(submission, 1), bench.run(submission, 2)

    assert first.previous_head is second.previous_head is None
    assert np.abs(bench.head(first) - bench.head(second)).max() > 1e-3


def test_a_head_of_another_pooling_is_not_taken_and_that_is_told(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.run(bench.submit())

    second = bench.run(bench.submit(pooling="first"))

    assert second.previous_head is None
    assert "head_afresh" in events(caplog)


def test_a_head_that_is_gone_is_not_taken_and_that_is_told(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    first = bench.run(bench.submit())
    assert first.head is not None
    bench.repository.store.delete([first.head.key])

    assert bench.run(bench.submit()).previous_head is None
    assert "head_afresh" in events(caplog)


def test_the_newest_head_is_of_the_newest_base_whatever_is_delivered_late(
    bench: Bench, contribute: Contribute
) -> None:
    old = bench.submit()
    bench.run(old)
    publish(bench, contribute, 1)
    new = bench.run(bench.submit())
    collect_garbage(bench.repository, HOUR)
    bench.run(old)  # a message that slept; its marker is made again

    assert bench.run(bench.submit()).previous_head == new.contribution_id


def test_the_head_of_a_refused_contribution_goes_on(bench: Bench) -> None:
    first = bench.run(bench.submit())
    bench.repository.store.put(first.shared.key, b"damaged")
    assert fuse_once(bench.repository, bench.settings).decisions[0].outcome == "refused"

    assert bench.run(bench.submit()).previous_head == first.contribution_id


def test_a_marker_that_a_crash_left_out_is_made_by_the_next_delivery(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(point: CrashPoint) -> None:
        if point is CrashPoint.COMMIT_RECORDED:
            raise KeyboardInterrupt

    submission = bench.submit()
    with monkeypatch.context() as crashing:
        crashing.setattr(crash_points, "_hook", die)
        with pytest.raises(KeyboardInterrupt):
            bench.run(submission)
    assert bench.markers() == []

    first = bench.run(submission)

    assert bench.markers() == [f"00000000-{first.contribution_id}"]
    assert bench.run(bench.submit()).previous_head == first.contribution_id


def test_a_marker_that_the_store_does_not_take_does_not_end_the_turn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bench.repository.heads, "mark", away)
    submission = bench.submit()

    first = bench.run(submission, 1)

    assert bench.markers() == []
    assert "head_unmarked" in events(caplog)
    assert bench.run(submission, 2).previous_head == first.contribution_id


def test_a_worker_that_may_not_list_heads_begins_afresh_and_that_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: object) -> None:
        raise AccessDeniedError("store", "it may not list heads/", "COLDFUSION_S3_ACCESS_KEY")

    bench.run(bench.submit())
    monkeypatch.setattr(bench.repository.heads, "newest", refuse)

    assert bench.run(bench.submit()).previous_head is None
    assert "head_afresh" in events(caplog)


def test_of_a_contributors_markers_for_a_dataset_the_newest_stays(
    bench: Bench, contribute: Contribute
) -> None:
    first = bench.submit()
    bench.run(first, 1)
    publish(bench, contribute, 1)
    newest = bench.run(first, 2)
    other = bench.run(bench.submit("b"))
    assert len(bench.markers()) == 3

    collected = collect_garbage(bench.repository, HOUR)

    assert [item.kind for item in collected] == [Kind.HEAD_MARKER]
    assert bench.markers() == [f"00000001-{item.contribution_id}" for item in (newest, other)]
    assert bench.run(bench.submit()).previous_head == newest.contribution_id
    assert audit(bench.settings, bench.repository.name, -60).findings == ()


def test_an_interrupted_turn_is_recorded_with_the_head_that_it_began_with(bench: Bench) -> None:
    first = bench.run(bench.submit())
    interrupted = bench.submit()
    with pytest.raises(TurnInterrupted):
        run_turn(bench.repository, bench.settings, interrupted, 1, ignore, StopAt(3))
    (checkpoint,) = bench.repository.checkpoints.all(f"{interrupted.submission_id}.t00001")
    between = bench.run(bench.submit())

    ended = bench.run(interrupted)

    assert between.previous_head == checkpoint.previous_head == first.contribution_id
    assert ended.previous_head == first.contribution_id


@pytest.mark.parametrize(
    ("label", "is_taken"),
    [pytest.param("label", True, id="the-same"), pytest.param("ward", False, id="another-column")],
)
def test_private_data_goes_on_with_a_head_if_the_same_was_said_of_it(
    label: str, is_taken: bool, bench: Bench, tmp_path: Path
) -> None:
    notes = [row | {"ward": row["label"]} for row in rows("single")]
    write_rows(tmp_path / "notes.jsonl", notes)
    bench.settings = bench.settings.model_copy(update={"site": SITE, "site_data_dir": tmp_path})

    def submit(column: str) -> Submission:
        return bench.repository.submissions.create(
            SITE,
            dataset_id=None,
            hyperparameters=STILL,
            site_data=SiteData(site=SITE, path="notes.jsonl", text="text", label=column),
        )

    first = bench.run(submit("label"))
    second = bench.run(submit(label))

    assert second.previous_head == (first.contribution_id if is_taken else None)
    assert audit(bench.settings, bench.repository.name, -60).findings == ()
