"""Checkpoints of turns on the real store: uploaded, recorded, found, deleted."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pytest

from coldfusion_queue import crash_points
from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.errors import DigestMismatchError, NotFoundError
from coldfusion_queue.records import Checkpoint
from coldfusion_queue.repository.repository import Repository

TURN = "somebody-1.t00001"


def save(repository: Repository, tmp_path: Path, step: int, turn: str = TURN) -> Checkpoint:
    path = tmp_path / "state"
    path.write_bytes(f"state after {step}".encode())
    base = repository.ledger.base_version()
    return repository.checkpoints.save(turn, path, base=base, step=step, num_steps=90)


def objects(repository: Repository) -> list[str]:
    return [item.key for item in repository.store.list(repository.keys.all_checkpoints)]


def test_a_checkpoint_is_found_and_downloaded_as_it_was_saved(
    repository: Repository, tmp_path: Path
) -> None:
    saved = save(repository, tmp_path, 7)

    assert repository.checkpoints.newest(TURN) == saved
    base = repository.ledger.base_version()
    assert (saved.step, saved.num_steps) == (7, 90)
    assert (saved.base_version, saved.base_digest) == (base.version, base.digest)
    repository.checkpoints.download(saved, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == b"state after 7"


def test_the_one_with_the_most_steps_counts_whenever_it_was_saved(
    repository: Repository, tmp_path: Path
) -> None:
    saved = {step: save(repository, tmp_path, step) for step in (9, 31, 10)}

    assert repository.checkpoints.newest(TURN) == saved[31]
    assert repository.checkpoints.all(TURN) == [saved[31], saved[10], saved[9]]


def test_turns_have_checkpoints_of_their_own(repository: Repository, tmp_path: Path) -> None:
    other = save(repository, tmp_path, 50, turn="somebody-1.t000010")
    mine = save(repository, tmp_path, 3)

    assert repository.checkpoints.newest(TURN) == mine
    repository.checkpoints.delete(TURN)

    assert repository.checkpoints.newest(TURN) is None
    assert repository.checkpoints.newest("somebody-1.t000010") == other


def test_of_many_the_two_with_the_most_steps_stay(repository: Repository, tmp_path: Path) -> None:
    other = save(repository, tmp_path, 1, turn="somebody-1.t000010")
    saved = {step: save(repository, tmp_path, step) for step in (9, 31, 2, 10)}

    repository.checkpoints.delete_older(TURN)
    repository.checkpoints.delete_older(TURN)

    assert repository.checkpoints.all(TURN) == [saved[31], saved[10]]
    assert repository.checkpoints.newest("somebody-1.t000010") == other
    assert len(objects(repository)) == 2 * 3  # tensors and record of each, and nothing else


def test_an_unreadable_record_is_logged_and_hides_no_other(
    repository: Repository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = save(repository, tmp_path, 5), save(repository, tmp_path, 8)
    repository.store.put(repository.keys.checkpoint(TURN, bad.attempt), b"{not json")

    with caplog.at_level(logging.WARNING):
        assert repository.checkpoints.newest(TURN) == good

    events = [vars(record)["event"] for record in caplog.records]
    assert events == ["checkpoint_unreadable"]
    assert vars(caplog.records[0])["contribution"] == TURN


@pytest.mark.parametrize(
    ("point", "is_found", "num_objects"),
    [
        pytest.param(CrashPoint.CHECKPOINT_UPLOADED, False, 1, id="before-the-record"),
        pytest.param(CrashPoint.CHECKPOINT_RECORDED, True, 2, id="after-the-record"),
    ],
)
def test_the_record_is_the_commit_point(
    point: CrashPoint,
    is_found: bool,
    num_objects: int,
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(reached: CrashPoint) -> None:
        if reached is point:
            raise InterruptedError

    monkeypatch.setattr(crash_points, "_hook", crash)
    with pytest.raises(InterruptedError):
        save(repository, tmp_path, 7)

    assert (repository.checkpoints.newest(TURN) is not None) is is_found
    assert len(objects(repository)) == num_objects
    repository.checkpoints.delete(TURN)
    assert objects(repository) == []


def test_an_upload_that_breaks_off_leaves_nothing(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file = repository.store.put_file

    def break_off(key: str, path: Path) -> None:
        put_file(key, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(repository.store, "put_file", break_off)
    with pytest.raises(KeyboardInterrupt):
        save(repository, tmp_path, 7)

    assert objects(repository) == []


def test_records_are_deleted_before_the_tensors_that_they_name_and_twice_is_no_error(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(repository, tmp_path, step)
    deleted: list[str] = []
    delete = repository.store.delete

    def watch(keys: Iterable[str]) -> None:
        found = list(keys)
        deleted.extend(key.rpartition("/")[2] for key in found)
        delete(found)

    monkeypatch.setattr(repository.store, "delete", watch)
    for _ in range(2):
        repository.checkpoints.delete(TURN)

    assert deleted == ["checkpoint.json"] * 2 + ["checkpoint.safetensors"] * 2
    assert objects(repository) == []


def test_a_download_of_other_bytes_or_of_none_is_refused(
    repository: Repository, tmp_path: Path
) -> None:
    saved = save(repository, tmp_path, 7)
    repository.store.put(saved.file.key, b"state after 8")
    with pytest.raises(DigestMismatchError):
        repository.checkpoints.download(saved, tmp_path / "fetched")

    repository.checkpoints.delete(TURN)
    with pytest.raises(NotFoundError):
        repository.checkpoints.download(saved, tmp_path / "fetched")

    assert not (tmp_path / "fetched").exists()
