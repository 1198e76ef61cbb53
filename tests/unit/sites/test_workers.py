"""Which queues workers consume, at a site and elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from coldfusion_queue.settings import Settings
from workers import finetune_worker, fusion_worker


@pytest.mark.parametrize(
    ("arguments", "variable", "queue"),
    [
        pytest.param([], None, "finetune", id="everybodys"),
        pytest.param([], "hospital-a", "finetune.hospital-a", id="setting"),
        pytest.param(["--site", "hospital-a"], None, "finetune.hospital-a", id="option"),
        pytest.param(["--site", "b"], "hospital-a", "finetune.b", id="option-over-setting"),
    ],
)
def test_a_finetune_worker_consumes_the_one_queue_that_is_its_own(
    arguments: Sequence[str],
    variable: str | None,
    queue: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consumed: list[str] = []

    def run(settings: Settings, queues: Sequence[str], *_: object, has_device: bool) -> None:
        assert has_device
        consumed.extend(queues)
        # What the pool's children, who read their settings anew, will find.
        assert os.environ.get("COLDFUSION_SITE", None) == settings.site

    monkeypatch.setattr("sys.argv", ["finetune_worker", *arguments])
    monkeypatch.setenv("COLDFUSION_SITE", variable or "")
    if variable is None:
        monkeypatch.delenv("COLDFUSION_SITE")
    if queue != "finetune":
        monkeypatch.setenv("COLDFUSION_SITE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(finetune_worker, "run_worker", run)
    monkeypatch.setattr("workers.starting.configure_logs", lambda settings: None)

    finetune_worker.main()

    assert consumed == [queue]


@pytest.mark.parametrize(("seconds", "number"), [("0.5", 2), ("0", 1)])
def test_a_finetune_worker_has_a_second_process_if_it_is_to_prepare_ahead(
    seconds: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def run(settings: Settings, queues: object, name: str, num_children: int, **_: object) -> None:
        started.append(num_children)

    monkeypatch.setattr("sys.argv", ["finetune_worker"])
    monkeypatch.setenv("COLDFUSION_PREPARE_AHEAD_SECONDS", seconds)
    monkeypatch.setattr(finetune_worker, "run_worker", run)
    monkeypatch.setattr("workers.starting.configure_logs", lambda settings: None)

    finetune_worker.main()

    assert started == [number]


def test_a_fusion_worker_does_not_start_at_a_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["fusion_worker"])
    monkeypatch.setattr("workers.starting.configure_logs", lambda settings: None)
    monkeypatch.setenv("COLDFUSION_SITE", "hospital-a")
    monkeypatch.setenv("COLDFUSION_SITE_DATA_DIR", str(tmp_path))

    with pytest.raises(SystemExit, match="unset COLDFUSION_SITE"):
        fusion_worker.main()
