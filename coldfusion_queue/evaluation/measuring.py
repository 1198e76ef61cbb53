"""One evaluation on files of this machine: a probe of a base version, or a finetune from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coldfusion_queue.errors import DeviceLostError
from coldfusion_queue.evaluation.frozen import Subject, probe
from coldfusion_queue.evaluation.intervals import score_interval
from coldfusion_queue.finetune.data import Scored
from coldfusion_queue.finetune.device import pick_device
from coldfusion_queue.finetune.progress import Progress
from coldfusion_queue.finetune.request import FinetuneRequest
from coldfusion_queue.finetune.run import prepare
from coldfusion_queue.finetune.scoring import score
from coldfusion_queue.finetune.torch_errors import explained
from coldfusion_queue.records import EvaluationSpec, Metric
from coldfusion_queue.settings import Settings

__all__ = ["Measurement", "Subject", "measure"]


@dataclass(frozen=True)
class Measurement:
    """What was found; see ``records.Evaluation``."""

    scored_on: Literal["test", "validation", "train"]
    metric: Metric
    score: float
    interval: tuple[float, float]
    num_train: int
    num_scored: int
    environment: Mapping[str, str]


def measure(
    subject: Subject,
    spec: EvaluationSpec,
    settings: Settings,
    work_dir: Path,
    report: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> Measurement:
    """Do one evaluation.

    Deterministic on the CPU: the same arguments give the same numbers on the same machine.

    Args:
        subject: what is measured on what.
        spec: how.
        settings: device, precision, threads.
        work_dir: for what a finetune writes meanwhile.
        report: see ``finetune.training.train``.
        should_stop: the same.

    Raises:
        FinetuneInterrupted: it was told to stop.
        InvalidDatasetError: the dataset has nothing to score.
        UnusableModelError: features are not finite.
        TrainingFailedError: loss or parameters are not finite, or memory is too small.
        DeviceLostError: the device is not there, or failed.
        UsageError: the metric is not for data of this kind.
    """
    scored = Scored(_scored_part(spec, subject), spec.max_scored_examples)
    if spec.kind == "frozen":
        try:
            found = probe(subject, spec, settings, scored)
        except RuntimeError as error:
            lost = explained(error, pick_device(settings.device), is_private=False)
            # Out of memory is this moment's: it takes a few examples at a time, without gradients.
            if isinstance(lost, DeviceLostError):
                raise lost from error
            raise
    else:
        request = _request(subject, spec, scored, should_stop)
        with prepare(request, settings, work_dir) as prepared:
            found = prepared.measure(report)
    return Measurement(
        scored_on=scored.part,
        metric=found.metric,
        score=score(found.outputs, found.targets, found.metric),
        interval=score_interval(found.outputs, found.targets, found.metric),
        num_train=found.num_train,
        num_scored=len(found.targets),
        environment=found.environment,
    )


def _scored_part(spec: EvaluationSpec, subject: Subject) -> Literal["test", "validation", "train"]:
    if spec.split == "test" and "test" in subject.splits:
        return "test"
    return "validation" if "validation" in subject.splits else "train"


def _request(
    subject: Subject, spec: EvaluationSpec, scored: Scored, should_stop: Callable[[], bool]
) -> FinetuneRequest:
    hyperparameters = spec.hyperparameters.model_copy(update={"seed": spec.seed})
    if spec.kind == "few_shot":
        few = {"max_examples": spec.num_shots, "max_validation_examples": 0}
        hyperparameters = hyperparameters.model_copy(update=few)
    return FinetuneRequest(
        base_dir=subject.base_dir,
        dataset=subject.dataset,
        splits=subject.splits,
        cache=subject.cache,
        hyperparameters=hyperparameters,
        turn=1,
        previous_head=None,
        form="delta",
        dtype="float32",
        last_residual=None,
        keeps_residual=False,
        checkpoint=None,
        should_stop=should_stop,
        keep=None,
        scored=scored,
    )
