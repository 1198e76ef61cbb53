"""Residuals on a worker's disk: found by the contribution that they belong to, and bounded."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from coldfusion_queue.residuals import Residuals

A, B = "a" * 64, "b" * 64


@pytest.fixture
def residuals(tmp_path: Path) -> Residuals:
    return Residuals(tmp_path / "home" / "residuals")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "residual"
    path.write_bytes(b"what was cut off")
    return path


def all_files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "home").rglob("*") if path.is_file())


def test_a_residual_is_found_by_turn_and_digest_of_its_contribution(
    residuals: Residuals, written: Path
) -> None:
    residuals.keep(written, "s", 3, A)

    found = residuals.find("s", 3, A)

    assert found is not None
    assert found.read_bytes() == written.read_bytes()
    assert residuals.find("s", 3, B) is None  # another attempt at the turn was committed
    assert residuals.find("s", 2, A) is None
    assert residuals.find("other", 3, A) is None


def test_one_that_is_missing_is_logged(
    residuals: Residuals, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert residuals.find("s", 1, A) is None
    (record,) = caplog.records
    assert (record.event, record.turn) == ("residual_missing", 1)  # type: ignore[attr-defined]


def test_after_a_commit_only_the_newest_turns_residual_is_there(
    residuals: Residuals, written: Path, tmp_path: Path
) -> None:
    for turn, digest in ((1, A), (2, A), (2, B)):
        residuals.keep(written, "s", turn, digest)
    residuals.keep(written, "s.t", 1, A)

    residuals.keep_only("s", 2, B)

    assert all_files(tmp_path) == [f"00001-{A}", f"00002-{B}"]
    assert residuals.find("s.t", 1, A) is not None


def test_nothing_is_left_of_a_submission_that_ended(
    residuals: Residuals, written: Path, tmp_path: Path
) -> None:
    # Given one that was cancelled, and one whose last turn was committed without a residual
    residuals.keep(written, "cancelled", 1, A)
    residuals.keep(written, "done", 1, A)

    residuals.forget("cancelled")
    residuals.forget("never heard of")
    residuals.keep_only("done", 2, B)

    assert list((tmp_path / "home" / "residuals").iterdir()) == []


def test_what_nobody_came_back_for_goes_after_a_month(
    residuals: Residuals, written: Path, tmp_path: Path
) -> None:
    for name in ("old", "young"):
        residuals.keep(written, name, 1, A)
    day = 24 * 3600
    for name, age in (("old", 31 * day), ("young", 29 * day)):
        modified = time.time() - age
        os.utime(tmp_path / "home" / "residuals" / name, (modified, modified))

    residuals.keep(written, "new", 1, A)

    assert residuals.find("old", 1, A) is None
    assert residuals.find("young", 1, A) is not None


def test_a_home_that_cannot_be_written_costs_no_turn(
    written: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    residuals = Residuals(tmp_path / "file")

    with caplog.at_level(logging.WARNING):
        residuals.keep(written, "s", 1, A)
        residuals.keep_only("s", 1, A)
        residuals.forget("s")

    assert [record.event for record in caplog.records] == ["residual_lost"]  # type: ignore[attr-defined]
