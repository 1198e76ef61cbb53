"""Forward and backward passes over batches, in pieces that fit into the device's memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coldfusion_queue.errors import TrainingFailedError
from coldfusion_queue.finetune.batches import micro_batches
from coldfusion_queue.finetune.device import autocast
from coldfusion_queue.finetune.model import SequenceModel
from coldfusion_queue.finetune.tokens import TokenizedExamples

__all__ = ["Passes", "default_token_budget"]

log = logging.getLogger(__name__)

_GPU_TOKENS = 16_384
_CPU_TOKENS = 4096


def default_token_budget(device: torch.device) -> int:
    """Tokens of one forward pass, padding included.

    RoBERTa-base trains within 8 GB with a GPU's; on a CPU more would fall out of its caches.
    """
    return _CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS


class Passes:
    """A model's passes; out of memory halves the pieces, and the training goes on.

    Args:
        model: on the device.
        device: where.
        precision: see ``device.autocast``.
        token_budget: tokens of one piece, padding included; None takes the device's default.
    """

    def __init__(
        self, model: SequenceModel, device: torch.device, precision: str, token_budget: int | None
    ) -> None:
        self._model = model
        self._device = device
        self._precision = precision
        self.token_budget = token_budget or default_token_budget(device)

    def gradients(self, data: TokenizedExamples, indices: Sequence[int]) -> Tensor:
        """Gradients of a batch's mean loss, accumulated over its pieces.

        Args:
            data: where the examples are.
            indices: which of them; the model holds no gradients yet.

        Returns:
            The mean loss, () float32, detached and on the device.

        Raises:
            TrainingFailedError: not even one example fits into memory.
        """
        while (loss := self._accumulate(data, indices)) is None:
            self._model.zero_grad(set_to_none=True)
            self._halve(data, indices)
        return loss

    @torch.inference_mode()
    def predict(self, data: TokenizedExamples) -> Tensor:
        """Outputs for all examples, in evaluation mode: (N, num_outputs) float32 on the CPU.

        Raises:
            TrainingFailedError: not even one example fits into memory.
        """
        was_training = self._model.training
        self._model.eval()
        while (outputs := self._outputs(data)) is None:
            self._halve(data, range(len(data)))
        self._model.train(was_training)
        return outputs

    def _accumulate(self, data: TokenizedExamples, indices: Sequence[int]) -> Tensor | None:
        """None if memory ran out; what was allocated is free again when this has returned."""
        total = torch.zeros((), device=self._device)
        try:
            # One context for all pieces: the parameters are cast to bfloat16 once.
            with autocast(self._device, self._precision):
                for piece in micro_batches(indices, data.lengths, self.token_budget):
                    total += self._backward(data, piece, len(indices))
        except torch.OutOfMemoryError:
            return None
        return total

    def _backward(self, data: TokenizedExamples, piece: list[int], batch_size: int) -> Tensor:
        outputs = self._model(self._moved(data.batch(piece)))
        targets = self._to_device(data.labels[piece])
        loss = _loss_sum(outputs, targets) / batch_size
        with torch.autocast(self._device.type, enabled=False):
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _outputs(self, data: TokenizedExamples) -> Tensor | None:
        outputs = torch.empty(len(data), self._model.head.out_features)
        try:
            with autocast(self._device, self._precision):
                for piece in micro_batches(range(len(data)), data.lengths, self.token_budget):
                    # Not by calling the model: were it compiled, it would be once more for this.
                    found = self._model.forward(self._moved(data.batch(piece)))
                    outputs[piece] = found.float().cpu()
        except torch.OutOfMemoryError:
            return None
        return outputs

    def _halve(self, data: TokenizedExamples, indices: Sequence[int]) -> None:
        longest = int(data.lengths[list(indices)].max())
        largest = min(self.token_budget, longest * len(indices))
        if largest <= longest:  # each example went alone
            raise TrainingFailedError(
                "this finetune",
                f"the device's memory does not hold one example of {longest} tokens",
                "ask for a smaller max_length, or use a device with more memory",
            )
        self.token_budget = max(longest, largest // 2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        extra = {"event": "micro_batch_halved", "tokens": self.token_budget}
        log.warning("out of memory: %d tokens a pass from now on", self.token_budget, extra=extra)

    def _moved(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._to_device(tensor) for name, tensor in batch.items()}

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self._device.type != "cuda":
            return tensor.to(self._device)
        # Only from pinned memory does the copy run beside what the device computes.
        return tensor.pin_memory().to(self._device, non_blocking=True)


def _loss_sum(outputs: Tensor, targets: Tensor) -> Tensor:
    if targets.dtype == torch.int64:
        return nn.functional.cross_entropy(outputs, targets, reduction="sum")
    return nn.functional.mse_loss(outputs.squeeze(-1), targets, reduction="sum")
