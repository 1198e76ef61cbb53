"""How fast is the finetune loop beside ``transformers.Trainer``?

Both train the same model from the same parameters on the same texts with the same hyperparameters:
the paper's recipe, in bfloat16. The Trainer has the best settings that it comes with: bfloat16,
fused AdamW, padding to the longest of a batch, batches of like length, SDPA. They take turns, seed
by seed, so that a noisy machine troubles both. What counts is the time of the training itself;
tokenising and loading are done before.

    speedup                    examples per second, ours over theirs: median over the seeds
    accuracy, accuracy_stock   mean over the seeds, on the test split, in percent
    accuracy_noise             standard error of the difference of those means, over the seeds
    mfu, mfu_stock             model FLOP utilisation: FLOPs that the tokens need (Kaplan et al.
                               2020, section 2.1, with 3 passes' worth for forward and backward;
                               padding and casts do not count) over the peak of ``peak``
    checkpoints                with ``--checkpoint-seconds``: how many ours made, all seeds; each is
                               copied to the host and written to a disk, beside the training
    checkpoint_share           of our time, for which the training stood still for them
    checkpoint_slowdown        our time with them over that without: median over the seeds

    python -m benchmarks.finetune [--shape roberta-base]
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.reporting import print_report
from coldfusion_queue.demo.recipe import data_dir, pretrained_dir
from coldfusion_queue.finetune.attention import use_fast_attention
from coldfusion_queue.finetune.checkpoint import TrainingState
from coldfusion_queue.finetune.device import autocast, pick_device
from coldfusion_queue.finetune.dropout import use_fast_dropout
from coldfusion_queue.finetune.embedding import shrink_embedding
from coldfusion_queue.finetune.model import SequenceModel, load_body, load_tokenizer
from coldfusion_queue.finetune.optimizer import shrinkage
from coldfusion_queue.finetune.passes import Passes
from coldfusion_queue.finetune.saving import IntervalSaver
from coldfusion_queue.finetune.scoring import score
from coldfusion_queue.finetune.tokens import TokenizedExamples, tokenize
from coldfusion_queue.finetune.training import Checkpointing, TrainingOptions, train
from coldfusion_queue.intake.examples import load_examples
from coldfusion_queue.intake.prepare import prepare_dataset
from coldfusion_queue.records import Hyperparameters

#: Dense bfloat16 FLOPs per second, from the data sheets; others are measured.
_PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}

_PEAK_SIZE = 2048

#: Parts of our loop that can be left out; ``pieces`` are a CPU's small ones.
_PARTS = ("attention", "dropout", "embedding", "pieces")


@dataclass(frozen=True)
class Setup:
    """What both loops share."""

    base_dir: Path
    shape: str
    train: TokenizedExamples
    test: TokenizedExamples
    tokenizer: Any
    recipe: Hyperparameters
    device: torch.device
    num_labels: int
    stock_order: str
    """The Trainer's ``train_sampling_strategy``."""
    left_out: Sequence[str]
    """Parts of our loop that are not used, to see what they are worth."""
    compiled: bool
    """Whether ours is compiled, each time anew, as ``COLDFUSION_COMPILE`` does."""
    checkpoint_seconds: float | None
    """From one of our checkpoints to the next; None makes none."""

    def model(self, seed: int) -> SequenceModel:
        """The same parameters for the same seed."""
        torch.manual_seed(seed)
        body = load_body(self.base_dir) if self.shape == "pretrained" else random_body(self.shape)
        return SequenceModel(body, self.num_labels, "mean", self.recipe.dropout).to(self.device)

    def accuracy(self, model: SequenceModel) -> float:
        """On the test split, in percent."""
        outputs = Passes(model, self.device, "bfloat16", None).predict(self.test)
        return 100 * score(outputs, self.test.labels, "accuracy")


@dataclass(frozen=True)
class Run:
    """One training."""

    seconds: float
    accuracy: float
    num_checkpoints: int = 0
    checkpoint_seconds: float = 0.0
    """For which the training stood still."""


class TimedSaver(IntervalSaver):
    """Makes checkpoints, to be thrown away, and counts them and the time that they take."""

    def __init__(self, interval_seconds: float | None, directory: Path) -> None:
        super().__init__(interval_seconds, directory, lambda *_: None)
        self.number = 0
        self.seconds = 0.0

    def save(self, state: TrainingState) -> None:
        """See ``IntervalSaver``."""
        started = time.perf_counter()
        super().save(state)
        self.seconds += time.perf_counter() - started
        self.number += 1


def random_body(shape: str) -> nn.Module:
    """A body of a known shape with random parameters; the figures of speed do not need others."""
    from transformers import AutoModel, RobertaConfig

    assert shape == "roberta-base"
    config = RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1)
    body: nn.Module = AutoModel.from_config(config)
    return body


def run_ours(setup: Setup, seed: int, work_dir: Path) -> Run:
    model = setup.model(seed)
    left_out = setup.left_out
    if "attention" not in left_out:
        use_fast_attention(model.body)
    if "dropout" not in left_out and setup.device.type == "cpu":
        use_fast_dropout(model)
    whole = None
    if "embedding" not in left_out:
        whole = shrink_embedding(model.body, setup.train.token_ids())
    budget = 16_384 if "pieces" in left_out else None
    options = TrainingOptions(setup.device, "bfloat16", token_budget=budget)
    if setup.compiled:
        model.compile(dynamic=True)
    with closing(TimedSaver(setup.checkpoint_seconds, work_dir)) as saver:
        checkpointing = Checkpointing(None, None, lambda: False, saver)
        parts = (model, setup.train, setup.recipe, options, seed, lambda _: None, checkpointing)
        seconds = timed(setup.device, lambda: train(*parts))
    if whole is not None:  # the test split has other tokens
        whole.restore(shrinkage(setup.recipe, num_steps(setup), num_steps(setup)))
    return Run(seconds, setup.accuracy(model), saver.number, saver.seconds)


class Stock(nn.Module):
    """The same model as the Trainer wants it."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, labels: torch.Tensor, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the Trainer calls; it looks for columns by the names of these arguments."""
        outputs = self.model(batch)
        return {"loss": nn.functional.cross_entropy(outputs, labels), "logits": outputs}


def run_stock(setup: Setup, seed: int, work_dir: Path) -> Run:
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    model = setup.model(seed)
    recipe = setup.recipe
    arguments = TrainingArguments(
        str(work_dir),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        warmup_steps=int(recipe.warmup_fraction * num_steps(setup)),
        max_grad_norm=recipe.max_grad_norm,
        lr_scheduler_type="linear",
        bf16=True,
        use_cpu=setup.device.type == "cpu",
        train_sampling_strategy=setup.stock_order,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = Trainer(
        Stock(model),
        arguments,
        train_dataset=as_dataset(setup.train),
        data_collator=DataCollatorWithPadding(setup.tokenizer),
    )
    with redirect_stdout(sys.stderr):  # it prints a summary
        seconds = timed(setup.device, trainer.train)
    return Run(seconds, setup.accuracy(model))


def num_steps(setup: Setup) -> int:
    return math.ceil(len(setup.train) / setup.recipe.batch_size) * setup.recipe.epochs


def as_dataset(data: TokenizedExamples) -> Any:
    import datasets

    rows = []
    for index in range(len(data)):
        batch = data.batch([index])
        row = {name: value[0].tolist() for name, value in batch.items()}
        rows.append({**row, "label": int(data.labels[index])})
    return datasets.Dataset.from_list(rows)


def timed(device: torch.device, act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def flops(setup: Setup) -> float:
    """FLOPs that one training needs: 2 for each weight and token, and the products of attention."""
    body = setup.model(0).body
    config: Any = body.config
    weights = sum(
        item.weight.numel() for item in body.modules() if isinstance(item, nn.Linear)
    ) - _pooler_weights(body)
    lengths = setup.train.lengths.astype(float)
    attention = 4 * config.num_hidden_layers * config.hidden_size * (lengths**2).sum()
    return float(3 * setup.recipe.epochs * (2 * weights * lengths.sum() + attention))


def _pooler_weights(body: nn.Module) -> int:
    """Weights of the linear layers outside of the encoder's blocks, which nothing reads."""
    pooler = getattr(body, "pooler", None)
    return (
        0 if pooler is None else sum(item.numel() for item in pooler.parameters() if item.dim() > 1)
    )


def peak(device: torch.device) -> tuple[float, str]:
    """FLOPs per second at most, and where the number is from."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, value in _PEAKS.items():
            if known in name:
                return value, f"data sheet of {known}"
    left, right = (torch.randn(_PEAK_SIZE, _PEAK_SIZE, device=device) for _ in range(2))
    best = math.inf
    for _ in range(10):
        with autocast(device, "bfloat16"):
            best = min(best, timed(device, lambda: left.bfloat16() @ right.bfloat16()))
    return 2 * _PEAK_SIZE**3 / best, f"bfloat16 product of {_PEAK_SIZE} x {_PEAK_SIZE} matrices"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Our finetune loop beside transformers.Trainer.")
    parser.add_argument("--data", type=Path, help="folder with train.jsonl and test.jsonl")
    parser.add_argument("--shape", default="pretrained", choices=("pretrained", "roberta-base"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--examples", type=int, help="of the training split; all by default")
    parser.add_argument(
        "--stock-order", default="group_by_length", choices=("group_by_length", "random")
    )
    parser.add_argument("--leave-out", nargs="+", default=[], choices=_PARTS)
    parser.add_argument("--compile", action="store_true", help="ours alone, with torch.compile")
    parser.add_argument("--checkpoint-seconds", type=float, help="what do checkpoints cost ours?")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.epochs, options.examples = 1, 1, 64
    with tempfile.TemporaryDirectory(prefix="coldfusion-bench-") as work_dir:
        report(options, Path(work_dir))


def prepared_setup(options: argparse.Namespace, work_dir: Path) -> Setup:
    source = options.data or data_dir() / "debian_section"
    prepared = prepare_dataset(str(source), work_dir=work_dir)
    base_dir = pretrained_dir()
    tokenizer = load_tokenizer(base_dir, load_body(base_dir))
    splits = [
        tokenize(load_examples(prepared.splits[name].path), tokenizer, 128)
        for name in ("train", "test")
    ]
    if options.quick:
        splits[1] = splits[1].subset(np.arange(64))
    recipe = Hyperparameters(epochs=options.epochs, batch_size=options.batch_size)
    train_split = (
        splits[0]
        if options.examples is None
        else splits[0].subset(torch.arange(min(options.examples, len(splits[0]))).numpy())
    )
    return Setup(
        base_dir,
        options.shape,
        train_split,
        splits[1],
        tokenizer,
        recipe,
        pick_device(options.device),
        len(prepared.labels),
        options.stock_order,
        options.leave_out,
        options.compile,
        None,
    )


def take_turns(setup: Setup, seeds: int, work_dir: Path) -> tuple[list[Run], list[Run]]:
    """Both loops, seed by seed; once before with little, so that neither pays for what is first."""
    little = replace(setup, train=setup.train.subset(np.arange(min(64, len(setup.train)))))
    run_stock(little, 0, work_dir)
    run_ours(little, 0, work_dir)
    ours: list[Run] = []
    stock: list[Run] = []
    for seed in range(seeds):
        ours.append(run_ours(setup, seed, work_dir))
        stock.append(run_stock(setup, seed, work_dir))
        print(f"seed {seed}: {ours[-1]}, stock {stock[-1]}", file=sys.stderr)
    return ours, stock


def report(options: argparse.Namespace, work_dir: Path) -> None:
    setup = prepared_setup(options, work_dir)
    ours, stock = take_turns(setup, options.seeds, work_dir)
    examples = len(setup.train) * setup.recipe.epochs
    speed, stock_speed = (
        statistics.median(examples / run.seconds for run in runs) for runs in (ours, stock)
    )
    limit, source = peak(setup.device)
    needed = flops(setup) / examples
    print_report(
        "finetune",
        ("torch", "transformers", "accelerate"),
        device=str(setup.device) if setup.device.type == "cpu" else torch.cuda.get_device_name(),
        shape=options.shape,
        examples=examples,
        tokens_mean=round(float(setup.train.lengths.mean()), 1),
        batch_size=setup.recipe.batch_size,
        seeds=options.seeds,
        stock_order=options.stock_order,
        left_out=options.leave_out,
        compiled=options.compile,
        speedup=round(
            statistics.median(
                theirs.seconds / mine.seconds for mine, theirs in zip(ours, stock, strict=True)
            ),
            3,
        ),
        examples_per_second=round(speed, 1),
        examples_per_second_stock=round(stock_speed, 1),
        **accuracies(ours, stock),
        mfu=round(speed * needed / limit, 3),
        mfu_stock=round(stock_speed * needed / limit, 3),
        peak=source,
        **checkpoint_figures(setup, options, ours, work_dir),
    )


def checkpoint_figures(
    setup: Setup, options: argparse.Namespace, without: Sequence[Run], work_dir: Path
) -> dict[str, float]:
    """What they cost, beside the trainings without them; nothing if that is not asked for."""
    if options.checkpoint_seconds is None:
        return {}
    setup = replace(setup, checkpoint_seconds=options.checkpoint_seconds)
    runs = [run_ours(setup, seed, work_dir) for seed in range(options.seeds)]
    slowdowns = [each.seconds / other.seconds for each, other in zip(runs, without, strict=True)]
    share = sum(run.checkpoint_seconds for run in runs) / sum(run.seconds for run in runs)
    return {
        "checkpoint_seconds": options.checkpoint_seconds,
        "checkpoints": sum(run.num_checkpoints for run in runs),
        "checkpoint_share": round(share, 4),
        "checkpoint_slowdown": round(statistics.median(slowdowns), 3),
    }


def accuracies(ours: Sequence[Run], stock: Sequence[Run]) -> dict[str, float | None]:
    gaps = [mine.accuracy - theirs.accuracy for mine, theirs in zip(ours, stock, strict=True)]
    noise = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else None
    return {
        "accuracy": round(statistics.mean(run.accuracy for run in ours), 2),
        "accuracy_stock": round(statistics.mean(run.accuracy for run in stock), 2),
        "accuracy_noise": None if noise is None else round(noise, 2),
    }


if __name__ == "__main__":
    main()
