"""Checkpoints at intervals: they disturb nothing, and a training goes on from each."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from coldfusion_queue.errors import TrainingFailedError
from coldfusion_queue.finetune.request import FinetuneRequest, FinetuneResult
from coldfusion_queue.finetune.run import finetune, prepare
from coldfusion_queue.finetune.training import FinetuneInterrupted
from coldfusion_queue.settings import Settings
from tests.unit.finetune.conftest import NUM_STEPS, MakeRequest
from tests.watching import ignore

Kept = list[tuple[Path, int, int]]


class Shelf:
    """Keeps a copy of each checkpoint; the training waits for it, so that each step makes one."""

    def __init__(self, directory: Path) -> None:
        self.kept: Kept = []
        self._directory = directory

    def keep(self, path: Path, step: int, num_steps: int) -> None:
        assert threading.current_thread() is not threading.main_thread()
        copy = shutil.copy(path, self._directory / f"kept-{step}.safetensors")
        self.kept.append((Path(copy), step, num_steps))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def always(quick_settings: Settings) -> Settings:
    return quick_settings.model_copy(update={"checkpoint_seconds": 1e-9})


def bits(result: FinetuneResult) -> tuple[bytes, bytes, object]:
    return result.shared.read_bytes(), result.head.read_bytes(), result.metrics


def test_checkpoints_change_no_bit_and_each_can_be_gone_on_from(
    make_request: MakeRequest,
    quick_settings: Settings,
    always: Settings,
    shelf: Shelf,
    tmp_path: Path,
) -> None:
    request = make_request()
    expected = bits(finetune(request, quick_settings, tmp_path, ignore))

    with_checkpoints = finetune(replace(request, keep=shelf.keep), always, tmp_path, ignore)

    assert bits(with_checkpoints) == expected
    assert shelf.kept
    for path, step, num_steps in shelf.kept:
        assert (0 < step < NUM_STEPS, num_steps) == (True, NUM_STEPS)
        rest = replace(request, checkpoint=path)
        assert bits(finetune(rest, quick_settings, tmp_path, ignore)) == expected
    assert list(tmp_path.glob("*interval*")) == []


def test_without_an_interval_there_are_none(
    make_request: MakeRequest, quick_settings: Settings, shelf: Shelf, tmp_path: Path
) -> None:
    never = quick_settings.model_copy(update={"checkpoint_seconds": None})

    finetune(replace(make_request(), keep=shelf.keep), never, tmp_path, ignore)

    assert shelf.kept == []


def test_one_that_cannot_be_kept_costs_a_warning_and_no_training(
    make_request: MakeRequest,
    quick_settings: Settings,
    always: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def lose(*_: object) -> None:
        raise OSError("no room")

    request: FinetuneRequest = make_request()
    expected = bits(finetune(request, quick_settings, tmp_path, ignore))

    with caplog.at_level(logging.WARNING):
        result = finetune(replace(request, keep=lose), always, tmp_path, ignore)

    assert bits(result) == expected
    assert {vars(record)["event"] for record in caplog.records} == {"checkpoint_lost"}
    assert list(tmp_path.glob("*interval*")) == []


def test_while_one_is_on_its_way_no_other_is_made(
    make_request: MakeRequest, always: Settings, tmp_path: Path
) -> None:
    over, steps = threading.Event(), []

    def slowly(_: Path, step: int, __: int) -> None:
        steps.append(step)
        over.wait(60)

    # The last report comes after all steps, so the first checkpoint is on its way till then.
    finetune(replace(make_request(), keep=slowly), always, tmp_path, lambda _: over.set())

    assert steps == [1]


def test_one_that_is_on_its_way_at_the_end_does_not_keep_the_device(
    make_request: MakeRequest, always: Settings, tmp_path: Path
) -> None:
    is_left, saw_it_left = threading.Event(), []

    def slowly(*_: object) -> None:
        saw_it_left.append(is_left.wait(10))

    with prepare(replace(make_request(), keep=slowly), always, tmp_path) as prepared:
        prepared.run(ignore, is_left.set)

    assert saw_it_left == [True]
    assert list(tmp_path.glob("*interval*")) == []


def test_what_nobody_keeps_is_not_written_when_it_is_told_to_stop(
    make_request: MakeRequest, always: Settings, tmp_path: Path
) -> None:
    request = replace(make_request(), keep=None, should_stop=lambda: True)
    work_dir = tmp_path / "work"
    work_dir.mkdir()

    with pytest.raises(FinetuneInterrupted) as caught:
        finetune(request, always, work_dir, ignore)

    assert (caught.value.path, caught.value.step) == (None, 1)
    assert list(work_dir.iterdir()) == []


def test_a_step_whose_loss_is_not_finite_leaves_no_checkpoint(
    make_request: MakeRequest, always: Settings, shelf: Shelf, tmp_path: Path
) -> None:
    wild = make_request("regression", learning_rate=1e30, max_grad_norm=1e30, warmup_fraction=0.0)

    def until_the_last_is_kept() -> bool:
        time.sleep(0.05)
        return False

    request = replace(wild, keep=shelf.keep, should_stop=until_the_last_is_kept)
    with pytest.raises(TrainingFailedError, match=r"lower learning_rate"):
        finetune(request, always, tmp_path, ignore)

    assert [step for _, step, _ in shelf.kept] == [1]
