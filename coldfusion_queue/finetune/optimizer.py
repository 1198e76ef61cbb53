"""The paper's optimizer: AdamW, whose learning rate rises for a few steps and falls linearly."""

from __future__ import annotations

import torch

from coldfusion_queue.finetune.model import SequenceModel
from coldfusion_queue.records import Hyperparameters

__all__ = ["make_optimizer", "make_schedule", "rate_factor", "shrinkage"]


def make_optimizer(
    model: SequenceModel, hyperparameters: Hyperparameters, device: torch.device
) -> torch.optim.AdamW:
    """AdamW over what is trainable; as usual for transformers, biases and norms do not decay.

    Source: Loshchilov and Hutter 2019, algorithm 2; Don-Yehiya et al. 2023, appendix B.
    """
    rate, decay = hyperparameters.learning_rate, hyperparameters.weight_decay
    groups = [
        {"params": list(chosen), "lr": rate * factor, "weight_decay": decay if matrices else 0.0}
        for part, factor in (
            (model.body, hyperparameters.body_learning_rate_factor),
            (model.head, hyperparameters.head_learning_rate_factor),
        )
        for matrices in (True, False)
        if (
            chosen := [
                p for p in part.parameters() if p.requires_grad and (p.dim() > 1) == matrices
            ]
        )
    ]
    # The fused kernel exists for these; it takes a third off a step on a CPU.
    fused = device.type in {"cuda", "cpu"}
    return torch.optim.AdamW(groups, lr=rate, fused=fused)


def rate_factor(hyperparameters: Hyperparameters, num_steps: int, step: int) -> float:
    """Learning rate of the step after ``step`` steps, as a share of the peak."""
    warmup = int(num_steps * hyperparameters.warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (num_steps - step) / max(1, num_steps - warmup))


def make_schedule(
    optimizer: torch.optim.Optimizer, hyperparameters: Hyperparameters, num_steps: int, step: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule of the learning rate, with ``step`` steps done."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda at: rate_factor(hyperparameters, num_steps, at), last_epoch=step - 1
    )


def shrinkage(hyperparameters: Hyperparameters, num_steps: int, steps: int) -> float:
    """What the first steps multiply a matrix of the body with that never has a gradient.

    The product of 1 - learning rate * weight decay: AdamW's decoupled decay, all that it does then.
    """
    product = 1.0
    for step in range(steps):
        rate = hyperparameters.learning_rate * rate_factor(hyperparameters, num_steps, step)
        product *= 1.0 - rate * hyperparameters.weight_decay
    return product
