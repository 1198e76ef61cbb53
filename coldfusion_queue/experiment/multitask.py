"""The multitask baseline: one body, a head for each dataset, all data in one place.

The paper's own multitask model is trained once on all seen datasets; which batches go together and
for how long, it does not say. Here each batch is of one dataset and the batches of all are mixed at
random (Liu et al. 2019, MT-DNN, algorithm 1), and of each dataset as many examples are trained on
as its contributions of arm ``cold`` with the same seed train on together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from coldfusion_queue.experiment.design import Design
from coldfusion_queue.experiment.handing_in import hand_in
from coldfusion_queue.experiment.lab import Lab
from coldfusion_queue.experiment.schedule import plan, seed_of
from coldfusion_queue.finetune.adapters import add_adapters, merge_adapters
from coldfusion_queue.finetune.attention import use_fast_attention
from coldfusion_queue.finetune.batches import shuffled_batches
from coldfusion_queue.finetune.data import FinetuneData, Splits, load_data
from coldfusion_queue.finetune.device import free_memory, pick_device
from coldfusion_queue.finetune.dropout import use_fast_dropout
from coldfusion_queue.finetune.files import save_shared
from coldfusion_queue.finetune.model import SequenceModel, load_body
from coldfusion_queue.finetune.optimizer import make_optimizer, make_schedule
from coldfusion_queue.finetune.passes import Passes
from coldfusion_queue.finetune.training import FinetuneInterrupted
from coldfusion_queue.records import Hyperparameters
from coldfusion_queue.repository.repository import Repository

__all__ = ["batches_of", "contribute_multitask", "examples_of"]


def contribute_multitask(
    lab: Lab,
    repository: Repository,
    design: Design,
    seed: int,
    submission_id: str,
    directory: Path,
) -> None:
    """Train the multitask model and contribute its body to version 0, in full.

    Deterministic on the CPU: what was broken off is trained anew, to the same end.

    Args:
        lab: where; its settings say on which device.
        repository: to contribute to.
        design: of the arm that it is a baseline of.
        seed: of the experiment.
        submission_id: of the contribution.
        directory: an empty one.
    """
    base, shared = repository.ledger.base_version(0), directory / "shared.safetensors"
    with lab.base_dir(repository, 0) as base_dir, ExitStack() as opened:
        training = _Training(lab, design, seed, base_dir, opened)
        training.run()
        save_shared(training.body.state_dict(), base_dir, "full", shared)
    hand_in(repository, base, "multitask", submission_id, shared, "full")


def examples_of(
    design: Design, seed: int, sizes: dict[str, int], hyperparameters: Hyperparameters
) -> dict[str, int]:
    """Examples that the contributions of each dataset train on together, repeats counted.

    Args:
        design: of the arm.
        seed: of the experiment.
        sizes: examples of each training split, without what is cut off for development.
        hyperparameters: of the contributions.
    """
    turns = Counter(turn.contributor for fusion in plan(design, seed) for turn in fusion.turns)
    limit = hyperparameters.max_examples
    return {
        name: turns[name] * hyperparameters.epochs * (size if limit is None else min(size, limit))
        for name, size in sizes.items()
    }


def batches_of(
    data: dict[str, FinetuneData], counts: dict[str, int], batch_size: int, seed: int
) -> list[tuple[str, Sequence[int]]]:
    """All batches in the order in which they are trained on: a dataset's name, and its examples.

    Args:
        data: of each dataset.
        counts: examples of each to train on; beyond one pass it is gone through again.
        batch_size: examples of a batch.
        seed: of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    batches: list[tuple[str, Sequence[int]]] = []
    for name, count in counts.items():
        left = count
        while left > 0:
            for batch in shuffled_batches(data[name].train.lengths, batch_size, generator):
                if left <= 0:
                    break
                batches.append((name, batch[:left]))
                left -= len(batch)
    order = torch.randperm(len(batches), generator=generator).tolist()
    return [batches[index] for index in order]


class _Training:
    """Body, heads and data on their device."""

    def __init__(
        self, lab: Lab, design: Design, seed: int, base_dir: Path, opened: ExitStack
    ) -> None:
        settings = lab.settings
        if settings.torch_threads is not None:
            torch.set_num_threads(settings.torch_threads)
        self._tell, self._closing = lab.tell, lab.closing
        self._hyperparameters = design.hyperparameters
        self._device = pick_device(settings.device)
        own_seed = seed_of("multitask", seed)
        torch.manual_seed(own_seed)
        self.body = load_body(base_dir)
        if self._hyperparameters.freeze_embeddings:
            self.body.get_input_embeddings().requires_grad_(False)  # type: ignore[operator]
        if self._hyperparameters.adapter is not None:
            add_adapters(self.body, self._hyperparameters)
        use_fast_attention(self.body)
        self._models, self._data = {}, {}
        for name in design.seen:
            dataset = lab.datasets[name]
            files = {split: item.path for split, item in dataset.splits.items()}
            splits = Splits(dataset.record(), files, lab.cache)
            self._data[name] = load_data(
                splits, base_dir, self.body, self._whole(), own_seed, opened
            )
            self._models[name] = self._model(len(dataset.labels) or 1)
        sizes = {name: len(each.train) for name, each in self._data.items()}
        counts = examples_of(design, seed, sizes, self._hyperparameters)
        self._batches = batches_of(self._data, counts, self._hyperparameters.batch_size, own_seed)
        self._passes = {
            name: Passes(model, self._device, settings.precision, settings.micro_batch_tokens)
            for name, model in self._models.items()
        }

    def run(self) -> None:
        """Train; the body is on the CPU afterwards, what was added to it merged in."""
        if not self._batches:  # nobody contributed
            return
        for model in self._models.values():
            model.to(self._device).train()
        optimizer = self._optimizer()
        num_steps = len(self._batches)
        schedule = make_schedule(optimizer, self._hyperparameters, num_steps, 0)
        for step, (name, indices) in enumerate(self._batches):
            if self._closing.is_set():
                raise FinetuneInterrupted(None, step, num_steps)
            model = self._models[name]
            self._passes[name].gradients(self._data[name].train, indices)
            nn.utils.clip_grad_norm_(model.parameters(), self._hyperparameters.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            if step % max(1, num_steps // 10) == 0:
                self._tell(f"multitask: step {step} of {num_steps}")
        self.body.to("cpu")
        free_memory(self._device)
        if self._hyperparameters.adapter is not None:
            merge_adapters(self.body)

    def _whole(self) -> Hyperparameters:
        """All of the training split, but what is cut off for development, as in a turn."""
        return self._hyperparameters.model_copy(update={"max_examples": None})

    def _model(self, num_outputs: int) -> SequenceModel:
        chosen = self._hyperparameters
        model = SequenceModel(self.body, num_outputs, chosen.pooling, chosen.dropout)
        if self._device.type == "cpu":
            use_fast_dropout(model)
        return model

    def _optimizer(self) -> torch.optim.AdamW:
        """Of the body and all heads, with the rates of a turn."""
        models = list(self._models.values())
        optimizer = make_optimizer(models[0], self._hyperparameters, self._device)
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for model in models[1:]:
            for group in make_optimizer(model, self._hyperparameters, self._device).param_groups:
                new = [p for p in group["params"] if id(p) not in known]
                if new:
                    rates = {key: group[key] for key in ("lr", "weight_decay")}
                    optimizer.add_param_group({"params": new, **rates})
        return optimizer
