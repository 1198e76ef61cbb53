"""Names of classes are remembered at the site from turn to turn."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from coldfusion_queue.sites.labels import SiteLabels


def test_names_of_the_last_two_turns_are_kept_until_the_submission_ends(tmp_path: Path) -> None:
    labels = SiteLabels(tmp_path / "labels")
    for turn, names in enumerate((["a", "b"], ["a", "ü"], []), start=1):
        labels.keep("s", turn, names)
    labels.keep("another", 1, ["x"])

    assert [labels.find("s", turn) for turn in (1, 2, 3, 4)] == [None, ("a", "ü"), (), None]
    assert stat.S_IMODE((tmp_path / "labels").stat().st_mode) == 0o700
    labels.forget("s")
    labels.forget("unknown")
    assert (labels.find("s", 2), labels.find("another", 1)) == (None, ("x",))


def test_names_of_a_submission_that_went_on_elsewhere_go_after_thirty_days(tmp_path: Path) -> None:
    labels = SiteLabels(tmp_path)
    for submission, days in (("old", 31), ("recent", 29)):
        labels.keep(submission, 1, ["a"])
        then = time.time() - days * 24 * 3600
        os.utime(tmp_path / submission, (then, then))

    labels.keep("new", 1, ["a"])

    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "recent"]


def test_names_that_cannot_be_read_are_not_known(tmp_path: Path) -> None:
    labels = SiteLabels(tmp_path)
    labels.keep("s", 1, ["a"])
    (tmp_path / "s" / "00001.json").write_text("{")

    assert labels.find("s", 1) is None
