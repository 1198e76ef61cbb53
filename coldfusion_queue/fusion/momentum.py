"""Momentum: the model goes on beyond what was fused, and its state is kept in a file beside it.

::

    phi_{t+1}   = theta_t + u
    theta_{t+1} = phi_{t+1} + mu * (phi_{t+1} - phi_t)

u is the combined delta. The state is phi, the model without the last term, which has exactly the
base model's layout; where there is none, phi_t is theta_t. With u = eta * d that is SGD with
Nesterov momentum as PyTorch has it, of the gradient -d: phi_{t+1} - phi_t is eta times its buffer.

Source: Sutskever et al. 2013, On the importance of initialization and momentum in deep learning,
ICML; as an outer optimizer: Douillard et al. 2023, DiLoCo, arXiv:2311.08105.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from coldfusion_queue.errors import InvalidTensorFileError, UsageError
from coldfusion_queue.fusion.dtypes import Floats
from coldfusion_queue.fusion.layout import ByteSource
from coldfusion_queue.fusion.model_reader import ModelReader
from coldfusion_queue.fusion.reader import Reader, SourceReader

__all__ = ["FusionState", "Momentum", "open_momentum"]


@dataclass(frozen=True)
class FusionState:
    """Where the state of a fusion with momentum comes from, and where the next one goes.

    Each of the base model's files has one of its own.
    """

    write: Callable[[bytes], object]
    """Takes the bytes of the next state's file, in order, each part as soon as it is made."""
    source: ByteSource | None = None
    """The state that the base model's fusion wrote; None where there is none."""
    digest: str | None = None
    """sha256 of that file, lower-case hex; None checks nothing."""


@dataclass(frozen=True)
class Momentum:
    """How a model goes on, with the state's files open."""

    decay: float
    """mu."""
    reader: Reader
    """Of phi_t; the base model's own where there is no state."""
    write: Callable[[bytes], object]
    """Of phi_{t+1}."""

    def go_on(self, model: Floats, before: Floats) -> None:
        """Take phi_{t+1} to theta_{t+1}, in its place.

        Args:
            model: phi_{t+1}, shape (n,), before it was rounded to the base model's dtype.
            before: phi_t, the same shape and dtype; not written to.
        """
        ahead = np.subtract(model, before)
        ahead *= self.decay
        model += ahead


def open_momentum(
    decay: float | None, state: FusionState | None, base: ModelReader, file: int
) -> Momentum | None:
    """Open the state of one of a fusion's files, if its method has one.

    Args:
        decay: ``Method.decay``.
        state: where the state is, for a method with a decay.
        base: reader of the base model.
        file: which of its files the state is of.

    Raises:
        UsageError: a state for a method without one, or the other way round.
        InvalidTensorFileError: the state is no safetensors file, or none of this base model.
    """
    if decay is None or state is None:
        if decay is not None or state is not None:
            got = "none" if state is None else "one"
            raise UsageError("state of a fusion", got, "one for methods with momentum alone")
        return None
    if state.source is None:
        return Momentum(decay, base, state.write)
    reader = SourceReader.open(state.source, state.digest, None)
    if reader.layout.header != base.headers[file]:
        raise InvalidTensorFileError(reader.name, "its header is not the base model's")
    reader.forget_header()
    return Momentum(decay, reader, state.write)
