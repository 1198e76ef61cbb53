"""One finetune from files to files."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.errors import DeviceLostError, TrainingFailedError
from coldfusion_queue.finetune.adapters import add_adapters, merge_adapters, save_factors
from coldfusion_queue.finetune.attention import use_fast_attention
from coldfusion_queue.finetune.data import FinetuneData, Splits, load_data
from coldfusion_queue.finetune.device import free_memory, pick_device
from coldfusion_queue.finetune.dropout import use_fast_dropout
from coldfusion_queue.finetune.embedding import shrink_embedding
from coldfusion_queue.finetune.environment import describe_environment
from coldfusion_queue.finetune.files import load_head, save_head, save_shared
from coldfusion_queue.finetune.model import SequenceModel, load_body
from coldfusion_queue.finetune.optimizer import shrinkage
from coldfusion_queue.finetune.passes import Passes
from coldfusion_queue.finetune.progress import Progress
from coldfusion_queue.finetune.quantising import save_quantised
from coldfusion_queue.finetune.saving import Keep
from coldfusion_queue.finetune.scoring import score
from coldfusion_queue.finetune.training import (
    Checkpointing,
    TrainingOptions,
    TrainingOutcome,
    train,
)
from coldfusion_queue.records import (
    ContributionForm,
    DatasetRecord,
    Hyperparameters,
)
from coldfusion_queue.settings import ContributionChoice, ContributionDtype, Settings

__all__ = ["FinetuneRequest", "FinetuneResult", "PreparedFinetune", "finetune", "prepare"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneRequest:
    """What one finetune needs: files on this machine and numbers."""

    base_dir: Path
    """Directory of the base version."""
    dataset: DatasetRecord
    splits: Mapping[str, Path]
    """Parquet file of each split."""
    cache: LocalCache
    """Where tokenised splits are kept for the next turn."""
    hyperparameters: Hyperparameters
    turn: int
    previous_head: Path | None
    """Head of an earlier turn; None starts with a fresh one."""
    form: ContributionChoice
    dtype: ContributionDtype
    """In what a delta is written; of no meaning for factors and the full form."""
    last_residual: Path | None
    """What quantising cut off the last turn; None if it is lost or there was none."""
    keeps_residual: bool
    """Whether to write what quantising cuts off this turn."""
    checkpoint: Path | None
    """State that an interrupted finetune of the same turn left; None begins at the first step."""
    should_stop: Callable[[], bool]
    """Asked after each optimizer step but the last."""
    keep: Keep | None
    """Takes the checkpoints that are made every ``checkpoint_seconds``; None makes none."""
    is_private: bool = False
    """The data is a site's: nothing is written that was worked out from its labels but weights."""


@dataclass(frozen=True)
class FinetuneResult:
    """Files to contribute, and figures."""

    shared: Path
    form: ContributionForm
    """What ``shared`` is."""
    residual: Path | None
    """What quantising cut off; None if there is nothing to keep."""
    head: Path
    metrics: Mapping[str, float]
    environment: Mapping[str, str]
    """Versions and hardware, to repeat it with."""
    head_was_taken: bool
    """Whether it began with the previous head, because there was one and it fitted."""


def finetune(
    request: FinetuneRequest,
    settings: Settings,
    work_dir: Path,
    report: Callable[[Progress], None],
) -> FinetuneResult:
    """Finetune body and head on one dataset and write what is to be contributed.

    Deterministic on the CPU: the same request gives the same bytes on the same machine, also when
    it was interrupted and goes on from the checkpoint.

    Args:
        request: what to finetune on.
        settings: device, precision, threads, duty cycle.
        work_dir: where to write.
        report: see ``training.train``.

    Raises:
        FinetuneInterrupted: it was told to stop; the checkpoint is in ``work_dir``.
        TrainingFailedError: loss or parameters are not finite, or memory holds not one example.
        DeviceLostError: the device is not there, or failed.
        UsageError: the metric is not for data of this kind.
        InvalidTensorFileError: the checkpoint is no such file.
        IncompatibleModelError: see ``files.save_shared`` and ``adapters.add_adapters``; or the
            checkpoint is of another turn.
    """
    with prepare(request, settings, work_dir) as prepared:
        return prepared.run(report)


@contextmanager
def prepare(
    request: FinetuneRequest, settings: Settings, work_dir: Path
) -> Iterator[PreparedFinetune]:
    """What of a finetune needs no device: the model is built and the data tokenised.

    See ``finetune`` for the arguments and for what it raises, which is also converted here if it
    is raised within the context.
    """
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    options = _options(settings)
    try:
        with ExitStack() as opened:
            yield PreparedFinetune(request, settings, options, work_dir, opened)
    except torch.AcceleratorError as error:
        raise DeviceLostError(str(options.device), str(error).splitlines()[0]) from error
    except RuntimeError as error:
        if not _is_of_the_compiler(error):
            raise
        problem = f"torch.compile failed: {str(error).splitlines()[0]}"
        remedy = "unset COLDFUSION_COMPILE on this worker, or install a C++ compiler"
        raise TrainingFailedError("this finetune", problem, remedy) from error


def _is_of_the_compiler(error: RuntimeError) -> bool:
    # By name: to import these modules takes seconds.
    return type(error).__module__.startswith(("torch._dynamo.", "torch._inductor."))


def _options(settings: Settings) -> TrainingOptions:
    return TrainingOptions(
        device=pick_device(settings.device),
        precision=settings.precision,
        duty_cycle=settings.duty_cycle,
        progress_interval_seconds=settings.progress_interval_seconds,
        token_budget=settings.micro_batch_tokens,
    )


class PreparedFinetune:
    """The parts of one finetune; see ``prepare``, which makes it."""

    def __init__(
        self,
        request: FinetuneRequest,
        settings: Settings,
        options: TrainingOptions,
        work_dir: Path,
        opened: ExitStack,
    ) -> None:
        self._request = request
        self._settings = settings
        self._options = options
        self._work_dir = work_dir
        # Of private data it is not known before whether the metric fits.
        self._metric = request.hyperparameters.metric_of(request.dataset.objective)
        self._seed = _seed(request)
        torch.manual_seed(self._seed)
        self._head_was_taken = False
        self._model = self._build()
        splits = Splits(request.dataset, request.splits, request.cache)
        self._data: FinetuneData = load_data(
            splits,
            request.base_dir,
            self._model.body,
            request.hyperparameters,
            self._seed,
            opened,
        )

    def run(
        self, report: Callable[[Progress], None], leave_device: Callable[[], None] = lambda: None
    ) -> FinetuneResult:
        """Train, and write what is to be contributed; once.

        Args:
            report: see ``training.train``.
            leave_device: called when the device is not needed any more and holds nothing of this
                finetune; writing comes after that.
        """
        self._model.to(self._options.device)
        whole = shrink_embedding(self._model.body, self._data.token_ids())
        outcome = self._train(report)
        if whole is not None:
            steps = outcome.num_steps, outcome.num_steps_done
            whole.restore(shrinkage(self._request.hyperparameters, *steps))
        self._model.to("cpu")
        del whole
        free_memory(self._options.device)
        leave_device()
        head = self._work_dir / "head.safetensors"
        scale = None if self._request.is_private else self._data.scale
        save_head(self._model, self._request.dataset.labels, scale, head)
        shared, form, residual = self._save_shared()
        environment = describe_environment(self._options.device, self._options.precision)
        metrics, was_taken = self._metrics(outcome), self._head_was_taken
        return FinetuneResult(shared, form, residual, head, metrics, environment, was_taken)

    def _build(self) -> SequenceModel:
        request, hyperparameters = self._request, self._request.hyperparameters
        num_outputs = len(request.dataset.labels) or 1
        body = load_body(request.base_dir)
        model = SequenceModel(body, num_outputs, hyperparameters.pooling, hyperparameters.dropout)
        if request.previous_head is not None:
            labels = request.dataset.labels
            self._head_was_taken = load_head(model, labels, request.previous_head)
            if not self._head_was_taken:
                event = {"event": "head_afresh", "dataset": request.dataset.dataset_id}
                reason = "the last one has another number of labels, other ones or other pooling"
                log.warning("head begins afresh: %s", reason, extra=event)
        if hyperparameters.freeze_embeddings:
            body.get_input_embeddings().requires_grad_(False)  # type: ignore[operator]
        if hyperparameters.adapter is not None:
            add_adapters(body, hyperparameters)
        use_fast_attention(body)
        if self._options.device.type == "cpu":
            use_fast_dropout(model)
        if self._settings.compile:
            model.compile(dynamic=True)
        return model

    def _train(self, report: Callable[[Progress], None]) -> TrainingOutcome:
        request = self._request
        saved = self._work_dir / "checkpoint.safetensors"
        return train(
            self._model,
            self._data.train,
            request.hyperparameters,
            self._options,
            self._seed,
            report,
            Checkpointing(
                start=request.checkpoint,
                path=saved,
                should_stop=request.should_stop,
                interval_seconds=self._settings.checkpoint_seconds,
                keep=request.keep,
            ),
            None if self._data.development is None else self._score,
        )

    def _score(self, passes: Passes) -> float:
        """Score of the development split, by the task's metric."""
        development = self._data.development
        assert development is not None  # noqa: S101 - it is only asked for if there is one
        return score(passes.predict(development), development.labels, self._metric)

    def _metrics(self, outcome: TrainingOutcome) -> dict[str, float]:
        metrics = {
            "train_loss": outcome.loss,
            "num_steps": float(outcome.num_steps_done),
            "stopped_early": float(outcome.num_steps_done < outcome.num_steps),
        }
        if outcome.score is not None:
            metrics[f"validation_{self._metric}"] = outcome.score
        return metrics

    def _save_shared(self) -> tuple[Path, ContributionForm, Path | None]:
        """Write the shared parameters: the file, what it is, and what quantising cut off."""
        request, body = self._request, self._model.body
        shared = self._work_dir / "shared.safetensors"
        if request.hyperparameters.adapter is not None:
            if request.form == "auto":
                save_factors(body, request.base_dir, shared)
                return shared, "low_rank", None
            merge_adapters(body)
        parameters = body.state_dict()
        if request.dtype != "quantised":
            form: Literal["delta", "full"] = "full" if request.form == "full" else "delta"
            save_shared(parameters, request.base_dir, form, shared, dtype=request.dtype)
            return shared, form, None
        last, residual = request.last_residual, self._work_dir / "residual"
        kept = residual if request.keeps_residual else None
        save_quantised(parameters, request.base_dir, shared, last_residual=last, residual=kept)
        return shared, "quantised", kept


def _seed(request: FinetuneRequest) -> int:
    """One seed from the submission's, the dataset and the turn, so that turns differ."""
    text = f"{request.hyperparameters.seed}/{request.dataset.dataset_id}/{request.turn}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
