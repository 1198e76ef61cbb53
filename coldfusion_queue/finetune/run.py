"""One finetune from files to files."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import torch

from coldfusion_queue.finetune.adapters import add_adapters
from coldfusion_queue.finetune.attention import use_fast_attention
from coldfusion_queue.finetune.data import FinetuneData, Splits, load_data
from coldfusion_queue.finetune.device import free_memory, pick_device
from coldfusion_queue.finetune.dropout import use_fast_dropout
from coldfusion_queue.finetune.embedding import shrink_embedding
from coldfusion_queue.finetune.environment import describe_environment
from coldfusion_queue.finetune.files import load_head, save_head
from coldfusion_queue.finetune.forms import save_in_form
from coldfusion_queue.finetune.model import SequenceModel, load_body
from coldfusion_queue.finetune.optimizer import shrinkage
from coldfusion_queue.finetune.passes import Passes
from coldfusion_queue.finetune.progress import Progress
from coldfusion_queue.finetune.request import FinetuneRequest, FinetuneResult, Predictions
from coldfusion_queue.finetune.saving import IntervalSaver
from coldfusion_queue.finetune.scoring import score
from coldfusion_queue.finetune.torch_errors import explained
from coldfusion_queue.finetune.training import (
    Checkpointing,
    TrainingOptions,
    TrainingOutcome,
    train,
)
from coldfusion_queue.settings import Settings

__all__ = ["PreparedFinetune", "finetune", "prepare"]

log = logging.getLogger(__name__)


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
        FinetuneInterrupted: it was told to stop; its state is in ``work_dir``, if there is
            anybody to keep it.
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
    except RuntimeError as error:
        ours = explained(error, options.device, is_private=request.is_private)
        if ours is None:
            raise
        raise ours from error


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
            request.scored,
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
        seconds = self._settings.checkpoint_seconds
        # A checkpoint that is on its way when the training ends does not keep the device.
        with closing(IntervalSaver(seconds, self._work_dir, self._request.keep)) as saver:
            outcome = self._train_on_device(report, saver)
            leave_device()
            return self._save(outcome)

    def measure(self, report: Callable[[Progress], None]) -> Predictions:
        """Train, and predict what is to be scored; once, and nothing is written.

        Args:
            report: see ``training.train``.
        """
        scored = self._data.scored
        assert scored is not None  # noqa: S101 - the request asked for it
        with closing(IntervalSaver(None, self._work_dir, None)) as saver:
            self._train_on_device(report, saver)
        device, options = self._options.device, self._options
        self._model.to(device)
        passes = Passes(self._model, device, options.precision, options.token_budget)
        outputs = passes.predict(scored)
        self._model.to("cpu")
        free_memory(device)
        environment = describe_environment(device, options.precision)
        num_train = len(self._data.train)
        return Predictions(outputs, scored.labels, self._metric, num_train, environment)

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

    def _train_on_device(
        self, report: Callable[[Progress], None], saver: IntervalSaver
    ) -> TrainingOutcome:
        """Train; the device holds nothing of it afterwards."""
        self._model.to(self._options.device)
        whole = shrink_embedding(self._model.body, self._data.token_ids())
        outcome = self._train(report, saver)
        if whole is not None:
            steps = outcome.num_steps, outcome.num_steps_done
            whole.restore(shrinkage(self._request.hyperparameters, *steps))
        self._model.to("cpu")
        del whole
        free_memory(self._options.device)
        return outcome

    def _train(self, report: Callable[[Progress], None], saver: IntervalSaver) -> TrainingOutcome:
        request = self._request
        # Without anybody to keep it, as of private data, the state is not written at all.
        saved = None if request.keep is None else self._work_dir / "checkpoint.safetensors"
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
                saver=saver,
            ),
            None if self._data.development is None else self._score,
        )

    def _save(self, outcome: TrainingOutcome) -> FinetuneResult:
        """Write the parameters and gather the figures."""
        head = self._work_dir / "head.safetensors"
        scale = None if self._request.is_private else self._data.scale
        save_head(self._model, self._request.dataset.labels, scale, head)
        shared, form, residual = save_in_form(self._model.body, self._request, self._work_dir)
        environment = describe_environment(self._options.device, self._options.precision)
        metrics, was_taken = self._metrics(outcome), self._head_was_taken
        return FinetuneResult(shared, form, residual, head, metrics, environment, was_taken)

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


def _seed(request: FinetuneRequest) -> int:
    """One seed from the submission's, the dataset and the turn, so that turns differ."""
    text = f"{request.hyperparameters.seed}/{request.dataset.dataset_id}/{request.turn}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
