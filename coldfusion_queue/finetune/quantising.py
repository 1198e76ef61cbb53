"""Writes a quantised delta, and what quantising cut off of it, which the next turn adds to its own.

::

    x_t     = delta_t + residual_{t-1}
    sent_t  = quantise(x_t)
    residual_t = x_t - sent_t

so that what is sent over several turns adds up to the sum of the deltas but for the last residual:
error feedback. Source: Karimireddy et al. 2019, arXiv:1901.09847.

A residual's file holds the numbers as bfloat16, then their sha256. A delta's last places are not
worth more: what rounding takes from the residual is 0.2 % of what quantising took from the delta.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from coldfusion_queue.errors import DigestMismatchError
from coldfusion_queue.finetune.files import open_base, shared_tensors
from coldfusion_queue.fusion.dtypes import decode, encode
from coldfusion_queue.fusion.quantised import (
    GROUP_ELEMENTS,
    Float32s,
    blocks_of,
    decode_elements,
    encode_groups,
)
from coldfusion_queue.fusion.quantised_file import quantised_header

__all__ = ["save_quantised"]

log = logging.getLogger(__name__)

#: Elements that are worked on at a time: whole groups, and few enough for the CPU's caches.
_BLOCK_ELEMENTS = 512 * GROUP_ELEMENTS

_DIGEST_BYTES = 32


def save_quantised(
    parameters: Mapping[str, Tensor],
    base_dir: Path,
    path: Path,
    *,
    last_residual: Path | None = None,
    residual: Path | None = None,
) -> None:
    """Write finetuned minus base, quantised, as ``fusion.quantised_file`` describes.

    Args:
        parameters: the body's state dict after training.
        base_dir: the base version's directory, to subtract.
        path: file to write.
        last_residual: what the turn before could not send; None adds nothing. One that is damaged,
            or of another model, is logged and passed over.
        residual: file to write what this turn could not send to; None writes none.

    Raises:
        IncompatibleModelError: the state dict does not have the base's names or shapes.
        TrainingFailedError: a parameter is NaN or infinite.

    Cost: memory for one tensor and a few blocks beside the parameters.
    """
    num_elements = _num_floats(base_dir)
    deltas = (
        each.value.numpy()
        for each in shared_tensors(parameters, base_dir, "delta")
        if each.before.is_floating_point()
    )
    with (
        path.open("wb") as file,
        _opened(last_residual, num_elements) as last,
        _writer(residual) as rest,
    ):
        file.write(quantised_header(num_elements))
        for block in blocks_of(deltas, _BLOCK_ELEMENTS):
            if last is not None:
                block += decode(last.read(2 * block.size), "BF16", 0, block.size)
            groups = encode_groups(block).tobytes()
            file.write(groups)
            block -= decode_elements(groups, 0, 0, block.size)
            rest.write(block)


def _num_floats(base_dir: Path) -> int:
    with open_base(base_dir) as base:
        tensors = (base[name] for name in base.names)
        return sum(each.numel() for each in tensors if each.is_floating_point())


@contextmanager
def _opened(path: Path | None, num_elements: int) -> Iterator[BinaryIO | None]:
    """A residual's file after it was found whole, or None."""
    if path is None:
        yield None
        return
    with path.open("rb") as file:
        try:
            _verify(path, file, 2 * num_elements)
        except DigestMismatchError as error:
            log.warning("residual passed over: %s", error, extra={"event": "residual_unusable"})
            yield None
            return
        file.seek(0)
        yield file


def _verify(path: Path, file: BinaryIO, num_bytes: int) -> None:
    size = path.stat().st_size - _DIGEST_BYTES
    if size != num_bytes:
        raise DigestMismatchError(str(path), f"{size} bytes", f"{num_bytes} bytes")
    digest = hashlib.sha256()
    for start in range(0, num_bytes, 2 * _BLOCK_ELEMENTS):
        digest.update(file.read(min(2 * _BLOCK_ELEMENTS, num_bytes - start)))
    expected = file.read()
    if digest.digest() != expected:
        raise DigestMismatchError(str(path), digest.hexdigest(), expected.hex())


class _Writer:
    """Writes a residual block by block; its digest comes last."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, values: Float32s) -> None:
        if self._file is not None:
            data = encode(values, "BF16")
            self._digest.update(data)
            self._file.write(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.write(self._digest.digest())


@contextmanager
def _writer(path: Path | None) -> Iterator[_Writer]:
    opened: AbstractContextManager[BinaryIO | None] = path.open("wb") if path else nullcontext()
    with opened as file:
        writer = _Writer(file)
        yield writer
        writer.close()
